"""A 2D U-Net in the manner of nnU-Net (Isensee et al., Nature Methods 18, 2021), to read what FILM fuses.

Convolution, instance normalization with scale and shift, LeakyReLU 0.01, two per stage; strided convolutions on the way
down, transposed ones on the way up; channels double up to 512; heads at several resolutions for deep supervision. The
default depth is what nnU-Net plans for 224 x 224 pixels. Departs from it: convolutions before a norm have no bias,
which the norm would remove; the coarsest decoder stage has no head, since nnU-Net gives its loss no weight.
"""

from __future__ import annotations

from functools import partial
from typing import NamedTuple

import flax.linen as nn
import jax.numpy as jnp
from jax.typing import DTypeLike

from jaxfuse.arrays import Array, Float, Logits
from jaxfuse.errors import UserError
from jaxfuse.nn.channel_weights import over_map
from jaxfuse.nn.conv import Conv, instance_norm
from jaxfuse.nn.initializers import KernelInit, he_normal, normal

SLOPE = 0.01


class DeepLogits(NamedTuple):
    """Logits (b h w k) at the image's resolution, and at a half, a quarter ... of its sides; float32."""

    logits: Logits
    auxiliary: tuple[Array, ...]


class NNUNet2D(nn.Module):
    """Image (b h w m) -> `DeepLogits`, with stages - 3 auxiliary ones (none below that).

    Attributes:
        stages: resolutions; every side of the image is divisible by 2**(stages - 1).
        base: channels of the first stage; they double at each stage up to `most`.
        remat: every stage is computed again in the backward pass.
        dtype: computes in it; parameters, norm statistics and logits are float32.

    Raises (when traced):
        UserError: there are fewer than two stages, or the image cannot be halved so often.
    """

    classes: int
    stages: int = 6
    base: int = 32
    most: int = 512
    remat: bool = False
    kernel_init: KernelInit = he_normal(SLOPE)
    dtype: DTypeLike | None = None

    @nn.compact
    def __call__(self, image: Float[Array, "b h w m"]) -> DeepLogits:
        self._check(image)
        common = {"kernel_init": self.kernel_init, "dtype": self.dtype}
        encode = nn.remat(EncoderStage) if self.remat else EncoderStage
        decode = nn.remat(DecoderStage) if self.remat else DecoderStage
        widths = [min(self.base * 2**stage, self.most) for stage in range(self.stages)]

        x, skips = image, []
        for stage, width in enumerate(widths):
            x = encode(width, 1 if stage == 0 else 2, **common, name=f"encoder_{stage + 1}")(x)
            skips.append(x)
        outputs = []
        for stage in range(self.stages - 2, -1, -1):
            x = decode(widths[stage], **common, name=f"decoder_{stage + 1}")(x, skips[stage])
            if stage == 0 or stage < self.stages - 2:
                # In float32 even on bfloat16 features, so that losses start from full precision.
                outputs.append(Conv(self.classes, 1, kernel_init=self.kernel_init, name=f"head_{stage + 1}")(x))
        return DeepLogits(outputs[-1], tuple(outputs[-2::-1]))

    def _check(self, image: Array) -> None:
        if self.stages < 2:
            raise UserError(f"an nnU-Net needs at least 2 stages, got {self.stages}")
        divisor = 2 ** (self.stages - 1)
        if image.ndim != 4 or any(side % divisor for side in image.shape[1:3]):
            raise UserError(
                f"an nnU-Net of {self.stages} stages takes images (b h w m) whose sides are divisible by {divisor}, "
                f"got shape {image.shape}; pad or crop them, or use fewer stages"
            )


class EncoderStage(nn.Module):
    """Two convolutions, the first strided."""

    width: int
    strides: int
    kernel_init: KernelInit = normal()
    dtype: DTypeLike | None = None

    @nn.compact
    def __call__(self, x: Float[Array, "b h w m"]) -> Float[Array, "b h2 w2 c"]:
        layer = partial(AffineConv, self.width, kernel_init=self.kernel_init, dtype=self.dtype)
        return layer(name="conv_2")(layer(self.strides, name="conv_1")(x))


class DecoderStage(nn.Module):
    """2x2 transposed convolution of stride 2, the skip joined after it, two convolutions."""

    width: int
    kernel_init: KernelInit = normal()
    dtype: DTypeLike | None = None

    @nn.compact
    def __call__(self, x: Float[Array, "b h w m"], skip: Float[Array, "b h2 w2 c"]) -> Float[Array, "b h2 w2 c"]:
        batch, height, width, _ = x.shape
        common = {"kernel_init": self.kernel_init, "dtype": self.dtype}
        # Windows of side 2 at stride 2 do not overlap: each pixel becomes four by a linear map.
        four = Conv(4 * self.width, 1, use_bias=False, **common, name="up")(x)
        apart = four.reshape(batch, height, width, 2, 2, self.width).swapaxes(2, 3)
        x = apart.reshape(batch, 2 * height, 2 * width, self.width)
        bias = self.param("up_bias", nn.initializers.zeros_init(), (self.width,), jnp.float32)
        x = x + over_map(bias, x)
        layer = partial(AffineConv, self.width, **common)
        return layer(name="conv_2")(layer(name="conv_1")(jnp.concatenate([x, skip], axis=-1)))


class AffineConv(nn.Module):
    """3x3 convolution, instance normalization with scale and shift, LeakyReLU 0.01."""

    features: int
    strides: int = 1
    kernel_init: KernelInit = normal()
    dtype: DTypeLike | None = None

    @nn.compact
    def __call__(self, x: Float[Array, "b h w m"]) -> Float[Array, "b h2 w2 c"]:
        common = {"kernel_init": self.kernel_init, "dtype": self.dtype}
        y = instance_norm(Conv(self.features, 3, self.strides, use_bias=False, **common, name="conv")(x))
        scale = self.param("scale", nn.initializers.ones_init(), (self.features,), jnp.float32)
        shift = self.param("shift", nn.initializers.zeros_init(), (self.features,), jnp.float32)
        return nn.leaky_relu(y * over_map(scale, y) + over_map(shift, y), SLOPE)
