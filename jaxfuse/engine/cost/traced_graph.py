"""A traced program as one list of operations: calls opened, common subexpressions shared, what is unused left out.

Nothing is compiled. Where a function has a form for each platform, the one for a GPU of NVIDIA is taken. What is to be
computed again in the backward pass counts as kept: an operation stands here once, however often it is asked for.
"""

from __future__ import annotations

import math
from collections.abc import Hashable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from jax.extend.core import ClosedJaxpr, Jaxpr, Literal

# Operations that are opened, each with the parameter that holds its body.
_CALLS = {"jit": "jaxpr", "closed_call": "call_jaxpr", "remat2": "jaxpr", "custom_jvp_call": "call_jaxpr"}
_CALLS |= {"custom_vjp_call": "call_jaxpr", "core_call": "call_jaxpr", "custom_vjp_call_jaxpr": "fun_jaxpr"}


@dataclass(frozen=True)
class Value:
    """An array of a program.

    Attributes:
        elements: their number.
        bytes: its size.
    """

    elements: int
    bytes: int


@dataclass(frozen=True)
class Operation:
    """One operation: its name, parameters, and the numbers of the values that it reads and makes."""

    name: str
    params: Mapping[str, Any]
    inputs: tuple[int, ...]
    outputs: tuple[int, ...]


@dataclass
class Graph:
    """A program whose values bear numbers.

    Attributes:
        values: by number.
        operations: in an order in which they can run.
        inputs, outputs: of the program. Constants are inputs too.
    """

    values: list[Value] = field(default_factory=list)
    operations: list[Operation] = field(default_factory=list)
    inputs: list[int] = field(default_factory=list)
    outputs: list[int] = field(default_factory=list)

    def new(self, shaped: Any) -> int:
        """Adds a value of this shape and type."""
        elements = math.prod(shaped.shape)
        self.values.append(Value(elements, elements * getattr(shaped.dtype, "itemsize", 0)))
        return len(self.values) - 1


def graph_of(program: ClosedJaxpr | Jaxpr) -> Graph:
    """Returns the operations of a program, calls opened."""
    graph = Graph()
    plain = program.jaxpr if isinstance(program, ClosedJaxpr) else program
    opened = _Opened(graph)
    given = [graph.new(one.aval) for one in (*plain.constvars, *plain.invars)]
    graph.inputs.extend(given)
    graph.outputs.extend(opened.run(plain, given))
    _leave_out_unused(graph)
    return graph


class _Opened:
    """Appends the operations of bodies to a graph; one that is there already is not appended again."""

    def __init__(self, graph: Graph) -> None:
        self.graph = graph
        self.known: dict[Hashable, tuple[int, ...]] = {}

    def run(self, body: Jaxpr, given: Sequence[int]) -> list[int]:
        """Appends a body whose constants and arguments have these numbers; returns those of its results."""
        names = dict(zip((*body.constvars, *body.invars), given, strict=True))
        for equation in body.eqns:
            inputs = [self._read(names, one) for one in equation.invars]
            names.update(zip(equation.outvars, self._outputs(equation, inputs), strict=True))
        return [self._read(names, one) for one in body.outvars]

    def _read(self, names: Mapping[Any, int], one: Any) -> int:
        if not isinstance(one, Literal):
            return names[one]
        key = ("literal", str(one.val), str(one.aval))
        if key not in self.known:
            self.known[key] = (self.graph.new(one.aval),)
        return self.known[key][0]

    def _outputs(self, equation: Any, inputs: list[int]) -> Sequence[int]:
        name, params = equation.primitive.name, equation.params
        if name in _CALLS:
            return self._opened(params[_CALLS[name]], inputs)
        if name == "cond" and params.get("branches_platforms"):
            return self._opened(params["branches"][_for_gpu(params["branches_platforms"])], inputs[1:])
        key = (name, str(sorted(params.items(), key=lambda one: one[0])), tuple(inputs))
        if key not in self.known:
            self.known[key] = tuple(self.graph.new(one.aval) for one in equation.outvars)
            self.graph.operations.append(Operation(name, params, tuple(inputs), self.known[key]))
        return self.known[key]

    def _opened(self, body: Any, inputs: Sequence[int]) -> list[int]:
        if not isinstance(body, ClosedJaxpr):
            return self.run(body, inputs)
        constants = [self.graph.new(one.aval) for one in body.jaxpr.constvars]
        self.graph.inputs.extend(constants)
        return self.run(body.jaxpr, [*constants, *inputs])


def _for_gpu(platforms: Sequence[Sequence[str] | None]) -> int:
    """The number of the form for NVIDIA's platform, or of that for all others."""
    return next(i for i, named in enumerate(platforms) if named is None or "cuda" in named)


def _leave_out_unused(graph: Graph) -> None:
    needed, kept = set(graph.outputs), []
    for one in reversed(graph.operations):
        if not needed.isdisjoint(one.outputs):
            needed.update(one.inputs)
            kept.append(one)
    graph.operations[:] = reversed(kept)
