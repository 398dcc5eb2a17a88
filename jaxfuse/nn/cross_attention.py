"""Attention between the feature maps of two to four modalities, and pictures of it.

Source: Fuse4Seg (2024), Eq. 8: A = softmax(X1 Wq (X2 Wk)^T / sqrt(d)), output A X2 Wv, with the query from one modality
and key and value from the other. Departs from the paper, which gives no size: tokens are the means of square cells of
the image (at full resolution one map of 224 x 224 pixels would have 2.5e9 entries per head), as large in a whole
picture as in a patch of training; outputs come back by bilinear interpolation and are added to the queries' features;
weights are shared by all pairs; a modality with several partners receives the mean over them. The output projection
starts at zero, so the block is at first the identity.

Feature maps are (b m h w c), with one slot per modality; presence (b m) is 1 where the slot holds an image, else 0.
Maps are float32 or wider and carry no gradient.
"""

from __future__ import annotations

from collections.abc import Sequence

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
from jax.typing import DTypeLike

from jaxfuse.arrays import Array, Float
from jaxfuse.errors import UserError
from jaxfuse.nn.conv import Conv
from jaxfuse.nn.initializers import KernelInit, normal
from jaxfuse.nn.restormer import channel_attention, check_heads

DIRECTIONS = ("both", "12")

Bands = Float[Array, "b m h w c"]
Presence = Float[Array, "b m"]
# The last two axes are queries and keys: tokens, or the channels of a head.
Maps = Float[Array, "b m_query m_key heads q k"]


def ordered_pairs(slots: int, direction: str) -> tuple[tuple[int, int], ...]:
    """(query slot, key slot) of every pair: all of them for "both", only from a slot to later ones for "12"."""
    if direction not in DIRECTIONS:
        raise UserError(f"direction is {direction!r}; choose one of {', '.join(DIRECTIONS)}")
    pairs = [(i, j) for i in range(slots) for j in range(slots) if i != j]
    return tuple((i, j) for i, j in pairs if direction == "both" or i < j)


class CrossAttention(nn.Module):
    """Every slot's features plus what they attend to in the other slots; also the maps.

    Attributes:
        heads: the channels must be a multiple of it.
        cell: side of a token's cell in pixels. None attends between the channels of each head over all pixels instead
            (as `channel_attention`, linear in pixels), whose maps say nothing about places.
        direction: "both", or "12" for the literal one-way form: a slot queries later slots only.

    Raises (when traced):
        UserError: a side is no multiple of the cell, or channels do not divide among the heads.
    """

    heads: int
    cell: int | None
    direction: str = "both"
    kernel_init: KernelInit = normal()
    dtype: DTypeLike | None = None

    @nn.compact
    def __call__(self, bands: Bands, presence: Presence) -> tuple[Bands, Maps]:
        slots, (height, width, channels) = bands.shape[1], bands.shape[2:]
        check_heads(channels, self.heads)
        pairs = ordered_pairs(slots, self.direction)
        if self.cell is None:
            tokens = bands.reshape(*bands.shape[:2], height * width, channels)
        else:
            tokens = pool_tokens(bands, self.cell)
        query, key, value = (self._project(tokens, name) for name in ("query", "key", "value"))
        queries, keys = (np.array(side) for side in zip(*pairs, strict=True))
        attend = self._between_channels if self.cell is None else self._between_tokens
        out, maps = attend(query[:, queries], key[:, keys], value[:, keys])

        partners = presence[:, queries] * presence[:, keys]
        mean = _mean_over_partners(partners, pairs, slots).astype(out.dtype)
        received = self._project(jnp.einsum("bmr,brtc->bmtc", mean, out), "output")
        if self.cell is None:
            received = received.reshape(bands.shape)
        else:
            grid = height // self.cell, width // self.cell
            received = upsample_tokens(received, grid, (height, width))
        return bands + received.astype(bands.dtype), _by_slot(maps, partners, pairs, slots)

    def _project(self, tokens: Array, name: str) -> Array:
        init = nn.initializers.zeros_init() if name == "output" else self.kernel_init
        # One by one convolution of (b m) images of one row.
        return Conv(tokens.shape[-1], 1, use_bias=False, kernel_init=init, dtype=self.dtype, name=name)(tokens)

    def _between_tokens(self, query: Array, key: Array, value: Array) -> tuple[Array, Array]:
        return token_attention(query, key, value, self.heads)

    def _between_channels(self, query: Array, key: Array, value: Array) -> tuple[Array, Array]:
        temperature = self.param("temperature", nn.initializers.ones_init(), (self.heads,), jnp.float32)
        return channel_attention(query, key, value, temperature)


