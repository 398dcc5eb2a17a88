"""The segmentation network of Fuse4Seg (2024): convolutions, a vision transformer with adapters, a decoder with skips.

The paper names a TransUNet hybrid with adapters and gives no sizes; they are those of "TransUNet" (Chen et al., 2021)
with R50-ViT-B/16 and of SAM-Med2D (see `jaxfuse.nn.adapter`).

Departs from TransUNet's public code: the stem takes the channels that come instead of three copies of a gray image;
the decoder has GroupNorm for batch normalization, so that losses are pure functions of the weights and have Hessian
products; the shortcuts' norms have as many groups as the others; doubling places pixel centers evenly instead of
aligning corners; max-pooling is written without select-and-scatter, whose gradient is slow on CPU and refused by
deterministic GPU programs. GroupNorm has 32 groups, or where that leaves fewer than two channels in a group (below 64
channels) the most groups that hold two: with one each, it would erase the mean of every channel.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp
from jax.typing import DTypeLike

from jaxfuse.arrays import Array, Float, Logits
from jaxfuse.errors import UserError
from jaxfuse.nn.adapter import ADAPTERS
from jaxfuse.nn.conv import Conv, conv
from jaxfuse.nn.forms import check_choices
from jaxfuse.nn.initializers import KernelInit, lecun_normal, normal
from jaxfuse.nn.norms import group_norm
from jaxfuse.nn.precision import DTYPES, layer_dtype
from jaxfuse.nn.vision_transformer import NO_ADAPTER, VisionTransformer

# One token per block of pixels of this side.
DIVISOR = 16
SMALLEST_SIDE = 2 * DIVISOR
# N(0, 1 / fan-in), cut at two standard deviations.
LECUN_NORMAL = lecun_normal()

Map = Float[Array, "b h w c"]


@dataclass(frozen=True)
class SegmentationForm:
    """The form of the segmentation network; the defaults are the paper's size.

    Attributes:
        stem: channels of the first convolution.
        widths: channels of the three bottleneck stages, multiples of 8; a bottleneck has a quarter of them.
        units: bottleneck units of each stage.
        vit_width, vit_depth, vit_heads, vit_hidden: of the transformer (see `VisionTransformer`).
        decoder_widths: channels of the four steps back to full resolution; twice the first before them.
        train_side: side in pixels of the (square) images of training, which fixes the table of positions.
        adapter: "depthwise", "dense" or "none".
        plain_start: adapters add nothing at first, for pre-trained transformer weights.
        dropout: rate in the transformer, where a key is given.
        dtype: arithmetic, "float32" or "bfloat16"; weights, norms, softmax and logits are float32.
        remat: every bottleneck unit, block and decoder step is computed again in the backward pass.
    """

    stem: int = 64
    widths: tuple[int, int, int] = (256, 512, 1024)
    units: tuple[int, int, int] = (3, 4, 9)
    vit_width: int = 768
    vit_depth: int = 12
    vit_heads: int = 12
    vit_hidden: int = 3072
    decoder_widths: tuple[int, int, int, int] = (256, 128, 64, 16)
    train_side: int = 224
    adapter: str = "depthwise"
    plain_start: bool = False
    dropout: float = 0.1
    dtype: str = "float32"
    remat: bool = False
    kernel_init: KernelInit = LECUN_NORMAL

    def network(self, classes: int) -> SegNet:
        """The network of this form, for so many classes.

        Raises:
            UserError: an option has none of its values.
        """
        check_choices(self, {"adapter": (*ADAPTERS, NO_ADAPTER), "dtype": DTYPES})
        for name, count in {"widths": 3, "units": 3, "decoder_widths": 4}.items():
            if len(value := getattr(self, name)) != count or min(value) < 1:
                raise UserError(f"{name} is {tuple(value)}; give {count} positive numbers")
        if any(width % 8 for width in self.widths):
            raise UserError(f"widths is {tuple(self.widths)}; give multiples of 8")
        if self.train_side < SMALLEST_SIDE or self.train_side % DIVISOR:
            raise UserError(
                f"train_side is {self.train_side}; give a multiple of {DIVISOR} from {SMALLEST_SIDE} pixels on"
            )
        if not 0.0 <= self.dropout < 1.0:
            raise UserError(f"dropout is {self.dropout}; give a rate from 0 to below 1")
        return SegNet(self, classes)

    @property
    def common(self) -> dict[str, Any]:
        """Options of every layer."""
        return {"kernel_init": self.kernel_init, "dtype": layer_dtype(self.dtype)}

    def block(self, module: type[nn.Module]) -> type[nn.Module]:
        """A block, to be computed again in the backward pass where the form says so."""
        return nn.remat(module) if self.remat else module


class SegNet(nn.Module):
    """Image (b h w m) -> logits (b h w k), float32; m follows from the image (1, or an embedding's channels).

    Parameters lie under "encoder", "transformer", "decoder" and "head". Dropout acts where a key is given,
    `apply(..., rngs={"dropout": key})`.

    Raises (when traced):
        UserError: a side of the image is no multiple of 16, or below 32 pixels.
    """

    form: SegmentationForm
    classes: int

    @nn.compact
    def __call__(self, image: Float[Array, "b h w m"], *, adapters: bool = True) -> Logits:
        """Without `adapters` their branches are left out, whatever weights they have."""
        form = self.form
        if not adapters and self.is_initializing():
            raise UserError("weights drawn without adapters would lack theirs; draw with them, or use adapter='none'")
        if image.ndim != 4 or min(image.shape[1:3]) < SMALLEST_SIDE or any(n % DIVISOR for n in image.shape[1:3]):
            raise UserError(
                f"segmentation takes images (b h w m) whose sides are multiples of {DIVISOR} from {SMALLEST_SIDE} "
                f"pixels on, got shape {image.shape}; pad or crop them"
            )
        x, skips = Encoder(form, name="encoder")(image)
        side = form.train_side // DIVISOR
        x = VisionTransformer(
            form.vit_width,
            form.vit_depth,
            form.vit_heads,
            form.vit_hidden,
            (side, side),
            form.adapter,
            form.plain_start,
            form.dropout,
            form.remat,
            **form.common,
            name="transformer",
        )(x, adapters=adapters)
        x = Decoder(form, name="decoder")(x, skips)
        # In float32 even on bfloat16 features, so that losses start from full precision.
        return Conv(self.classes, 3, kernel_init=form.kernel_init, name="head")(x)


class Encoder(nn.Module):
    """Image -> (map at a sixteenth of its sides, maps at a half, a quarter and an eighth).

    Pooling without padding leaves n / 4 - 1 of n pixels, and so does the first stage: its skip is zero-padded by one
    row at the bottom and one column at the right. The next stage's n / 8 follow all the same.
    """

    form: SegmentationForm

    @nn.compact
    def __call__(self, image: Float[Array, "b h w m"]) -> tuple[Array, list[Array]]:
        form = self.form
        x = StandardizedConv(form.stem, 7, 2, **form.common, name="stem")(image)
        x = nn.relu(group_norm(x, "stem_norm"))
        skips = [x]
        x = max_pool(x)
        for stage, (width, units) in enumerate(zip(form.widths, form.units, strict=True), start=1):
            for number in range(1, units + 1):
                strides = 2 if stage > 1 and number == 1 else 1
                x = form.block(Unit)(width, strides, **form.common, name=f"stage_{stage}_unit_{number}")(x)
            if stage < len(form.widths):
                skips.append(_pad_to(x, [side // 2 ** (stage + 1) for side in image.shape[1:3]]))
        return x, skips


class Unit(nn.Module):
    """ReLU(shortcut + 1x1, 3x3 (strided), 1x1), each with GroupNorm, with a quarter of the channels between.

    The shortcut is the input, or a 1x1 convolution of it with GroupNorm where channels or size change.
    """

    width: int
    strides: int
    kernel_init: KernelInit = normal()
    dtype: DTypeLike | None = None

    @nn.compact
    def __call__(self, x: Float[Array, "b h w m"]) -> Float[Array, "b h2 w2 c"]:
        def layer(x: Array, features: int, side: int, strides: int, name: str) -> Array:
            common = {"kernel_init": self.kernel_init, "dtype": self.dtype}
            x = StandardizedConv(features, side, strides, **common, name=name)(x)
            return group_norm(x, f"{name}_norm")

        y = nn.relu(layer(x, self.width // 4, 1, 1, "reduce"))
        y = nn.relu(layer(y, self.width // 4, 3, self.strides, "spatial"))
        y = layer(y, self.width, 1, 1, "expand")
        if self.strides > 1 or x.shape[-1] != self.width:
            x = layer(x, self.width, 1, self.strides, "shortcut")
        return nn.relu(x + y)


class Decoder(nn.Module):
    """3x3 convolution, then four steps that double the map, the first three of which join a skip."""

    form: SegmentationForm

    @nn.compact
    def __call__(self, x: Map, skips: Sequence[Array]) -> Float[Array, "b full_h full_w k"]:
        form = self.form
        x = ConvGroupNormAct(2 * form.decoder_widths[0], **form.common, name="bridge")(x)
        for number, width in enumerate(form.decoder_widths, start=1):
            skip = skips[-number] if number <= len(skips) else None
            x = form.block(DecoderStep)(width, **form.common, name=f"step_{number}")(x, skip)
        return x


class DecoderStep(nn.Module):
    """Doubles the map bilinearly, joins the skip, two convolutions."""

    width: int
    kernel_init: KernelInit = normal()
    dtype: DTypeLike | None = None

    @nn.compact
    def __call__(self, x: Float[Array, "b h w m"], skip: Float[Array, "b h2 w2 s"] | None) -> Float[Array, "b h2 w2 c"]:
        common = {"kernel_init": self.kernel_init, "dtype": self.dtype}
        x = upsample_bilinear(x)
        x = x if skip is None else jnp.concatenate([x, skip], axis=-1)
        x = ConvGroupNormAct(self.width, **common, name="conv_1")(x)
        return ConvGroupNormAct(self.width, **common, name="conv_2")(x)


class ConvGroupNormAct(nn.Module):
    """3x3 convolution without bias, GroupNorm, ReLU."""

    features: int
    kernel_init: KernelInit = normal()
    dtype: DTypeLike | None = None

    @nn.compact
    def __call__(self, x: Float[Array, "b h w m"]) -> Float[Array, "b h w c"]:
        common = {"kernel_init": self.kernel_init, "dtype": self.dtype}
        return nn.relu(group_norm(Conv(self.features, 3, use_bias=False, **common, name="conv")(x), "norm"))


class StandardizedConv(nn.Module):
    """Convolution with a kernel of mean 0 and variance 1 over the inputs of each output channel, without bias.

    Source: "Weight Standardization" (Qiao et al., 2019), Eq. 5; eps 1e-5 is added to the variance, in float32.
    Zero-padded by kernel_size // 2.
    """

    features: int
    kernel_size: int
    strides: int = 1
    kernel_init: KernelInit = normal()
    dtype: DTypeLike | None = None

    @nn.compact
    def __call__(self, x: Float[Array, "b h w m"]) -> Float[Array, "b h2 w2 k"]:
        shape = (self.kernel_size, self.kernel_size, x.shape[-1], self.features)
        kernel = self.param("kernel", self.kernel_init, shape, jnp.float32)
        centered = kernel - kernel.mean((0, 1, 2), keepdims=True)
        kernel = centered * jax.lax.rsqrt(jnp.square(centered).mean((0, 1, 2), keepdims=True) + 1e-5)
        dtype = self.dtype or jnp.result_type(x, kernel)
        return conv(x.astype(dtype), kernel.astype(dtype), strides=self.strides, padding=self.kernel_size // 2)


def max_pool(x: Map) -> Float[Array, "b h2 w2 c"]:
    """Maximum over windows of 3x3 pixels, every second one, without padding: n leave (n - 3) // 2 + 1.

    Rows first, then columns. Where pixels tie the gradient is shared, here mostly among zeros of a ReLU, which pass
    none on.
    """
    for axis in (1, 2):
        count = (x.shape[axis] - 3) // 2 + 1
        # The slices end where the last window's own pixel does.
        shifted = [jax.lax.slice_in_dim(x, tap, tap + 2 * count - 1, 2, axis) for tap in range(3)]
        x = jnp.maximum(jnp.maximum(shifted[0], shifted[1]), shifted[2])
    return x


def upsample_bilinear(x: Map) -> Float[Array, "b h2 w2 c"]:
    """Twice as many pixels along both axes, bilinearly between pixel centers, constant beyond the outer ones.

    New pixels lie a quarter of a pixel before and after the old ones.
    """
    for axis in (1, 2):
        last = x.shape[axis]
        edge = [jax.lax.slice_in_dim(x, at, at + 1, axis=axis) for at in (0, last - 1)]
        before = jnp.concatenate([edge[0], jax.lax.slice_in_dim(x, 0, last - 1, axis=axis)], axis)
        after = jnp.concatenate([jax.lax.slice_in_dim(x, 1, last, axis=axis), edge[1]], axis)
        pair = jnp.stack([0.75 * x + 0.25 * before, 0.75 * x + 0.25 * after], axis + 1)
        x = pair.reshape(*x.shape[:axis], 2 * last, *x.shape[axis + 1 :])
    return x


def _pad_to(x: Map, size: Sequence[int]) -> Float[Array, "b h2 w2 c"]:
    """Zeros at the bottom and at the right up to the size."""
    return jnp.pad(x, ((0, 0), *((0, want - have) for want, have in zip(size, x.shape[1:3], strict=True)), (0, 0)))
