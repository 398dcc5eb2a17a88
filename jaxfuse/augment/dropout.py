"""Dropout of modalities: the subset of its modalities that an example shows in one step.

It is drawn among the subsets of a table that the example can show: what it lacks is never shown, and one modality at
least always is. Nothing but the presence is made here; who reads a batch sets absent channels to 0.
"""

from __future__ import annotations

from dataclasses import dataclass

import jax
import jax.numpy as jnp

from jaxfuse.arrays import Array, Bool, Key


@dataclass(frozen=True)
class Dropout:
    """The draw of one example: (key, its own presence) -> the presence that it shows.

    Attributes:
        subsets: presences, (n) tuples of m truth values, none of them empty.
        weights: how often each is drawn among those that an example can show, as numbers above 0.
        probability: of an example whose subset is drawn; the others show all that they have.
    """

    subsets: tuple[tuple[bool, ...], ...]
    weights: tuple[float, ...]
    probability: float = 1.0

    def __call__(self, key: Key[Array, ""], own: Bool[Array, " m"]) -> Bool[Array, " m"]:
        """Draws a subset of `own`; where the table has none of its subsets, that is all of `own`."""
        table = jnp.array(self.subsets)
        of_own = (table <= own[None]).all(axis=1)
        which, whether = jax.random.split(key)
        drawn = jax.random.categorical(which, jnp.where(of_own, jnp.log(jnp.array(self.weights)), -jnp.inf))
        happens = of_own.any()
        if self.probability < 1:
            happens &= jax.random.uniform(whether) < self.probability
        # A sum over the table in place of a gather: there are few rows.
        shown = (table & (jnp.arange(len(self.subsets)) == drawn)[:, None]).any(axis=0)
        return jnp.where(happens, shown, own)
