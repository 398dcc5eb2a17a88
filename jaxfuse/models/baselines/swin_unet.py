"""Swin-Unet (Cao et al., 2021): a U-Net of transformers that attend within windows, every second one shifted.

Widths and layers are those of the public code: patches of 4 pixels in 96 channels, four levels of two blocks, windows
of 7 tokens, the way up by patches that are expanded. Departs from it: any picture whose sides are multiples of 32
pixels is taken, as maps are padded to whole windows and tokens of the padding are attended to by none (at 224 pixels
nothing is padded); an axis that one window spans is never shifted, whatever the other is. Without the weights of
ImageNet, from which the paper starts, its rank is not the paper's.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
from jax.typing import DTypeLike

from jaxfuse.arrays import Array, Float, Logits
from jaxfuse.errors import UserError
from jaxfuse.nn.conv import Conv
from jaxfuse.nn.forms import check_choices, check_least, check_picture
from jaxfuse.nn.initializers import KernelInit, normal
from jaxfuse.nn.norms import layer_norm
from jaxfuse.nn.precision import DTYPES, layer_dtype
from jaxfuse.nn.vision_transformer import MLP

Map = Float[Array, "b h w c"]
# Subtracted where a token must not be attended to.
FAR = 1e9


@dataclass(frozen=True)
class SwinUNetForm:
    """The form of the network; the defaults are the public code's.

    Attributes:
        width: channels of the first level; they double at each level.
        depths, heads: blocks of each level, and heads of their attention.
        window: side of a window in tokens.
        patch: side of a token in pixels; sides of the image are multiples of patch * 2**(levels - 1).
        drop_path: share of examples that skip the last block of the way down in training; it grows linearly to it.
        dtype: arithmetic, "float32" or "bfloat16"; weights, norms, softmax and logits are float32.
        remat: every block is computed again in the backward pass.
    """

    width: int = 96
    depths: tuple[int, ...] = (2, 2, 2, 2)
    heads: tuple[int, ...] = (3, 6, 12, 24)
    window: int = 7
    patch: int = 4
    drop_path: float = 0.2
    dtype: str = "float32"
    remat: bool = False
    kernel_init: KernelInit = normal()

    @property
    def divisor(self) -> int:
        """Sides of an image are multiples of it."""
        return self.patch * 2 ** (len(self.depths) - 1)

    def network(self, classes: int) -> SwinUNet:
        """The network of this form, for so many classes.

        Raises:
            UserError: an option has none of its values, or heads do not divide their channels.
        """
        check_choices(self, {"dtype": DTYPES})
        check_least(self, {"width": 2, "window": 2, "patch": 1})
        if len(self.depths) != len(self.heads) or len(self.depths) < 2 or min(*self.depths, *self.heads) < 1:
            raise UserError(
                f"depths is {tuple(self.depths)} and heads {tuple(self.heads)}; give as many positive numbers in both, "
                "at least two"
            )
        widths = [self.width * 2**level for level in range(len(self.depths))]
        if any(width % heads for width, heads in zip(widths, self.heads, strict=True)):
            raise UserError(f"heads is {tuple(self.heads)}; they must divide the channels {tuple(widths)}")
        if not 0.0 <= self.drop_path < 1.0:
            raise UserError(f"drop_path is {self.drop_path}; give a share from 0 to below 1")
        return SwinUNet(self, classes)

    @property
    def common(self) -> dict[str, Any]:
        """Options of every layer."""
        return {"kernel_init": self.kernel_init, "dtype": layer_dtype(self.dtype)}

    def block(self, module: type[nn.Module]) -> type[nn.Module]:
        """A block, to be computed again in the backward pass where the form says so."""
        return nn.remat(module) if self.remat else module


class SwinUNet(nn.Module):
    """Image (b h w m) -> logits (b h w k) alone in a tuple, float32.

    Blocks are skipped where a key is given, `apply(..., rngs={"dropout": key})`.

    Raises (when traced):
        UserError: a side of the image is no multiple of the form's divisor.
    """

    form: SwinUNetForm
    classes: int

    @nn.compact
    def __call__(self, image: Float[Array, "b h w m"]) -> tuple[Logits]:
        form, last = self.form, len(self.form.depths) - 1
        check_picture(image, form.divisor, called="a Swin-Unet of this form")
        x = Conv(form.width, form.patch, form.patch, 0, **form.common, name="embed")(image)
        x, skips = layer_norm(x, "embed_norm"), []
        for level in range(last + 1):
            skips.append(x)
            x = self._level(x, level, "down")
            x = Merge(**form.common, name=f"merge_{level + 1}")(x) if level < last else x
        x = layer_norm(x, "norm")
        for level in range(last - 1, -1, -1):
            x = Expand(2, x.shape[-1] // 2, **form.common, name=f"expand_{level + 1}")(x)
            joined = jnp.concatenate([x, skips[level]], axis=-1)
            x = self._level(Conv(x.shape[-1], 1, **form.common, name=f"join_{level + 1}")(joined), level, "up")
        x = layer_norm(x, "norm_up")
        x = Expand(form.patch, form.width, **form.common, name="expand_patch")(x)
        # In float32 even on bfloat16 features, so that losses start from full precision.
        return (Conv(self.classes, 1, use_bias=False, kernel_init=form.kernel_init, name="head")(x),)

    def _level(self, x: Map, level: int, way: str) -> Map:
        """The blocks of a level, on the way down or up."""
        form = self.form
        rates = np.linspace(0.0, form.drop_path, sum(form.depths))[sum(form.depths[:level]) :]
        for number in range(form.depths[level]):
            shift = form.window // 2 if number % 2 else 0
            name = f"{way}_{level + 1}_block_{number + 1}"
            block = form.block(Block)(
                form.heads[level], form.window, shift, float(rates[number]), **form.common, name=name
            )
            x = block(x)
        return x


class Block(nn.Module):
    """h = x + attention(norm x) within windows, then h + MLP(norm h); an example may skip either in training."""

    heads: int
    window: int
    shift: int
    drop_path: float
    kernel_init: KernelInit
    dtype: DTypeLike | None

    @nn.compact
    def __call__(self, x: Map) -> Map:
        common = {"kernel_init": self.kernel_init, "dtype": self.dtype}
        attention = WindowAttention(self.heads, self.window, self.shift, **common, name="attention")
        h = x + self._skipped(attention(layer_norm(x, "norm_1")))
        mlp = MLP(4 * x.shape[-1], 0.0, **common, name="mlp")
        return h + self._skipped(mlp(layer_norm(h, "norm_2")))

    def _skipped(self, x: Map) -> Map:
        return nn.Dropout(self.drop_path, broadcast_dims=(1, 2, 3), deterministic=not self.has_rng("dropout"))(x)


class WindowAttention(nn.Module):
    """Attention between the tokens of each window, with a learned number for each offset between two places and head.

    A map is padded to whole windows, whose added tokens none attends to. With `shift` windows lie so much further, and
    those that hang over the edge attend within the part on their own side of it.
    """

    heads: int
    window: int
    shift: int
    kernel_init: KernelInit
    dtype: DTypeLike | None

    @nn.compact
    def __call__(self, x: Map) -> Map:
        (height, width, channels), side = x.shape[1:], self.window
        common = {"kernel_init": self.kernel_init, "dtype": self.dtype}
        padded = [side * -(-n // side) for n in (height, width)]
        shifts = [self.shift if n > side else 0 for n in padded]
        table = self.param("offsets", self.kernel_init, ((2 * side - 1) ** 2, self.heads), jnp.float32)
        qkv = Conv(3 * channels, 1, **common, name="qkv")(x)
        qkv = jnp.pad(qkv, ((0, 0), (0, padded[0] - height), (0, padded[1] - width), (0, 0)))
        windows = _windows(jnp.roll(qkv, [-s for s in shifts], (1, 2)), side)
        apart = windows.reshape(*windows.shape[:-1], 3, self.heads, channels // self.heads)
        query, key, value = (apart[..., number, :, :] for number in range(3))
        wide = jnp.promote_types(x.dtype, jnp.float32)
        logits = jnp.einsum("nwqhd,nwkhd->nwhqk", query, key, preferred_element_type=wide)
        logits = logits * (channels // self.heads) ** -0.5
        logits = logits + jnp.moveaxis(table[_offsets(side)], -1, 0)[None, None]
        seen = _seen((height, width), padded, shifts, side)
        if not seen.all():
            logits = logits - FAR * jnp.asarray(~seen, logits.dtype)[None, :, None]
        weights = jax.nn.softmax(logits, axis=-1).astype(value.dtype)
        found = jnp.einsum("nwhqk,nwkhd->nwqhd", weights, value).reshape(*windows.shape[:-1], channels)
        found = jnp.roll(_joined(found, padded), shifts, (1, 2))[:, :height, :width]
        return Conv(channels, 1, **common, name="project")(found)


class Merge(nn.Module):
    """Each 2x2 tokens become one of twice the channels: a norm of all four, a linear map without bias."""

    kernel_init: KernelInit
    dtype: DTypeLike | None

    @nn.compact
    def __call__(self, x: Map) -> Float[Array, "b h2 w2 c2"]:
        batch, height, width, channels = x.shape
        four = x.reshape(batch, height // 2, 2, width // 2, 2, channels).swapaxes(2, 3)
        four = layer_norm(four.reshape(batch, height // 2, width // 2, 4 * channels), "norm")
        common = {"kernel_init": self.kernel_init, "dtype": self.dtype}
        return Conv(2 * channels, 1, use_bias=False, **common, name="reduce")(four)


class Expand(nn.Module):
    """Each token becomes factor x factor ones of so many features, by a linear map without bias, then a norm."""

    factor: int
    features: int
    kernel_init: KernelInit
    dtype: DTypeLike | None

    @nn.compact
    def __call__(self, x: Map) -> Float[Array, "b h2 w2 c2"]:
        (batch, height, width, _), factor = x.shape, self.factor
        common = {"kernel_init": self.kernel_init, "dtype": self.dtype}
        many = Conv(factor**2 * self.features, 1, use_bias=False, **common, name="expand")(x)
        apart = many.reshape(batch, height, width, factor, factor, self.features).swapaxes(2, 3)
        return layer_norm(apart.reshape(batch, factor * height, factor * width, self.features), "norm")


def _windows(x: Any, side: int) -> Any:
    """The tokens of each window, (b n t c), of a map (b h w c) that they fill, on the device or the host."""
    batch, height, width, channels = x.shape
    apart = x.reshape(batch, height // side, side, width // side, side, channels).swapaxes(2, 3)
    return apart.reshape(batch, -1, side * side, channels)


def _joined(windows: Any, sides: list[int]) -> Any:
    """The map of these sides of windows, as `_windows` took them apart."""
    batch, _, tokens, channels = windows.shape
    side = round(tokens**0.5)
    apart = windows.reshape(batch, sides[0] // side, sides[1] // side, side, side, channels).swapaxes(2, 3)
    return apart.reshape(batch, *sides, channels)


def _offsets(side: int) -> np.ndarray:
    """The row of the table of each pair of tokens of a window, (t t)."""
    rows, columns = np.divmod(np.arange(side * side), side)
    rows, columns = (each[:, None] - each[None] + side - 1 for each in (rows, columns))
    return rows * (2 * side - 1) + columns


def _seen(sides: tuple[int, int], padded: list[int], shifts: list[int], side: int) -> np.ndarray:
    """Whether a token attends to another of its window, (n t t): it is none of the padding, on the same side of edges.

    Windows are those of the map rolled by -shifts, in which what lay before the shift follows the far edge.
    """
    rows, columns = np.meshgrid(*map(np.arange, padded), indexing="ij")
    real = (rows < sides[0]) & (columns < sides[1])
    part = 2 * (rows < shifts[0]) + (columns < shifts[1])
    rolled = (np.roll(each, [-s for s in shifts], (0, 1))[None, ..., None] for each in (real, part))
    real, part = (_windows(each, side)[0, ..., 0] for each in rolled)
    return (part[:, :, None] == part[:, None]) & real[:, None]
