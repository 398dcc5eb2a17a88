"""Transformer blocks for images whose attention is between channels, hence linear in the number of pixels.

Sources: "Restormer: Efficient Transformer for High-Resolution Image Restoration" (Zamir et al., 2022), sections 3.1
and 3.2, Eqs. 1-3, for the block; the public code of CDDFuse (Zhao et al., 2023) and "Lite Transformer with Long-Short
Range Attention" (Wu et al., 2020), section 4, for the two forms of the low-frequency block. Images are (b h w c), no
layer has a bias but LayerNorm. Norms, softmax and temperature are float32 (or wider) whatever the compute dtype.

Departs from them: the long-range half of the "lsra" form attends between channels, because attention between all
pairs of pixels does not fit at full resolution; vectors shorter than 1e-6 are divided by 1e-6, not by 1e-12, which
keeps the gradient at an all-zero channel finite.
"""

from __future__ import annotations

import flax.linen as nn
import jax
import jax.numpy as jnp
from jax.typing import DTypeLike

from jaxfuse.arrays import Array, Float
from jaxfuse.errors import UserError
from jaxfuse.nn.conv import Conv
from jaxfuse.nn.grouped_conv import GroupedConv, grouped_conv
from jaxfuse.nn.initializers import KernelInit, normal

LOW_BLOCKS = ("cddfuse", "lsra")
_SPATIAL = ("depthwise", "dense", "none")


