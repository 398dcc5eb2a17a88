"""Functions of JAX's own primitives alone, as converters to other formats take them.

`jaxfuse.nn` has primitives of its own, and forms that are chosen by platform when a program is lowered. A converter
knows neither. Here a function is traced once, and carried out again equation by equation: calls are written out, a
choice by platform falls on the form for CPUs, which is made of simpler operations, and a primitive of our own on the
form for any device, with convolutions in 2D.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax.core import Tracer
from jax.extend.core import ClosedJaxpr, Literal

from jaxfuse.nn.trilinear import DEFAULTS

# Parameters that hold the function of a call, by the names that JAX gives them.
_CALLED = ("jaxpr", "call_jaxpr", "fun_jaxpr")
_CALLS = {"jit", "pjit", "closed_call", "remat2", "checkpoint", "custom_jvp_call", "custom_vjp_call", "custom_lin"}


def plain(function: Callable[..., Any], *shapes: Any) -> Callable[..., list[Any]]:
    """Returns a function of arrays of these shapes that gives the leaves of what `function` gives."""
    traced = jax.make_jaxpr(function)(*shapes)

    def carried_out(*arrays: Any) -> list[Any]:
        return _carried_out(traced, jax.tree.leaves(arrays))

    return carried_out


def _carried_out(traced: ClosedJaxpr, arrays: Sequence[Any]) -> list[Any]:
    jaxpr, values = traced.jaxpr, dict[Any, Any]()

    def read(variable: Any) -> Any:
        return variable.val if isinstance(variable, Literal) else values[variable]

    values.update(zip(jaxpr.constvars, traced.consts, strict=True))
    values.update(zip(jaxpr.invars, arrays, strict=True))
    for equation in jaxpr.eqns:
        given = [read(variable) for variable in equation.invars]
        made = _made(equation.primitive, equation.params, given)
        values.update(zip(equation.outvars, made, strict=True))
    return [read(variable) for variable in jaxpr.outvars]


def _made(primitive: Any, params: dict[str, Any], given: list[Any]) -> Sequence[Any]:
    name = primitive.name
    if name == "platform_index":
        return [np.int32(0)]  # that for CPUs
    if name in DEFAULTS:
        folded = {"form": "folded"} if "form" in params else {}
        return [DEFAULTS[name](*map(jnp.asarray, given), **{**params, **folded})]
    if name in _CALLS:
        called = next(params[one] for one in _CALLED if one in params)
        closed = called if isinstance(called, ClosedJaxpr) else ClosedJaxpr(called, ())
        return _carried_out(closed, given)
    known = not any(isinstance(one, Tracer) for one in given)
    if name == "cond" and not isinstance(given[0], Tracer):
        return _carried_out(params["branches"][int(given[0])], given[1:])
    rest = primitive.get_bind_params(params)
    if known and given:
        with jax.ensure_compile_time_eval():
            found = primitive.bind(*given, **rest)
    else:
        found = primitive.bind(*given, **rest)
    return found if primitive.multiple_results else [found]
