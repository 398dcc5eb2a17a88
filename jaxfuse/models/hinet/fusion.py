"""Hi-Net's mixed fusion block, the forms of it that the ablations put in its place, and the fusion network.

Source: the mixed fusion block of the paper, with the order of channels of the public code; for three sources, sum,
product and maximum are over all of them. The concatenating form and the block of early and late fusion are described
by figures alone; they are read as what changes least.
"""

from __future__ import annotations

import functools
import itertools
import operator
from collections.abc import Callable, Sequence

import flax.linen as nn
import jax.numpy as jnp

from jaxfuse.arrays import Array, Bool, Float
from jaxfuse.models.hinet.form import BLOCKS, Activation, HiNetForm, Map
from jaxfuse.models.hinet.layers import Layer
from jaxfuse.nn.index_pool import max_pool
from jaxfuse.nn.presence import where_present

# Maps of the sources, and which of them each example has where it may lack some -> one map.
Join = Callable[..., Array]


def mixed(maps: Sequence[Map]) -> Float[Array, "b h w c3"]:
    """Sum, product and maximum over the sources, one after the other along the channels."""
    over = (operator.add, operator.mul, jnp.maximum)
    return jnp.concatenate([functools.reduce(operation, maps) for operation in over], axis=-1)


def concatenated(maps: Sequence[Map]) -> Float[Array, "b h w cs"]:
    """The sources' maps one after the other along the channels."""
    return jnp.concatenate(maps, axis=-1)


def mixed_over(maps: Sequence[Map], present: Bool[Array, "b s"]) -> Float[Array, "b h w c3"]:
    """`mixed` over the sources that each example has, P of them, brought to the scale of two: of two it is `mixed`.

    The sum is 2 / P times their sum; the product the mean of the products of all pairs, of one source its square; the
    maximum is theirs. Of an example without any all three are 0. Absent maps are of no account, whatever they hold.
    """
    count = present.sum(1)
    there = [present[:, place] for place in range(len(maps))]
    shown = [where_present(one, each) for one, each in zip(there, maps, strict=True)]
    total = functools.reduce(operator.add, shown)
    products = functools.reduce(operator.add, [a * b for a, b in itertools.combinations(shown, 2)])
    products = _times(1 / jnp.maximum(count * (count - 1) / 2, 1), products)
    lowest = float(jnp.finfo(total.dtype).min)
    greatest = functools.reduce(
        jnp.maximum, [where_present(one, each, lowest) for one, each in zip(there, maps, strict=True)]
    )
    parts = (
        _times(2 / jnp.maximum(count, 1), total),
        where_present(count == 1, jnp.square(total), products),
        where_present(count > 0, greatest),
    )
    return jnp.concatenate(parts, axis=-1)


def _times(factor: Float[Array, " b"], x: Map) -> Map:
    return x * factor.reshape(-1, *(1,) * (x.ndim - 1)).astype(x.dtype)


JOINS: dict[str, Join] = dict(zip(BLOCKS, (mixed, concatenated), strict=True))


class FusionBlock(nn.Module):
    """A map of every source, alike in shape -> one map.

    What is joined goes through a layer as wide as one source's map; its output, behind which the map of the block
    before is laid where there is one, through a layer to `features`. `present` goes on to the join where it is told.
    """

    form: HiNetForm
    train: bool
    join: Join
    activation: Activation
    features: int

    @nn.compact
    def __call__(
        self,
        maps: Sequence[Map],
        previous: Float[Array, "b h w p"] | None = None,
        present: Bool[Array, "b s"] | None = None,
    ) -> Float[Array, "b h w k"]:
        joined = self.join(maps) if present is None else self.join(maps, present)
        x = Layer(self.form, self.train, maps[0].shape[-1], self.activation, name="mix")(joined)
        if previous is not None:
            x = jnp.concatenate([x, previous], axis=-1)
        return Layer(self.form, self.train, self.features, self.activation, name="fuse")(x)


class SkipBlock(nn.Module):
    """The block of early and late fusion: maps and the map of the block before, concatenated, through two layers."""

    form: HiNetForm
    train: bool
    features: int

    @nn.compact
    def __call__(self, maps: Sequence[Map], previous: Float[Array, "b h w p"]) -> Float[Array, "b h w k"]:
        x = concatenated([*maps, previous])
        x = Layer(self.form, self.train, maps[0].shape[-1], nn.relu, name="mix")(x)
        return Layer(self.form, self.train, self.features, nn.relu, name="fuse")(x)


class FusionNetwork(nn.Module):
    """Maps of all sources by level, finest first -> the latent map at the deepest level, four times `width` wide.

    Between two blocks the maxima over windows of 2x2 pixels go on, which the paper leaves out and the sizes ask for.
    """

    form: HiNetForm
    train: bool
    join: Join

    @nn.compact
    def __call__(
        self, levels: Sequence[Sequence[Array]], present: Bool[Array, "b s"] | None = None
    ) -> Float[Array, "b h8 w8 c"]:
        block = self.form.block(FusionBlock, self.train, self.join, self.form.fusion_activation)
        n, x = self.form.width, None
        for number, (maps, width) in enumerate(zip(levels, (2 * n, 4 * n, 4 * n), strict=True), start=1):
            previous = None if x is None else max_pool(x)
            x = block(width, name=f"block_{number}")(maps, previous, present)
        return x  # pyright: ignore[reportReturnType]  # there are levels
