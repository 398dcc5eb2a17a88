"""Affine coupling nodes: a map of images that loses nothing, and its inverse.

Source: the detail branch of CDDFuse (Zhao et al., 2023), Eq. 5 and public code; the coupling is that of "Density
estimation using Real NVP" (Dinh et al., 2017), the 1x1 mixing that of "Glow" (Kingma and Dhariwal, 2018). Departs
from the code: the mixing starts as a random rotation (as in Glow), so that it can be inverted well from the start;
the exponential is taken in float32 or wider, and its argument may be clamped softly.
"""

from __future__ import annotations

import flax.linen as nn
import jax
import jax.numpy as jnp
from jax.typing import DTypeLike

from jaxfuse.arrays import Array, Float
from jaxfuse.errors import UserError
from jaxfuse.nn.channel_weights import over_map
from jaxfuse.nn.conv import Conv, conv
from jaxfuse.nn.grouped_conv import GroupedConv
from jaxfuse.nn.initializers import KernelInit, normal


class Bottleneck(nn.Module):
    """1x1 to twice the channels, ReLU6, depthwise 3x3 on the image continued by reflection, ReLU6, 1x1 back; no bias.

    Raises (when traced):
        UserError: a side is a single pixel, which has no reflection.
    """

    kernel_init: KernelInit = normal()
    dtype: DTypeLike | None = None

    @nn.compact
    def __call__(self, x: Float[Array, "b h w c"]) -> Float[Array, "b h w c"]:
        if min(x.shape[1:3]) < 2:
            raise UserError(f"an image of {x.shape[1:3]} pixels has no reflection; use sides of at least 2 pixels")
        channels = x.shape[-1]
        common = {"kernel_init": self.kernel_init, "dtype": self.dtype}
        y = jax.nn.relu6(Conv(2 * channels, 1, use_bias=False, **common, name="expand")(x))
        y = jnp.pad(y, ((0, 0), (1, 1), (1, 1), (0, 0)), mode="reflect")
        y = jax.nn.relu6(GroupedConv(padding=0, **common, name="spatial")(y))
        return Conv(channels, 1, use_bias=False, **common, name="project")(y)


class CouplingNode(nn.Module):
    """Mixes all channels, then changes each half by a function of the other; `inverse` takes it back.

    (z1, z2) = W x + bias; z2 <- z2 + shift_2(z1); z1 <- z1 * exp(s) + shift_1(z2) with s = scale_1(z2), or
    clamp * tanh(scale_1(z2) / clamp), which has the same slope at 0 and stays within +-clamp.

    Attributes:
        features: channels in and out, an even number.
        clamp: bound of s; None leaves it unbounded, as the public code does. Wise with bfloat16.
    """

    features: int
    clamp: float | None = None
    kernel_init: KernelInit = normal()
    dtype: DTypeLike | None = None

    def setup(self) -> None:
        if self.features % 2:
            raise UserError(f"a coupling node halves its channels, got {self.features}; use an even number")
        if self.clamp is not None and self.clamp <= 0:
            raise UserError(f"the clamp of a coupling node must be positive, got {self.clamp}; None leaves it out")
        common = {"kernel_init": self.kernel_init, "dtype": self.dtype}
        shape = (1, 1, self.features, self.features)
        self.mix = self.param("mix", nn.initializers.orthogonal(), shape, jnp.float32)
        self.bias = self.param("bias", nn.initializers.zeros_init(), (self.features,), jnp.float32)
        self.shift_2 = Bottleneck(**common)
        self.scale_1 = Bottleneck(**common)
        self.shift_1 = Bottleneck(**common)

    def __call__(self, x: Float[Array, "b h w c"]) -> Float[Array, "b h w c"]:
        dtype = self._dtype(x)
        mixed = conv(x.astype(dtype), self.mix.astype(dtype), strides=1, padding=0)
        mixed = mixed + over_map(self.bias, mixed)
        z1, z2 = jnp.split(mixed, 2, axis=-1)
        z2 = z2 + self.shift_2(z1)
        z1 = (z1 * jnp.exp(self._log_scale(z2))).astype(dtype) + self.shift_1(z2)
        return jnp.concatenate([z1, z2], axis=-1)

    def inverse(self, y: Float[Array, "b h w c"]) -> Float[Array, "b h w c"]:
        """x with self(x) = y, up to rounding; not finite where the mixing matrix is singular."""
        dtype = self._dtype(y)
        z1, z2 = jnp.split(y.astype(dtype), 2, axis=-1)
        z1 = ((z1 - self.shift_1(z2)) * jnp.exp(-self._log_scale(z2))).astype(dtype)
        z2 = z2 - self.shift_2(z1)
        mixed = jnp.concatenate([z1, z2], axis=-1)
        centered = mixed - over_map(self.bias, mixed)
        unmix = jnp.linalg.inv(self.mix[0, 0])
        return (centered.astype(unmix.dtype) @ unmix).astype(dtype)

    def _dtype(self, x: Array) -> DTypeLike:
        return self.dtype or jnp.result_type(x, self.mix)

    def _log_scale(self, z2: Array) -> Array:
        raw = self.scale_1(z2)
        raw = raw.astype(jnp.promote_types(raw.dtype, jnp.float32))
        return raw if self.clamp is None else self.clamp * jnp.tanh(raw / self.clamp)


class CouplingStack(nn.Module):
    """`nodes` coupling nodes in a row; `remat` computes each again in the backward pass."""

    features: int
    nodes: int
    clamp: float | None = None
    remat: bool = False
    kernel_init: KernelInit = normal()
    dtype: DTypeLike | None = None

    def setup(self) -> None:
        node = nn.remat(CouplingNode) if self.remat else CouplingNode
        self.node = [node(self.features, self.clamp, self.kernel_init, self.dtype) for _ in range(self.nodes)]

    def __call__(self, x: Float[Array, "b h w c"]) -> Float[Array, "b h w c"]:
        for node in self.node:
            x = node(x)
        return x

    def inverse(self, y: Float[Array, "b h w c"]) -> Float[Array, "b h w c"]:
        """x with self(x) = y, up to rounding."""
        for node in reversed(self.node):
            y = node.inverse(y)
        return y