def channel_attention(
    query: Float[Array, "*b p c"],
    key: Float[Array, "*b p c"],
    value: Float[Array, "*b p c"],
    temperature: Float[Array, heads],
) -> tuple[Float[Array, "*b p c"], Float[Array, "*b heads d d"]]:
    """(output, map) of attention between the d = c / heads channels of each head, over p pixels (Restormer, Eq. 1).

    Query and key channels are scaled to unit length over the pixels, so a logit is a cosine times the head's
    temperature. Rows of the map (query channels) sum to one; the map is float32 or wider.
    """
    heads, channels = temperature.shape[0], query.shape[-1]
    check_heads(channels, heads)
    wide = jnp.promote_types(query.dtype, jnp.float32)
    q, k, v = (x.reshape(*x.shape[:-1], heads, channels // heads) for x in (query, key, value))
    inverse_q, inverse_k = (_inverse_length(x.astype(wide)) for x in (q, k))
    cosines = jnp.einsum("...phi,...phj->...hij", q, k, preferred_element_type=wide)
    cosines = cosines * inverse_q[..., :, None] * inverse_k[..., None, :]
    factors = jax.lax.broadcast_to_rank(temperature.astype(wide)[:, None, None], cosines.ndim)
    weights = jax.nn.softmax(cosines * factors, axis=-1)
    out = jnp.einsum("...hij,...phj->...phi", weights.astype(v.dtype), v)
    return out.reshape(value.shape), weights


def attended(
    qkv: Float[Array, "*b p three_c"], temperature: Float[Array, heads], projection: Float[Array, "c k"]
) -> Float[Array, "*b p k"]:
    """`channel_attention` of query, key and value side by side, and a linear map of its output.

    By one product of all channels of query and key with each other, whose diagonal holds their squared lengths and
    whose blocks the heads are; the map of each image and the linear map become one matrix, which the values meet. That
    is more arithmetic, in products that devices do for nothing, and no pass over the map to lay its heads apart: two
    Restormer blocks of 64 channels, compiled for an H200, move 69 GB in place of 75, and forward and back take 19 ms in
    place of 32 on two cores at 4 x 112 x 112 pixels of 32 channels. Reverse mode keeps query, key and value alone.
    """
    check_heads(qkv.shape[-1] // 3, temperature.shape[0])
    return jax.checkpoint(_by_gram, prevent_cse=False)(qkv, temperature, projection)


def _by_gram(qkv: Array, temperature: Array, projection: Array) -> Array:
    heads, channels = temperature.shape[0], qkv.shape[-1] // 3
    wide = jnp.promote_types(qkv.dtype, jnp.float32)
    query_key, value = qkv[..., : 2 * channels], qkv[..., 2 * channels :]
    gram = _gram(query_key)
    inverse = jax.lax.rsqrt(jnp.maximum(jnp.diagonal(gram, axis1=-2, axis2=-1), 1e-12))
    cosines = gram[..., :channels, channels:] * inverse[..., :channels, None] * inverse[..., None, channels:]
    own_head = jnp.repeat(jnp.arange(heads), channels // heads)
    same_head = jax.lax.broadcast_to_rank(own_head[:, None] == own_head[None, :], cosines.ndim)
    factors = jnp.repeat(temperature.astype(wide), channels // heads)[:, None]
    logits = jnp.where(same_head, cosines * jax.lax.broadcast_to_rank(factors, cosines.ndim), -jnp.inf)
    maps = jnp.einsum("...ij,ik->...jk", jax.nn.softmax(logits, axis=-1), projection.astype(wide))
    return jnp.einsum("...pj,...jk->...pk", value, maps.astype(value.dtype))


@jax.custom_jvp
def _gram(x: Float[Array, "*b p c"]) -> Float[Array, "*b c c"]:
    """Products of all channels with each other over the pixels, float32 or wider."""
    wide = jnp.promote_types(x.dtype, jnp.float32)
    return jnp.einsum("...pi,...pj->...ij", x, x, preferred_element_type=wide)


@_gram.defjvp
def _gram_tangent(primals: tuple[Array], tangents: tuple[Array]) -> tuple[Array, Array]:
    """One product in the dtype of x, where the rule of the product itself has two, whose gradients are float32 maps."""
    (x,), (change,) = primals, tangents
    gram = _gram(x)
    half = jnp.einsum("...pi,...pj->...ij", change, x).astype(gram.dtype)
    return gram, half + jnp.swapaxes(half, -1, -2)


def _inverse_length(x: Float[Array, "*b p heads d"]) -> Float[Array, "*b heads d"]:
    return jax.lax.rsqrt(jnp.maximum(jnp.square(x).sum(-3), 1e-12))


def check_heads(channels: int, heads: int) -> None:
    """Refuses channels that do not divide evenly among the heads."""
    if heads < 1 or channels % heads:
        raise UserError(f"{channels} channels do not divide among {heads} heads; change either number")


class ChannelNorm(nn.Module):
    """LayerNorm over the channels of each pixel, with scale and shift, variance eps 1e-5; keeps the dtype of x."""

    @nn.compact
    def __call__(self, x: Float[Array, "b h w c"]) -> Float[Array, "b h w c"]:
        wide = jnp.promote_types(x.dtype, jnp.float32)
        return nn.LayerNorm(epsilon=1e-5, dtype=wide, use_fast_variance=False, name="norm")(x).astype(x.dtype)


class Kernel(nn.Module):
    """The weights of a convolution without bias, for a caller that multiplies by them itself."""

    shape: tuple[int, ...]
    kernel_init: KernelInit = normal()

    @nn.compact
    def __call__(self) -> Array:
        return self.param("kernel", self.kernel_init, self.shape, jnp.float32)


class ChannelAttention(nn.Module):
    """MDTA: query, key and value by a 1x1 and a 3x3 convolution, `channel_attention`, 1x1 projection.

    Attributes:
        heads: the channels must be a multiple of it.
        spatial: the 3x3 convolution: "depthwise" (Restormer), "dense" (between all 3c channels, CDDFuse's low block)
            or "none".
    """

    heads: int
    spatial: str = "depthwise"
    kernel_init: KernelInit = normal()
    dtype: DTypeLike | None = None

    @nn.compact
    def __call__(self, x: Float[Array, "b h w c"]) -> Float[Array, "b h w c"]:
        channels = x.shape[-1]
        common = {"kernel_init": self.kernel_init, "dtype": self.dtype}
        qkv = Conv(3 * channels, 1, use_bias=False, **common, name="qkv")(x)
        if self.spatial == "depthwise":
            qkv = GroupedConv(**common, name="qkv_spatial")(qkv)
        elif self.spatial == "dense":
            qkv = Conv(3 * channels, 3, use_bias=False, **common, name="qkv_spatial")(qkv)
        elif self.spatial != "none":
            raise UserError(f"spatial mixing {self.spatial!r} is not known; choose one of {', '.join(_SPATIAL)}")
        temperature = self.param("temperature", nn.initializers.ones_init(), (self.heads,), jnp.float32)
        projection = Kernel((1, 1, channels, channels), self.kernel_init, name="project")()
        flat = qkv.reshape(qkv.shape[0], -1, 3 * channels)
        return attended(flat, temperature, projection[0, 0].astype(qkv.dtype)).reshape(x.shape)


class GatedFeedForward(nn.Module):
    """GDFN: 1x1 to twice the hidden channels, 3x3 in groups, gelu(first half) * second half, 1x1 back (Eqs. 2, 3).

    Attributes:
        expansion: hidden channels are int(expansion * c).
        group: channels per group of the 3x3 convolution; 1 is depthwise.
    """

    expansion: float
    group: int = 1
    kernel_init: KernelInit = normal()
    dtype: DTypeLike | None = None

    @nn.compact
    def __call__(self, x: Float[Array, "b h w c"]) -> Float[Array, "b h w c"]:
        channels = x.shape[-1]
        common = {"kernel_init": self.kernel_init, "dtype": self.dtype}
        hidden = Conv(2 * int(self.expansion * channels), 1, use_bias=False, **common, name="expand")(x)
        hidden = GroupedConv(group=self.group, **common, name="spatial")(hidden)
        gate, signal = jnp.split(hidden, 2, axis=-1)
        gated = jax.nn.gelu(gate, approximate=False) * signal
        return Conv(channels, 1, use_bias=False, **common, name="project")(gated)


class RestormerBlock(nn.Module):
    """x + MDTA(norm(x)), then the same with GDFN."""

    heads: int
    expansion: float = 2.0
    kernel_init: KernelInit = normal()
    dtype: DTypeLike | None = None

    @nn.compact
    def __call__(self, x: Float[Array, "b h w c"]) -> Float[Array, "b h w c"]:
        common = {"kernel_init": self.kernel_init, "dtype": self.dtype}
        x = x + ChannelAttention(self.heads, **common, name="attention")(ChannelNorm(name="norm_1")(x))
        return x + GatedFeedForward(self.expansion, **common, name="feed_forward")(ChannelNorm(name="norm_2")(x))


class LowBlock(nn.Module):
    """The Lite-Transformer block for low frequencies: attention, then a gated layer in groups of two channels.

    Attributes:
        form: "cddfuse" is what CDDFuse ships (channel attention behind a dense 3x3 convolution, which holds nine
            tenths of the weights); "lsra" splits the channels as the Lite Transformer paper does, one half to
            attention, the other to a light convolution.
    """

    heads: int
    form: str = "cddfuse"
    expansion: float = 1.0
    kernel_init: KernelInit = normal()
    dtype: DTypeLike | None = None

    @nn.compact
    def __call__(self, x: Float[Array, "b h w c"]) -> Float[Array, "b h w c"]:
        common = {"kernel_init": self.kernel_init, "dtype": self.dtype}
        if self.form == "cddfuse":
            attention = ChannelAttention(self.heads, "dense", **common, name="attention")
        elif self.form == "lsra":
            attention = LongShortAttention(self.heads, **common, name="attention")
        else:
            raise UserError(f"low block {self.form!r} is not known; choose one of {', '.join(LOW_BLOCKS)}")
        x = x + attention(ChannelNorm(name="norm_1")(x))
        feed_forward = GatedFeedForward(self.expansion, group=2, **common, name="feed_forward")
        return x + feed_forward(ChannelNorm(name="norm_2")(x))


class LongShortAttention(nn.Module):
    """LSRA: the first half of the channels to attention over the whole image, the second to a light convolution."""

    heads: int
    kernel_init: KernelInit = normal()
    dtype: DTypeLike | None = None

    @nn.compact
    def __call__(self, x: Float[Array, "b h w c"]) -> Float[Array, "b h w c"]:
        if x.shape[-1] % 2:
            raise UserError(f"long-short range attention halves its channels, got {x.shape[-1]}; use an even number")
        common = {"kernel_init": self.kernel_init, "dtype": self.dtype}
        far, near = jnp.split(x, 2, axis=-1)
        far = ChannelAttention(self.heads, "none", **common, name="long")(far)
        near = LightConv(self.heads, **common, name="short")(near)
        return jnp.concatenate([far, near], axis=-1)


class LightConv(nn.Module):
    """Gated linear unit, depthwise convolution with taps that sum to one, shared within each head, 1x1 projection.

    Source: "Pay Less Attention with Lightweight and Dynamic Convolutions" (Wu et al., 2019), section 3, in 2D.
    """

    heads: int
    kernel_size: int = 3
    kernel_init: KernelInit = normal()
    dtype: DTypeLike | None = None

    @nn.compact
    def __call__(self, x: Float[Array, "b h w c"]) -> Float[Array, "b h w c"]:
        channels = x.shape[-1]
        check_heads(channels, self.heads)
        common = {"kernel_init": self.kernel_init, "dtype": self.dtype}
        signal, gate = jnp.split(Conv(2 * channels, 1, use_bias=False, **common, name="expand")(x), 2, axis=-1)
        y = signal * jax.nn.sigmoid(gate)
        taps = self.param("taps", self.kernel_init, (self.kernel_size, self.kernel_size, 1, self.heads), jnp.float32)
        weights = jax.nn.softmax(taps.reshape(-1, self.heads), axis=0).reshape(taps.shape)
        kernel = jnp.repeat(weights, channels // self.heads, axis=-1)
        y = grouped_conv(y, kernel.astype(y.dtype), padding=self.kernel_size // 2)
        return Conv(channels, 1, use_bias=False, **common, name="project")(y)
