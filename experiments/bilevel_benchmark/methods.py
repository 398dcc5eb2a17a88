"""The solvers of the comparison, each for a pair of rates, and how many oracle calls a step of each takes.

One call: a gradient of either function in x or in y, or a product with lower_yy or lower_xy, on one batch.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import jax
import jax.numpy as jnp
import optax
from jax import lax

from experiments.bilevel_benchmark.tasks import Task, whole
from jaxfuse.implicit import cg, hypergradient, solvers

INNER_STEPS, TERMS, SHARE, DIRECTIONS = 10, 10, 0.5, 5  # those of benchmark_bilevel, which has one direction


@dataclass(frozen=True)
class Method:
    """A way to solve a task.

    Attributes:
        name, group: "ours" (a stochastic solver of jaxfuse), "whole data" (each step sees all of it), or a library.
        calls: Task -> mean oracle calls of a step.
        start: (task, inner rate, outer rate, key) -> state.
        advance: (task, inner rate, outer rate, key, state) -> state after a step; the state has `.x` and `.y`.
        program: (task, steps between two points, points) -> (inner rate, outer rate, seed) -> x and y at all points;
            of a method that is not in JAX.
        tasks: the tasks that it can do; all if empty.
    """

    name: str
    group: str
    calls: Callable[[Task], float]
    start: Callable[..., Any] | None
    advance: Callable[..., Any] | None
    program: Callable[..., Any] | None = None
    tasks: tuple[str, ...] = ()


def period_of(task: Task) -> int:
    """Steps between two passes over all batches: as many as there are batches of both functions."""
    return sum(task.batches)


def penalty(step: Any) -> Any:
    return 1 + 0.1 * step.astype(float)


Make = Callable[[Task, Any, Any, Any], solvers.StochasticSolver]  # (task, inner, outer, inner rate) -> solver

MAKERS: dict[str, tuple[Make, Callable[[Task], float]]] = {
    "SOBA": (lambda task, i, o, rate: solvers.soba(i, o), lambda task: 5),
    "SABA": (lambda task, i, o, rate: solvers.saba(i, o, *task.batches), lambda task: 5),
    "SRBA": (
        lambda task, i, o, rate: solvers.srba(i, o, period_of(task)),
        lambda task: 10 + (2 * task.batches[0] + 3 * task.batches[1] - 10) / period_of(task),
    ),
    "FSLA": (lambda task, i, o, rate: solvers.fsla(i, o, SHARE), lambda task: 7),
    "AmIGO": (
        lambda task, i, o, rate: solvers.amigo(i, o, INNER_STEPS, TERMS),
        lambda task: INNER_STEPS + TERMS + 3,
    ),
    "stocBiO": (
        lambda task, i, o, rate: solvers.stocbio(i, o, rate, INNER_STEPS, TERMS),
        lambda task: INNER_STEPS + TERMS + 3,
    ),
    "BSA": (
        lambda task, i, o, rate: solvers.bsa(i, o, rate, INNER_STEPS, TERMS),
        lambda task: INNER_STEPS + (TERMS - 1) / 2 + 3,
    ),
    "TTSA": (lambda task, i, o, rate: solvers.ttsa(i, o, rate, terms=TERMS), lambda task: 1 + (TERMS - 1) / 2 + 3),
    "MRBO": (
        lambda task, i, o, rate: solvers.mrbo(i, o, rate, SHARE, SHARE, TERMS),
        lambda task: 2 * (1 + TERMS + 3),
    ),
    "SUSTAIN": (
        lambda task, i, o, rate: solvers.sustain(i, o, rate, SHARE, SHARE, TERMS),
        lambda task: 2 * (1 + (TERMS - 1) / 2 + 3),
    ),
    "VRBO": (
        lambda task, i, o, rate: solvers.vrbo(i, o, rate, period_of(task), 3, TERMS),
        lambda task: 3 * 2 * (1 + TERMS + 3) + (2 * task.batches[0] + (TERMS + 2) * task.batches[1]) / period_of(task),
    ),
    "F2SA": (
        # The paper's rate of x is that of y over the penalty, times a constant.
        lambda task, i, o, rate: solvers.f2sa(
            i, optax.chain(o, optax.scale_by_schedule(lambda step: 1 / penalty(step))), penalty, INNER_STEPS
        ),
        lambda task: 3 * INNER_STEPS + 3,
    ),
    "BOME": (
        lambda task, i, o, rate: solvers.bome(i, o, 0.5, None, INNER_STEPS),
        lambda task: INNER_STEPS + 2 + 3,
    ),
    "PZOBO": (
        lambda task, i, o, rate: solvers.pzobo(i, o, 0.1, DIRECTIONS, INNER_STEPS),
        lambda task: INNER_STEPS * (1 + DIRECTIONS) + 2,
    ),
}


def stochastic(name: str) -> Method:
    """A stochastic solver of jaxfuse with plain gradient steps of constant rates in both levels."""
    make, calls = MAKERS[name]

    def solver(task: Task, inner: Any, outer: Any) -> solvers.StochasticSolver:
        return make(task, optax.sgd(inner), optax.sgd(outer), inner)

    def start(task: Task, inner: Any, outer: Any, key: Any) -> Any:
        return solver(task, inner, outer).bind(task.upper, task.lower).init(*task.start, key)

    def advance(task: Task, inner: Any, outer: Any, key: Any, state: Any) -> Any:
        found = solver(task, inner, outer)
        drawn = jax.random.split(jax.random.fold_in(key, state.step))
        draws = [
            solvers.draw(data, jax.random.randint(each, (count,), 0, batches))
            for data, each, count, batches in zip(
                task.data, drawn, (found.upper_draws, found.lower_draws), task.batches, strict=True
            )
        ]
        return found.bind(task.upper, task.lower).update(state, *draws)[0]

    return Method(name, "ours", calls, start, advance)


@jax.tree_util.register_dataclass
@dataclass(frozen=True)
class Whole:
    """The state of a method that sees all data in every step."""

    x: Any
    y: Any
    q: Any


def descent(name: str, group: str, gradient: Callable[..., tuple[Any, Any]], products: int) -> Method:
    """Steps of x along a hypergradient over all data, at the end of some steps in y from the last one on.

    `gradient` is (upper, lower, x, y, q) -> (gradient, q), of functions of (x, y); `products` what it takes of
    lower_yy.
    """

    def start(task: Task, inner: Any, outer: Any, key: Any) -> Whole:
        x, y = task.start
        return Whole(x, y, jax.tree.map(jnp.zeros_like, y))

    def advance(task: Task, inner: Any, outer: Any, key: Any, state: Whole) -> Whole:
        upper, lower = (whole(each, data) for each, data in zip((task.upper, task.lower), task.data, strict=True))
        slope = jax.grad(lower, 1)

        def move(_, y):
            return jax.tree.map(lambda a, b: a - inner * b, y, slope(state.x, y))

        y = lax.fori_loop(0, INNER_STEPS, move, state.y)
        found, q = gradient(upper, lower, state.x, y, state.q)
        return Whole(jax.tree.map(lambda a, b: a - outer * b, state.x, found), y, q)

    return Method(name, group, lambda task: calls_of_descent(task, products), start, advance)


def calls_of_descent(task: Task, products: int) -> float:
    """Counts the oracle calls of a step over all data: two slopes above; steps, products, a cross product below."""
    upper, lower = task.batches
    return 2 * upper + (INNER_STEPS + products + 1) * lower


def own_gradient(upper: Any, lower: Any, x: Any, y: Any, q: Any) -> tuple[Any, Any]:
    found, info = hypergradient(upper, lower, x, y, estimator=cg(steps=TERMS, start=q), policy="ignore")
    return found, info.adjoint


def own_descent() -> Method:
    """Hypergradient descent over all data with conjugate gradients of jaxfuse, begun at the last adjoint."""
    return descent("hypergradient", "whole data", own_gradient, TERMS + 1)
