"""Rates of parts: an optimizer that moves some parts of a player more slowly than others, or not at all."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import jax
import optax

from jaxfuse.errors import UserError


def with_part_rates(
    optimizer: optax.GradientTransformation, rates: Mapping[str, float]
) -> optax.GradientTransformation:
    """Multiplies the updates of the parts at these paths, such as "branch_a/trunk"; those of the others are as before.

    The optimizer's state is its own: moments, counts and the norm that gradients are cut to do not depend on the rates.
    A part at rate 0 keeps its values bit by bit.

    Raises:
        UserError: a rate is negative, or the player has no such part.
    """
    if slow := {path: rate for path, rate in rates.items() if rate < 0}:
        raise UserError(f"the rates of parts are {slow}; they must not be negative")

    def update(updates: Any, state: Any, params: Any = None) -> tuple[Any, Any]:
        made, state = optimizer.update(updates, state, params)
        for path, rate in rates.items():
            made = _scaled(made, path.split("/"), rate, path)
        return made, state

    return optax.GradientTransformation(optimizer.init, update)


def _scaled(tree: Any, path: list[str], rate: float, whole: str) -> Any:
    if not path:
        return jax.tree.map(lambda leaf: leaf * rate, tree)
    if not isinstance(tree, Mapping) or path[0] not in tree:
        raise UserError(f"a rate is given for {whole}, and the parameters have no such part")
    return {**tree, path[0]: _scaled(tree[path[0]], path[1:], rate, whole)}
