"""Layers of HyperDense-Net and HyperFusionNet: pre-activated convolutions, ResFuse modules and the head.

Tensors are (b *space channels), of a side per layer. What each stream reads is a sequence with one tensor per stream,
or with a single one where all streams read the same.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, NamedTuple

import flax.linen as nn
import jax
import jax.numpy as jnp
from jax.typing import DTypeLike

from jaxfuse.arrays import Array, Float, Logits
from jaxfuse.nn.channel_weights import PReLU, over_map
from jaxfuse.nn.conv import Conv, conv
from jaxfuse.nn.initializers import KernelInit
from jaxfuse.nn.moments import moments
from jaxfuse.nn.presence import with_gains

EPS = 1e-5
# The share of the old value that a running statistic keeps.
DECAY = 0.9
SLOPE = 0.25

Maps = Float[Array, "b *space f"]
PerStream = Sequence[Array]
# Of the channels that convolutions read; None leaves them what they are.
Gain = Float[Array, "b c"] | None


class Moments(NamedTuple):
    """Mean and biased variance of each channel."""

    mean: Float[Array, " f"]
    variance: Float[Array, " f"]


class BatchMoments(nn.Module):
    """Moments of this batch over its voxels if `train`, moving the running ones; else the running ones."""

    @nn.compact
    def __call__(self, x: Maps, *, train: bool) -> Moments:
        width = x.shape[-1:]
        mean = self.variable("batch_stats", "mean", jnp.zeros, width, jnp.float32)
        variance = self.variable("batch_stats", "variance", jnp.ones, width, jnp.float32)
        if not train:
            return Moments(mean.value, variance.value)
        found = Moments(*(one.reshape(width) for one in moments(x, range(x.ndim - 1), near=mean.value)))
        if not self.is_initializing():
            mean.value = DECAY * mean.value + (1.0 - DECAY) * found.mean
            variance.value = DECAY * variance.value + (1.0 - DECAY) * found.variance
        return found


class ConvBlock(nn.Module):
    """Normalization by given moments with learned scale and bias, PReLU, valid convolution of kernel 3.

    Without moments, as in the first layer, nothing is normalized.
    """

    features: int
    dtype: DTypeLike | None
    kernel_init: KernelInit

    @nn.compact
    def __call__(self, x: Maps, moments: Moments | None, read: Gain = None) -> Float[Array, "b *out k"]:
        if moments is not None:
            scale = self.param("scale", nn.initializers.ones_init(), x.shape[-1:], jnp.float32)
            bias = self.param("bias", nn.initializers.zeros_init(), x.shape[-1:], jnp.float32)
            gain = scale * jax.lax.rsqrt(moments.variance + EPS)
            gain, mean, bias = (jax.lax.broadcast_to_rank(one, x.ndim) for one in (gain, moments.mean, bias))
            x = (gain * (x - mean) + bias).astype(x.dtype)
        x = PReLU(name="prelu")(x)
        # Behind the normalization, by which channels of 0 would be something else.
        x = x if read is None else with_gains(x, read)
        return Conv(self.features, 3, padding=0, dtype=self.dtype, kernel_init=self.kernel_init, name="conv")(x)


class ResFuse(nn.Module):
    """r = H own + PReLU(dense), H a linear map per voxel to as many channels as dense has (Eq. 3)."""

    dtype: DTypeLike | None
    kernel_init: KernelInit

    @nn.compact
    def __call__(self, own: Maps, dense: Float[Array, "b *space c"]) -> Float[Array, "b *space c"]:
        lift = Conv(dense.shape[-1], 1, dtype=self.dtype, kernel_init=self.kernel_init, name="lift")
        return lift(own) + PReLU(name="prelu")(dense)


class ConvLayer(nn.Module):
    """The blocks of one layer, one per stream."""

    features: int
    streams: int
    normalized: bool
    dtype: DTypeLike | None
    kernel_init: KernelInit

    @nn.compact
    def __call__(self, inputs: PerStream, *, train: bool, gain: Gain = None) -> tuple[Array, ...]:
        moments: list[Moments | None] = [None] * len(inputs)
        if self.normalized:
            names = ["shared"] if len(inputs) == 1 else [f"stream_{m + 1}" for m in range(len(inputs))]
            moments = [BatchMoments(name=f"moments_{n}")(x, train=train) for n, x in zip(names, inputs, strict=True)]
        common = {"dtype": self.dtype, "kernel_init": self.kernel_init}
        return tuple(
            ConvBlock(self.features, **common, name=f"stream_{m + 1}")(_of(inputs, m), _of(moments, m), gain)
            for m in range(self.streams)
        )


class FusionLayer(nn.Module):
    """The ResFuse modules of one layer, one per stream."""

    dtype: DTypeLike | None
    kernel_init: KernelInit

    @nn.compact
    def __call__(self, own: Sequence[Array], dense: PerStream) -> tuple[Array, ...]:
        return tuple(
            ResFuse(self.dtype, self.kernel_init, name=f"stream_{m + 1}")(newest, _of(dense, m))
            for m, newest in enumerate(own)
        )


def _of(items: Sequence[Any], stream: int) -> Any:
    """Picks the item of a stream (counted from 0): its own, or the one that all share."""
    return items[stream if len(items) > 1 else 0]


class Blocks(nn.Module):
    """All layers of convolution blocks, as one subtree."""

    streams: int
    filters: tuple[int, ...]
    dtype: DTypeLike | None
    kernel_init: KernelInit

    @nn.compact
    def __call__(self, layer: int, inputs: PerStream, *, train: bool, gain: Gain = None) -> tuple[Array, ...]:
        sizes = (self.filters[layer - 1], self.streams, layer > 1)
        return ConvLayer(*sizes, self.dtype, self.kernel_init, name=f"layer_{layer}")(inputs, train=train, gain=gain)


class Fusions(nn.Module):
    """All layers of ResFuse modules, as one subtree."""

    dtype: DTypeLike | None
    kernel_init: KernelInit

    @nn.compact
    def __call__(self, layer: int, own: Sequence[Array], dense: PerStream) -> tuple[Array, ...]:
        return FusionLayer(self.dtype, self.kernel_init, name=f"layer_{layer}")(own, dense)


class Pointwise(nn.Module):
    """A linear map per voxel of `copies` of its input side by side, which are never laid there.

    Its kernel has a row for every channel of every copy; what meets the input is their sum over the copies.
    """

    features: int
    copies: int
    dtype: DTypeLike | None
    kernel_init: KernelInit

    @nn.compact
    def __call__(self, x: Maps) -> Logits:
        ones, width = (1,) * (x.ndim - 2), x.shape[-1]
        kernel = self.param("kernel", self.kernel_init, (*ones, self.copies * width, self.features), jnp.float32)
        bias = self.param("bias", nn.initializers.zeros_init(), (self.features,), jnp.float32)
        kernel = kernel.reshape(*ones, self.copies, width, self.features).sum(-3)
        dtype = self.dtype or jnp.result_type(x, kernel)
        y = conv(x.astype(dtype), kernel.astype(dtype), strides=1, padding=0)
        return y + over_map(bias, y)


class Head(nn.Module):
    """Linear maps per voxel from the last tensors of all streams, side by side, to class scores, float32.

    With the activation "none" they make up one affine map, as in the public code.
    """

    streams: int
    widths: tuple[int, ...]
    classes: int
    activation: str
    dtype: DTypeLike | None
    kernel_init: KernelInit

    @nn.compact
    def __call__(self, tensors: PerStream) -> Logits:
        x = jnp.concatenate(tensors, axis=-1)
        copies = self.streams // len(tensors)
        for number, width in enumerate(self.widths, start=1):
            x = Pointwise(width, copies, self.dtype, self.kernel_init, name=f"hidden_{number}")(x)
            if self.activation == "prelu":
                x = PReLU(name=f"prelu_{number}")(x)
            copies = 1
        scores = Pointwise(self.classes, copies, self.dtype, self.kernel_init, name="scores")(x)
        return scores.astype(jnp.float32)