def token_attention(
    query: Float[Array, "*b q c"], key: Float[Array, "*b k c"], value: Float[Array, "*b k c"], heads: int
) -> tuple[Float[Array, "*b q c"], Float[Array, "*b heads q k"]]:
    """(output, map): softmax(query key^T / sqrt(c / heads)) value in each head; rows of the map sum to one."""
    wide = jnp.promote_types(query.dtype, jnp.float32)
    size = query.shape[-1] // heads
    q, k, v = (x.reshape(*x.shape[:-1], heads, size) for x in (query, key, value))
    logits = jnp.einsum("...qhd,...khd->...hqk", q, k, preferred_element_type=wide) * size**-0.5
    weights = jax.nn.softmax(logits, axis=-1)
    out = jnp.einsum("...hqk,...khd->...qhd", weights.astype(v.dtype), v)
    return out.reshape(query.shape), weights


def _mean_over_partners(partners: Array, pairs: Sequence[tuple[int, int]], slots: int) -> Array:
    """(b m r): the weight of pair r in the mean of slot m over its present partners; zero without any."""
    belongs = jnp.array([[query == slot for query, _ in pairs] for slot in range(slots)], jnp.float32)
    chosen = belongs[None] * partners[:, None, :]
    return chosen / jnp.maximum(chosen.sum(-1, keepdims=True), 1.0)


def _by_slot(maps: Array, partners: Array, pairs: Sequence[tuple[int, int]], slots: int) -> Array:
    """Maps (b r heads q k) by query and key slot; zero where there is no pair, or one of the two is absent."""
    queries, keys = (np.array(side) for side in zip(*pairs, strict=True))
    seen = jax.lax.stop_gradient(maps) * partners[..., None, None, None].astype(maps.dtype)
    table = jnp.zeros((maps.shape[0], slots, slots, *maps.shape[2:]), maps.dtype)
    return table.at[:, queries, keys].set(seen)


# --- the token grid -----------------------------------------------------------------------------------------


def pool_tokens(x: Float[Array, "*b h w c"], cell: int) -> Float[Array, "*b t c"]:
    """Means over the cells of `cell` x `cell` pixels that the image divides into, row by row.

    Raises:
        UserError: a side is no multiple of `cell`.
    """
    *batch, height, width, channels = x.shape
    if cell < 1 or height % cell or width % cell:
        raise UserError(
            f"an image of {height} x {width} pixels does not divide into cells of {cell} x {cell}; choose a side of a "
            "cell that divides both sides"
        )
    rows, columns = height // cell, width // cell
    wide = x.astype(jnp.promote_types(x.dtype, jnp.float32)).reshape(*batch, rows, cell, columns, cell, channels)
    return wide.mean((-4, -2)).reshape(*batch, rows * columns, channels).astype(x.dtype)


def upsample_tokens(
    tokens: Float[Array, "*b t c"], grid: tuple[int, int], size: tuple[int, int]
) -> Float[Array, "*b h w c"]:
    """A grid of so many rows and columns interpolated bilinearly between cell centers, constant beyond the outer ones.

    Raises:
        UserError: there are more or fewer tokens.
    """
    *batch, count, channels = tokens.shape
    if count != grid[0] * grid[1]:
        raise UserError(
            f"{count} tokens make no grid of {grid[0]} x {grid[1]}; attention between channels has no places to draw"
        )
    return jax.image.resize(tokens.reshape(*batch, *grid, channels), (*batch, *size, channels), "bilinear")


# --- pictures -----------------------------------------------------------------------------------------------


def received_attention(
    maps: Float[Array, "*b heads q k"], grid: tuple[int, int], size: tuple[int, int]
) -> Float[Array, "*b h w"]:
    """How much each place is attended to: the mean over heads and queries, on the token grid, drawn at `size`.

    Times the number of tokens, so that 1 is what every place receives from indifferent attention.
    """
    return upsample_tokens((maps.mean((-3, -2)) * maps.shape[-1])[..., None], grid, size)[..., 0]


def received_by_source(
    bands: Sequence[Maps], grid: tuple[int, int], size: tuple[int, int]
) -> Float[Array, "b h w m_key"]:
    """How much each place of each source is attended to: the mean over queries, heads, partners and bands.

    Partners are the slots whose queries read the source: all others that hold an image, or only earlier ones for the
    direction "12". Times the number of tokens, so that 1 is what every place receives from indifferent attention; as
    each row of a map sums to one, the mean over a source's tokens is exactly 1, however many partners it has. Maps of
    two sources or two cases thus share a scale, which says where a source is read, not that it is read more than
    another. A source that nobody reads, or a slot without one, is 0 everywhere.
    """
    tokens = sum((maps.mean((-3, -2)).sum(1) for maps in bands), start=jnp.float32(0))
    # Every pair of slots that is there adds one to the sum over tokens, in either band.
    total = tokens.sum(-1, keepdims=True)
    share = tokens * tokens.shape[-1] / jnp.where(total > 0, total, 1.0)
    return upsample_tokens(jnp.moveaxis(share, 1, -1), grid, size)
