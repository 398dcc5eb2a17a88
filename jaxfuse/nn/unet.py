"""The U-Net trunk of CMFT and CMFF, and a head.

Source of the residual form: "Brain Tumor Segmentation and Radiomics Survival Prediction: Contribution to the BRATS
2017 Challenge" (Isensee et al., 2017), in the base-16 form for patches of 128^3. Departs from it: no dropout, deep
supervision only where a head is put on several levels (a generator and a segmenter are to differ in their last layer
only), nearest-neighbor upsampling, and no network output, so that one trunk may carry several heads.
"""

from __future__ import annotations

from collections.abc import Sequence
from functools import partial
from typing import NamedTuple

import flax.linen as nn
import jax.numpy as jnp
from jax.typing import DTypeLike

from jaxfuse.arrays import Array, Float
from jaxfuse.errors import UserError
from jaxfuse.nn.conv import Conv, ConvNormAct
from jaxfuse.nn.initializers import KernelInit, normal
from jaxfuse.nn.presence import Film, modulated

_ARCHS = ("residual", "plain")


class Features(NamedTuple):
    """The last two feature maps of a trunk, at full resolution: what a head reads (`last`) and the one before."""

    penultimate: Float[Array, "b *space f"]
    last: Float[Array, "b *space f"]


class UNet(nn.Module):
    """Encoder and decoder with skip connections, from an image to features; channels double at each level.

    Attributes:
        base: channels of the first level.
        levels: resolutions; every side of the image must be divisible by 2**(levels - 1).
        arch: "residual" adds the input convolution of each encoder level to its result and narrows each decoder
            level by a kernel of one voxel; "plain" has two convolutions of kernel 3 per level everywhere.
        remat: recomputes the inside of each level in the backward pass instead of keeping it. Same parameters, same
            gradients, about a tenth of the memory for residual maps.
        dtype: computes in it; normalization statistics and parameters are float32.
    """

    base: int = 16
    levels: int = 5
    arch: str = "residual"
    remat: bool = False
    dtype: DTypeLike | None = None
    kernel_init: KernelInit = normal()

    def __call__(self, image: Float[Array, "b *space m"]) -> Features:
        return self.decoded(image)[0]

    @property
    def widths(self) -> tuple[int, ...]:
        """The channels of each level of the encoder, the finest first."""
        return tuple(self.base * 2**level for level in range(self.levels))

    @nn.compact
    def decoded(self, image: Float[Array, "b *space m"], films: Sequence[Film] = ()) -> tuple[Features, ...]:
        """The features of every level of the decoder, the finest first; sides halve from one to the next.

        Args:
            films: scale and shift of the features of each level of the encoder; (): they stay what they are.
        """
        self._check(image)
        common = {"arch": self.arch, "dtype": self.dtype, "kernel_init": self.kernel_init}
        encode = partial(nn.remat(EncoderLevel) if self.remat else EncoderLevel, **common)
        decode = partial(nn.remat(DecoderLevel) if self.remat else DecoderLevel, **common)

        x, skips = image, []
        for level in range(1, self.levels + 1):
            width, strides = self.base * 2 ** (level - 1), 1 if level == 1 else 2
            x = encode(width, strides, name=f"encoder_{level}")(x)
            x = modulated(x, films[level - 1]) if films else x
            skips.append(x)
        found = [Features(x, skips.pop())]
        for level in range(self.levels - 1, 0, -1):
            width = self.base * 2 ** (level - 1)
            found.append(decode(width, name=f"decoder_{level}")(found[-1].last, skips.pop()))
        return tuple(reversed(found[1:]))

    def _check(self, image: Array) -> None:
        if self.arch not in _ARCHS:
            raise UserError(f"U-Net architecture {self.arch!r} is not known; choose one of {', '.join(_ARCHS)}")
        if self.levels < 2:
            raise UserError(f"a U-Net needs at least 2 levels, got {self.levels}")
        divisor = 2 ** (self.levels - 1)
        if image.ndim not in (4, 5) or any(side % divisor for side in image.shape[1:-1]):
            raise UserError(
                f"a U-Net of {self.levels} levels takes images (b h w m) or (b d h w m) whose sides are divisible "
                f"by {divisor}, got shape {image.shape}; change the patch size or the number of levels"
            )


class EncoderLevel(nn.Module):
    """Two or three convolutions of kernel 3, the first strided."""

    features: int
    strides: int
    arch: str = "residual"
    dtype: DTypeLike | None = None
    kernel_init: KernelInit = normal()

    @nn.compact
    def __call__(self, x: Float[Array, "b *space m"]) -> Float[Array, "b *out f"]:
        block = partial(ConvNormAct, self.features, 3, dtype=self.dtype, kernel_init=self.kernel_init)
        entry = block(self.strides, name="entry")(x)
        context = block(name="context_1")(entry)
        if self.arch == "plain":
            return context
        return entry + block(name="context_2")(context)


class DecoderLevel(nn.Module):
    """Doubles the resolution, joins the skip connection, and returns the level's last two feature maps."""

    features: int
    arch: str = "residual"
    dtype: DTypeLike | None = None
    kernel_init: KernelInit = normal()

    @nn.compact
    def __call__(self, coarse: Float[Array, "b *coarse m"], skip: Float[Array, "b *space f"]) -> Features:
        block = partial(ConvNormAct, self.features, dtype=self.dtype, kernel_init=self.kernel_init)
        x = upsample_nearest(coarse)
        if self.arch == "residual":
            x = block(3, name="up")(x)
        penultimate = block(3, name="localize_1")(jnp.concatenate([skip, x], axis=-1))
        last = block(1 if self.arch == "residual" else 3, name="localize_2")(penultimate)
        return Features(penultimate, last)


class Head(nn.Module):
    """One linear map per voxel, with bias, from features to `classes` channels; no activation.

    With dtype None its result is float32 even for bfloat16 features, so that losses start from full precision.
    """

    classes: int
    dtype: DTypeLike | None = None
    kernel_init: KernelInit = normal()

    @nn.compact
    def __call__(self, features: Float[Array, "b *space f"]) -> Float[Array, "b *space k"]:
        return Conv(self.classes, 1, dtype=self.dtype, kernel_init=self.kernel_init, name="conv")(features)


def upsample_nearest(x: Float[Array, "b *space m"]) -> Float[Array, "b *double m"]:
    """Each voxel becomes a block of 2 along every axis. A broadcast: its gradient is a sum, not a scatter."""
    batch, *sides, channels = x.shape
    apart = (batch, *(n for side in sides for n in (side, 1)), channels)
    paired = (batch, *(n for side in sides for n in (side, 2)), channels)
    return jnp.broadcast_to(x.reshape(apart), paired).reshape(batch, *(2 * side for side in sides), channels)
