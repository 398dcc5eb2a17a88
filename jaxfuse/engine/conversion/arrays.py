"""Arrays of a state by names: those of one network, for tables of public codes, and all of them by our own names."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from jaxfuse.errors import UserError
from jaxfuse.learning.state import State

PARAMS, STATS = "params", "stats"


def own_arrays(state: State) -> dict[str, Any]:
    """Returns the leaves of parameters and statistics by their paths, such as params/generator/fusion/block_1/..."""
    found: dict[str, Any] = {}
    for name, tree in ((PARAMS, state.params), (STATS, state.stats)):
        for path, leaf in jax.tree_util.tree_leaves_with_path(tree):
            found[f"{name}/{jax.tree_util.keystr(path, simple=True, separator='/')}"] = leaf
    return found


def network_paths(own: Mapping[str, Any], at: str, title: str) -> dict[str, str]:
    """Returns, for the network below a path, its arrays' own paths -> their names in `own_arrays`.

    Raises:
        UserError: there is no such network.
    """
    found = {}
    for name in own:
        kind, _, path = name.partition("/")
        if path.startswith(f"{at}/"):
            found[path.removeprefix(f"{at}/")] = f"{kind}/{path}"
    if not found:
        players = ", ".join(sorted({name.split("/")[1] for name in own}))
        raise UserError(
            f"the weights of {title} lie at {at}, and this recipe has {players}; choose the recipe that has it"
        )
    return found


def with_arrays(state: State, given: Mapping[str, np.ndarray]) -> State:
    """Returns a state with some of its arrays, by their names in `own_arrays`, replaced."""

    def replaced(kind: str, tree: Any) -> Any:
        def one(path: Any, leaf: Any) -> Any:
            name = f"{kind}/{jax.tree_util.keystr(path, simple=True, separator='/')}"
            return jnp.asarray(given[name]) if name in given else leaf

        return jax.tree_util.tree_map_with_path(one, tree)

    return state.replace(params=replaced(PARAMS, state.params), stats=replaced(STATS, state.stats))
