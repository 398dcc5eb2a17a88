"""Functions made free of the traced values that they capture, which a rule of differentiation must be given openly.

A rule runs later than the call that it belongs to, when the trace of a captured value may be over: an index of `vmap`
inside `jit` is differentiated from outside when its batch exists no more. `jax.closure_convert` leaves such values
where they are, and takes out only those that look differentiated already.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Callable
from typing import Any

import jax
import numpy as np
from jax import Array
from jax.core import Tracer
from jax.extend.core import ClosedJaxpr, jaxpr_as_fun


def hoist(function: Callable[..., Any], *examples: Any) -> tuple[Callable[..., Any], list[Array]]:
    """Takes every traced value out of a pure function of arrays.

    Args:
        function: called here once, with arguments like `examples`.
        examples: arguments of the structure, shapes and types that it will be called with.

    Returns:
        (held, *arguments) -> result, and the values that are now its first argument.
    """
    closed, shape = jax.make_jaxpr(function, return_shape=True)(*examples)
    places = [place for place, constant in enumerate(closed.consts) if isinstance(constant, Tracer)]
    treedef = jax.tree.structure(shape)

    def converted(held: list[Any], *arguments: Any) -> Any:
        constants = list(closed.consts)
        for place, value in zip(places, held, strict=True):
            constants[place] = value
        leaves = jaxpr_as_fun(ClosedJaxpr(closed.jaxpr, constants))(*jax.tree.leaves(arguments))
        return jax.tree.unflatten(treedef, leaves)

    return converted, [closed.consts[place] for place in places]


def may_capture(thing: Any) -> bool:
    """Tells whether an estimator or a curvature may hold traced values: in an array, or in a function's closure."""

    def inside(leaf: Any) -> bool:
        if dataclasses.is_dataclass(leaf) and not isinstance(leaf, type):
            return any(may_capture(getattr(leaf, field.name)) for field in dataclasses.fields(leaf))
        return isinstance(leaf, Tracer) or not (
            leaf is None or isinstance(leaf, (bool, int, float, str, np.ndarray, Array))
        )

    return any(inside(leaf) for leaf in jax.tree.leaves(thing))
