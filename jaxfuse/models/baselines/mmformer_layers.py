"""Layers of mmFormer: convolutions behind their norms, and transformers over the places of a coarse map."""

from __future__ import annotations

from collections.abc import Sequence
from functools import partial

import flax.linen as nn
import jax
import jax.numpy as jnp
from jax.typing import DTypeLike

from jaxfuse.arrays import Array, Float
from jaxfuse.nn.conv import Conv, instance_norm
from jaxfuse.nn.cross_attention import token_attention
from jaxfuse.nn.initializers import KernelInit, he_normal
from jaxfuse.nn.interpolation import upsample_linear

SLOPE = 0.2
HE = he_normal(SLOPE)

# (b d h w c), of sides and channels that layers change.
Map = Float[Array, "b _ _ _ _"]
Places = Float[Array, "1 _ _ _ _"]


class PreNormConv(nn.Module):
    """Instance normalization, LeakyReLU 0.2, convolution with bias of the map as reflected beyond its edge."""

    features: int
    kernel_size: int = 3
    strides: int = 1
    kernel_init: KernelInit = HE
    dtype: DTypeLike | None = None

    @nn.compact
    def __call__(self, x: Map) -> Map:
        x = nn.leaky_relu(instance_norm(x), SLOPE)
        return Reflected(self.features, self.kernel_size, self.strides, self.kernel_init, self.dtype, name="conv")(x)


class Reflected(nn.Module):
    """Convolution, with bias, of a map that is reflected beyond its edge."""

    features: int
    kernel_size: int
    strides: int
    kernel_init: KernelInit
    dtype: DTypeLike | None

    @nn.compact
    def __call__(self, x: Map) -> Map:
        edge = self.kernel_size // 2
        if edge:
            x = jnp.pad(x, ((0, 0), *((edge, edge),) * 3, (0, 0)), mode="reflect")
        common = {"kernel_init": self.kernel_init, "dtype": self.dtype}
        return Conv(self.features, self.kernel_size, self.strides, 0, **common, name="layer")(x)


class EncoderLevel(nn.Module):
    """A convolution, halving but for the finest level, plus two more of its result."""

    features: int
    finest: bool
    kernel_init: KernelInit
    dtype: DTypeLike | None

    @nn.compact
    def __call__(self, x: Map) -> Map:
        common = {"kernel_init": self.kernel_init, "dtype": self.dtype}
        # An image is not normalized before it is read.
        if self.finest:
            x = Reflected(self.features, 3, 1, **common, name="enter")(x)
        else:
            x = PreNormConv(self.features, 3, 2, **common, name="enter")(x)
        y = PreNormConv(self.features, **common, name="conv_1")(x)
        return x + PreNormConv(self.features, **common, name="conv_2")(y)


class DecoderLevel(nn.Module):
    """Doubles a coarser map, joins it to one of this level, and narrows both."""

    features: int
    kernel_init: KernelInit
    dtype: DTypeLike | None

    @nn.compact
    def __call__(self, coarse: Map, skip: Map) -> Map:
        layer = partial(PreNormConv, self.features, kernel_init=self.kernel_init, dtype=self.dtype)
        up = layer(name="up")(upsample_linear(coarse, 2))
        return layer(1, name="narrow")(layer(name="join")(jnp.concatenate([skip, up], axis=-1)))


class Block(nn.Module):
    """h = x + attention(norm x) between all places of a map, then h + MLP(norm h)."""

    heads: int
    hidden: int
    dropout: float
    kernel_init: KernelInit
    dtype: DTypeLike | None

    @nn.compact
    def __call__(self, x: Map) -> Map:
        batch, channels = x.shape[0], x.shape[-1]
        layer = partial(Conv, kernel_size=1, kernel_init=self.kernel_init, dtype=self.dtype)
        qkv = layer(3 * channels, use_bias=False, name="qkv")(_layer_norm(x, "norm_1"))
        query, key, value = jnp.split(qkv.reshape(batch, -1, 3 * channels), 3, axis=-1)
        found, _ = token_attention(query, key, value, self.heads)
        h = x + self._dropped(layer(channels, name="project")(found.reshape(x.shape)))
        y = self._dropped(jax.nn.gelu(layer(self.hidden, name="expand")(_layer_norm(h, "norm_2")), approximate=False))
        return h + self._dropped(layer(channels, name="contract")(y))

    def _dropped(self, x: Map) -> Map:
        return nn.Dropout(self.dropout, deterministic=not self.has_rng("dropout"))(x)


def _layer_norm(x: Array, name: str) -> Array:
    """LayerNorm as a submodule of the module that is being traced; keeps the dtype of x."""
    return nn.LayerNorm(epsilon=1e-5, use_fast_variance=False, name=name)(x).astype(x.dtype)


class Transformer(nn.Module):
    """Blocks, to each of which the positions are added."""

    depth: int
    heads: int
    hidden: int
    dropout: float
    remat: bool
    kernel_init: KernelInit
    dtype: DTypeLike | None

    @nn.compact
    def __call__(self, x: Map, positions: Places) -> Map:
        block = nn.remat(Block) if self.remat else Block
        for number in range(1, self.depth + 1):
            x = x + positions.astype(x.dtype)
            name = f"block_{number}"
            x = block(self.heads, self.hidden, self.dropout, self.kernel_init, self.dtype, name=name)(x)
        return x


class Positions(nn.Module):
    """One learned vector for each place of the coarsest level, interpolated where that has another grid; 0 at first."""

    grid: tuple[int, int, int]
    width: int

    @nn.compact
    def __call__(self, sides: Sequence[int]) -> Places:
        shape = (*self.grid, self.width)
        table = self.param("table", nn.initializers.zeros_init(), shape, jnp.float32)
        if tuple(sides) != shape[:3]:
            # Without smoothing: a smaller grid samples the larger one.
            table = jax.image.resize(table, (*sides, shape[-1]), "trilinear", antialias=False)
        return table[None]
