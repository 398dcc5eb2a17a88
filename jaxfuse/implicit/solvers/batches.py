"""Batches of data on their way to a step: all of a level's, the ones drawn, and which these are."""

from __future__ import annotations

import dataclasses
from typing import Any

import jax
import jax.numpy as jnp
from jax import Array


@jax.tree_util.register_dataclass
@dataclasses.dataclass(frozen=True)
class Draws:
    """The batches of one level that a step takes, in the order in which it takes them.

    Attributes:
        data: pytree of arrays (draws, ...); None for a function without data, which is called with the batch None.
        numbers: (draws,), the places of these batches among all; only `saba` needs them.
        whole: pytree of arrays (batches, ...), all there are; only `saba`, `srba` and `vrbo` need them.
    """

    data: Any
    numbers: Array | None = None
    whole: Any = None

    def one(self, place: int) -> Any:
        """The batch at a place."""
        return jax.tree.map(lambda leaf: leaf[place], self.data)

    def part(self, start: int, count: int) -> Draws:
        """The `count` draws from `start` on."""
        return Draws(jax.tree.map(lambda leaf: leaf[start : start + count], self.data))


def split_batches(data: Any, size: int) -> Any:
    """Cuts arrays (samples, ...) into batches (samples / size, size, ...).

    Raises:
        ValueError: arrays of different lengths, or batches that would leave samples over.

    Example:
        >>> import numpy as np
        >>> from jaxfuse.implicit import solvers
        >>> solvers.split_batches(np.zeros((12, 3)), 4).shape
        (3, 4, 3)
    """
    samples = _count(data, "data")
    if size < 1 or samples % size:
        raise ValueError(
            f"data has {samples} samples, which batches of {size} do not divide: leave out {samples % max(size, 1)} "
            "samples, or choose another size"
        )
    return jax.tree.map(lambda leaf: jnp.reshape(leaf, (samples // size, size, *jnp.shape(leaf)[1:])), data)


def draw(whole: Any, numbers: Any) -> Draws:
    """Returns the batches of these numbers, with all that a solver may need of them; `whole` None means no data.

    Example:
        >>> import numpy as np
        >>> from jaxfuse.implicit import solvers
        >>> batches = np.arange(12.0).reshape(3, 4)
        >>> solvers.draw(batches, np.array([2, 0])).data.tolist()
        [[8.0, 9.0, 10.0, 11.0], [0.0, 1.0, 2.0, 3.0]]
    """
    numbers = jnp.asarray(numbers)
    return Draws(jax.tree.map(lambda leaf: leaf[numbers], whole), numbers, whole)


def batches_of(whole: Any, name: str) -> int:
    """Returns the number of batches in `whole`; 1 where the function has no data."""
    return 1 if whole is None else _count(whole, name)


def _count(data: Any, name: str) -> int:
    lengths = sorted({jnp.shape(leaf)[0] if jnp.ndim(leaf) else 0 for leaf in jax.tree.leaves(data)})
    if len(lengths) != 1 or lengths[0] < 1:
        raise ValueError(f"{name} has arrays with first axes of lengths {lengths}; one common length was expected")
    return lengths[0]


def read_draws(draws: Any, expected: int, solver: str, level: str) -> Draws:
    """Returns the draws of one level as they are checked at the border of `update`.

    Raises:
        ValueError: none came, or another number than the solver takes.
    """
    wanted = f"{solver} takes {expected} batch{'es' * (expected != 1)} of {level} a step"
    if draws is None:
        raise ValueError(f"{wanted}, and none came: pass Draws(data), or Draws(None) if {level} has no data")
    draws = draws if isinstance(draws, Draws) else Draws(draws)
    for what, leaves in (("data", jax.tree.leaves(draws.data)), ("numbers", jax.tree.leaves(draws.numbers))):
        lengths = {jnp.shape(leaf)[0] if jnp.ndim(leaf) else None for leaf in leaves}
        if lengths - {expected}:
            came = sorted(jnp.shape(leaf) for leaf in leaves)
            raise ValueError(f"{wanted}, and the {what} have shapes {came}: their first axis counts the batches")
    return draws
