"""The vision transformer, on maps (b h w c) of tokens, with optional adapters.

Source: "An Image is Worth 16x16 Words" (Dosovitskiy et al., 2021), Eqs. 1-4, without class token; adapters stand where
SAM-Med2D (Cheng et al., 2023) has them. Norms have eps 1e-6; norms and softmax are float32 (or wider) whatever the
compute dtype.

Dropout acts only where a key is given, `apply(..., rngs={"dropout": key})`; without one the result is a pure function
of weights and input.
"""

from __future__ import annotations

import flax.linen as nn
import jax
from jax.typing import DTypeLike

from jaxfuse.arrays import Array, Float
from jaxfuse.nn.adapter import Adapter
from jaxfuse.nn.conv import Conv
from jaxfuse.nn.cross_attention import token_attention
from jaxfuse.nn.initializers import KernelInit, normal
from jaxfuse.nn.restormer import check_heads

NO_ADAPTER = "none"


class VisionTransformer(nn.Module):
    """1x1 embedding, positions, dropout, blocks, LayerNorm.

    Attributes:
        width: channels of a token; a multiple of `heads`.
        depth: blocks.
        hidden: channels between the two layers of each MLP.
        grid: rows and columns of the table of positions, which is that of the maps seen in training.
        adapter: "depthwise", "dense" (see `Adapter`) or "none".
        plain_start: adapters add nothing at first.
        dropout: rate after the positions and after both layers of each MLP.
        remat: every block is computed again in the backward pass.
    """

    width: int
    depth: int
    heads: int
    hidden: int
    grid: tuple[int, int]
    adapter: str = "depthwise"
    plain_start: bool = False
    dropout: float = 0.1
    remat: bool = False
    kernel_init: KernelInit = normal()
    dtype: DTypeLike | None = None

    @nn.compact
    def __call__(self, x: Float[Array, "b h w m"], *, adapters: bool = True) -> Float[Array, "b h w c"]:
        """Without `adapters` their branches are left out, whatever weights they have."""
        common = {"kernel_init": self.kernel_init, "dtype": self.dtype}
        x = Conv(self.width, 1, **common, name="embed")(x)
        x = PositionEmbedding(self.grid, name="positions")(x)
        x = _dropout(self, x, self.dropout)
        block = nn.remat(TransformerBlock) if self.remat else TransformerBlock
        for number in range(1, self.depth + 1):
            x = block(
                self.heads,
                self.hidden,
                self.adapter if adapters else NO_ADAPTER,
                self.plain_start,
                self.dropout,
                **common,
                name=f"block_{number}",
            )(x)
        return _layer_norm(x, "norm")


class TransformerBlock(nn.Module):
    """h = x + attention(norm x), u = norm h: h + MLP(u) + adapter(u). Attributes as in `VisionTransformer`."""

    heads: int
    hidden: int
    adapter: str = NO_ADAPTER
    plain_start: bool = False
    dropout: float = 0.1
    kernel_init: KernelInit = normal()
    dtype: DTypeLike | None = None

    @nn.compact
    def __call__(self, x: Float[Array, "b h w c"]) -> Float[Array, "b h w c"]:
        common = {"kernel_init": self.kernel_init, "dtype": self.dtype}
        h = x + SelfAttention(self.heads, **common, name="attention")(_layer_norm(x, "norm_1"))
        u = _layer_norm(h, "norm_2")
        out = h + MLP(self.hidden, self.dropout, **common, name="mlp")(u)
        if self.adapter == NO_ADAPTER:
            return out
        return out + Adapter(self.adapter, self.plain_start, **common, name="adapter")(u)


class SelfAttention(nn.Module):
    """Attention between all tokens of a map in each head; query, key and value from one linear map, then another."""

    heads: int
    kernel_init: KernelInit = normal()
    dtype: DTypeLike | None = None

    @nn.compact
    def __call__(self, x: Float[Array, "b h w c"]) -> Float[Array, "b h w c"]:
        batch, height, width, channels = x.shape
        check_heads(channels, self.heads)
        common = {"kernel_init": self.kernel_init, "dtype": self.dtype}
        qkv = Conv(3 * channels, 1, **common, name="qkv")(x).reshape(batch, height * width, 3, channels)
        out, _ = token_attention(qkv[:, :, 0], qkv[:, :, 1], qkv[:, :, 2], self.heads)
        return Conv(channels, 1, **common, name="project")(out.reshape(x.shape))


class MLP(nn.Module):
    """Linear to `hidden` channels, GELU, linear back; dropout after either layer."""

    hidden: int
    dropout: float = 0.1
    kernel_init: KernelInit = normal()
    dtype: DTypeLike | None = None

    @nn.compact
    def __call__(self, x: Float[Array, "b h w c"]) -> Float[Array, "b h w c"]:
        common = {"kernel_init": self.kernel_init, "dtype": self.dtype}
        y = jax.nn.gelu(Conv(self.hidden, 1, **common, name="expand")(x), approximate=False)
        y = _dropout(self, y, self.dropout)
        return _dropout(self, Conv(x.shape[-1], 1, **common, name="project")(y), self.dropout)


class PositionEmbedding(nn.Module):
    """x plus a learned vector per place of `grid`; on a map of another size the table is resized to it."""

    grid: tuple[int, int]

    @nn.compact
    def __call__(self, x: Float[Array, "b h w c"]) -> Float[Array, "b h w c"]:
        table = self.param("table", normal(), (*self.grid, x.shape[-1]))
        return x + resize_positions(table, (x.shape[1], x.shape[2])).astype(x.dtype)[None]


def resize_positions(table: Float[Array, "rows columns c"], size: tuple[int, int]) -> Float[Array, "h w c"]:
    """The table itself if it has that size, else interpolated bilinearly between cell centers, constant beyond."""
    if table.shape[:2] == size:
        return table
    # Without smoothing: a smaller table samples the larger one.
    return jax.image.resize(table, (*size, table.shape[-1]), "bilinear", antialias=False)


def _layer_norm(x: Array, name: str) -> Array:
    """LayerNorm over the channels, as a submodule of the module that is being traced; keeps the dtype of x."""
    return nn.LayerNorm(epsilon=1e-6, use_fast_variance=False, name=name)(x).astype(x.dtype)


def _dropout(module: nn.Module, x: Array, rate: float) -> Array:
    return nn.Dropout(rate, deterministic=not module.has_rng("dropout"))(x)
