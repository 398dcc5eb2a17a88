"""Mirrored passes: the mean of a network's outputs over all reflections of its input, each put back."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any

import jax
import jax.numpy as jnp
from jax import lax

from jaxfuse.arrays import Array
from jaxfuse.errors import UserError

NONE, ALL = "none", "all"
_AXES = (0, 1, 2)

# Weights, and tiles (batch *tile m) -> outputs (batch *tile k) by name.
Network = Callable[[Any, Array], Mapping[str, Array]]


def asked_axes(name: str, value: str) -> tuple[int, ...]:
    """Returns the canonical axes of a volume that an option names; all three for "all", which means those there are.

    Raises:
        UserError: the value of the option `name` is neither none, all nor axes.
    """
    if value in (NONE, ALL):
        return _AXES if value == ALL else ()
    axes = value.split(",")
    if len(set(axes)) < len(axes) or not set(axes) <= set(map(str, _AXES)):
        raise UserError(
            f"{name} is {value!r}; choose {NONE}, {ALL} or axes such as 0 or 0,1 (0: left and right, 1: front and "
            "back, 2: up and down)"
        )
    return tuple(sorted(map(int, axes)))


def over_mirrors(network: Network, axes: Sequence[int]) -> Network:
    """Returns the mean of a network's outputs over the 2^n reflections of its tiles along n of their axes.

    The passes are a loop around the network, which stands in the program once.

    Args:
        axes: of the arrays that the network takes and gives.
    """
    if not axes:
        return network
    passes = 2 ** len(axes)

    def mean(weights: Any, tiles: Array) -> dict[str, Array]:
        def add(number: Array, sums: dict[str, Array]) -> dict[str, Array]:
            made = network(weights, _reflected(tiles, axes, number))
            return {name: total + _reflected(made[name], axes, number) for name, total in sums.items()}

        shapes = jax.eval_shape(network, weights, tiles)
        sums = {name: jnp.zeros(one.shape, one.dtype) for name, one in shapes.items()}
        return {name: total / passes for name, total in lax.fori_loop(0, passes, add, sums).items()}

    return mean


def _reflected(values: Array, axes: Sequence[int], number: Array) -> Array:
    """Reflects an array along those axes whose bits are set in the number of the pass."""
    for place, axis in enumerate(axes):
        values = jnp.where((number >> place) & 1, jnp.flip(values, axis), values)
    return values
