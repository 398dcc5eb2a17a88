"""States split among devices: each keeps a part of parameters, their averages and optimizer states, not all of them.

A step gathers the parameters that it computes with, and lets go of them; what its optimizers make of the gradients is
made by each device for its own part alone. All else of a state, running statistics and memory, is small, or read at
places that are drawn, and stays a copy.
"""

from __future__ import annotations

from typing import Any

import jax
from jax.sharding import AbstractMesh, Mesh, NamedSharding, PartitionSpec

from jaxfuse.learning.state import State

# Arrays of fewer elements are copied: every array that is split is gathered by a collective of its own.
LEAST = 1 << 12


def split_over(mesh: Mesh | AbstractMesh, state: State) -> State:
    """Returns the sharding of every array of a state, given it or its shapes, with a part for each device of a mesh.

    An array is split along the longest of its own axes that divides evenly, of several the first.
    """
    whole = NamedSharding(mesh, PartitionSpec())
    # As JAX writes it of a program's results: another word for the same sharding would compile a step twice.
    along = tuple(name for name, size in mesh.shape.items() if size > 1)
    along = along[0] if len(along) == 1 else along

    def copied(leaf: Any) -> NamedSharding:
        del leaf
        return whole

    def split(leaf: Any) -> NamedSharding:
        even = [place for place, side in enumerate(leaf.shape) if side % mesh.size == 0]
        if leaf.size < LEAST or not even:
            return whole
        place = max(even, key=lambda place: leaf.shape[place])
        return NamedSharding(mesh, PartitionSpec(*(None,) * place, along))

    everything = jax.tree.map(copied, state)
    parts = {name: jax.tree.map(split, getattr(state, name)) for name in ("params", "opt_state", "average")}
    return everything.replace(**parts)
