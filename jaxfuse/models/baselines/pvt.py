"""The pyramid vision transformer PVTv2 (Wang et al., 2022), the encoder of CASCADE and EMCAD.

Four levels of transformers on overlapping patches; keys and values are read from a map that is reduced to the tokens of
the last level. Widths and layers are those of its form B2 in the codes of CASCADE and EMCAD. Departs from them:
convolutions are drawn by their fan-in; there are no weights of ImageNet to start from.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import partial
from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
from jax.typing import DTypeLike

from jaxfuse.arrays import Array, Float
from jaxfuse.errors import UserError
from jaxfuse.nn.channel_weights import over_map
from jaxfuse.nn.conv import Conv
from jaxfuse.nn.cross_attention import token_attention
from jaxfuse.nn.forms import check_choices, check_least
from jaxfuse.nn.grouped_conv import GroupedConv
from jaxfuse.nn.initializers import KernelInit, he_normal, normal
from jaxfuse.nn.norms import layer_norm
from jaxfuse.nn.precision import DTYPES, layer_dtype

Map = Float[Array, "b h w c"]
HE_NORMAL = he_normal(0.0)
LEVELS = 4


@dataclass(frozen=True)
class PvtForm:
    """The form of the encoder; the defaults are those of B2.

    Attributes:
        widths, depths, heads: channels, blocks and heads of each of the four levels.
        expansions: of each level's MLP.
        patch: pixels from one patch of the first level to the next; each level has half the sides of the one before, so
            that sides of the image are multiples of 8 * patch.
        drop_path: share of examples that skip the last block in training; it grows linearly to it.
        dtype: arithmetic, "float32" or "bfloat16"; weights, norms, softmax and logits are float32.
        remat: every block is computed again in the backward pass.
        kernel_init: of linear maps.
    """

    widths: tuple[int, ...] = (64, 128, 320, 512)
    depths: tuple[int, ...] = (3, 4, 6, 3)
    heads: tuple[int, ...] = (1, 2, 5, 8)
    expansions: tuple[int, ...] = (8, 8, 4, 4)
    patch: int = 4
    drop_path: float = 0.1
    dtype: str = "float32"
    remat: bool = False
    kernel_init: KernelInit = normal()

    @property
    def divisor(self) -> int:
        """Sides of an image are multiples of it."""
        return self.patch * 2 ** (LEVELS - 1)

    def check(self) -> None:
        """Refuses a form that is none.

        Raises:
            UserError: an option has none of its values, or heads do not divide their channels.
        """
        check_choices(self, {"dtype": DTYPES})
        check_least(self, {"patch": 1})
        for name in ("widths", "depths", "heads", "expansions"):
            if len(value := getattr(self, name)) != LEVELS or min(value) < 1:
                raise UserError(f"{name} is {tuple(value)}; give {LEVELS} positive numbers")
        if any(width % heads for width, heads in zip(self.widths, self.heads, strict=True)):
            raise UserError(f"heads is {tuple(self.heads)}; they must divide the channels {tuple(self.widths)}")
        if not 0.0 <= self.drop_path < 1.0:
            raise UserError(f"drop_path is {self.drop_path}; give a share from 0 to below 1")

    @property
    def common(self) -> dict[str, Any]:
        """Options of every layer."""
        return {"kernel_init": self.kernel_init, "dtype": layer_dtype(self.dtype)}

    def block(self, module: type[nn.Module]) -> type[nn.Module]:
        """A block, to be computed again in the backward pass where the form says so."""
        return nn.remat(module) if self.remat else module


class PyramidTransformer(nn.Module):
    """Image (b h w m) -> the maps of the four levels, from the finest on.

    Blocks are skipped where a key is given, `apply(..., rngs={"dropout": key})`.
    """

    form: PvtForm

    @nn.compact
    def __call__(self, image: Float[Array, "b h w m"]) -> tuple[Array, ...]:
        form, maps = self.form, []
        rates = iter(np.linspace(0.0, form.drop_path, sum(form.depths)))
        convolved = {**form.common, "kernel_init": HE_NORMAL}
        x = image
        for level, width in enumerate(form.widths):
            side, stride = (7, form.patch) if level == 0 else (3, 2)
            x = Conv(width, side, stride, **convolved, name=f"embed_{level + 1}")(x)
            x = layer_norm(x, f"embed_{level + 1}_norm")
            for number in range(1, form.depths[level] + 1):
                block = form.block(Block)(
                    form.heads[level],
                    form.expansions[level] * width,
                    2 ** (LEVELS - 1 - level),
                    float(next(rates)),
                    **form.common,
                    name=f"level_{level + 1}_block_{number}",
                )
                x = block(x)
            x = layer_norm(x, f"norm_{level + 1}", 1e-6)
            maps.append(x)
        return tuple(maps)


class Block(nn.Module):
    """h = x + attention(norm x), then h + MLP(norm h); an example may skip either in training.

    Attributes:
        hidden: channels between the two layers of the MLP, where a depthwise convolution looks around.
        reduction: keys and values are read from a map of sides so many times smaller.
    """

    heads: int
    hidden: int
    reduction: int
    drop_path: float
    kernel_init: KernelInit
    dtype: DTypeLike | None

    @nn.compact
    def __call__(self, x: Map) -> Map:
        layer = partial(Conv, kernel_size=1, kernel_init=self.kernel_init, dtype=self.dtype)
        attention = ReducedAttention(self.heads, self.reduction, self.kernel_init, self.dtype, name="attention")
        h = x + self._skipped(attention(layer_norm(x, "norm_1", 1e-6)))
        y = layer(self.hidden, name="expand")(layer_norm(h, "norm_2", 1e-6))
        y = GroupedConv(kernel_init=HE_NORMAL, dtype=self.dtype, name="around")(y)
        bias = self.param("around_bias", nn.initializers.zeros_init(), (self.hidden,), jnp.float32)
        y = jax.nn.gelu(y + over_map(bias, y), approximate=False)
        return h + self._skipped(layer(x.shape[-1], name="contract")(y))

    def _skipped(self, x: Map) -> Map:
        return nn.Dropout(self.drop_path, broadcast_dims=(1, 2, 3), deterministic=not self.has_rng("dropout"))(x)


class ReducedAttention(nn.Module):
    """Attention from every token to those of a map that a convolution of side and stride `reduction` makes."""

    heads: int
    reduction: int
    kernel_init: KernelInit
    dtype: DTypeLike | None

    @nn.compact
    def __call__(self, x: Map) -> Map:
        batch, *_, channels = x.shape
        layer = partial(Conv, kernel_size=1, kernel_init=self.kernel_init, dtype=self.dtype)
        coarse, side = x, self.reduction
        if side > 1:
            reduce = Conv(channels, side, side, 0, kernel_init=HE_NORMAL, dtype=self.dtype, name="reduce")
            coarse = layer_norm(reduce(x), "reduce_norm")
        query = layer(channels, name="query")(x).reshape(batch, -1, channels)
        both = layer(2 * channels, name="key_value")(coarse).reshape(batch, -1, 2 * channels)
        key, value = jnp.split(both, 2, axis=-1)
        found, _ = token_attention(query, key, value, self.heads)
        return layer(channels, name="project")(found.reshape(x.shape))
