"""The evidence of a stochastic step, in the `Info` of `hypergradient`, made of what the step has at hand."""

from __future__ import annotations

import dataclasses
import math
from typing import Any

import jax
import jax.numpy as jnp
from jax import Array, lax

from jaxfuse.implicit import trees
from jaxfuse.implicit.certificate import Certificate, Limits, Place, Steps, certify, inner_limit, measured
from jaxfuse.implicit.info import Info
from jaxfuse.implicit.krylov import Solved
from jaxfuse.implicit.problem import LinearSystem
from jaxfuse.implicit.rounding import coarseness
from jaxfuse.implicit.solvers.oracles import combine
from jaxfuse.implicit.trees import Vector


@dataclasses.dataclass(frozen=True)
class Adjoint:
    """The adjoint of a step: q, d upper / dy and (d^2 lower / dy^2) q, in the structure of y and on its batches."""

    q: Any
    target: Any
    image: Any


@dataclasses.dataclass(frozen=True)
class Reading:
    """The quantities that a step saw, in the structure of y where it is no scalar.

    Attributes:
        value, inner_value: upper and lower on batches.
        y, slope: inner variables and d lower / dy there, on a batch.
        last: inner variables after the last move of the step.
        before: the same before it.
        adjoint: None for a solver without.
        steps, products: steps in y, and curvature products, those of a pass over all batches included.
    """

    value: Array
    inner_value: Array
    y: Any
    slope: Any
    last: Any
    before: Any
    adjoint: Adjoint | None
    steps: int
    products: Any

    def info(self, estimator: str, gradient: Any, evidence: bool) -> Info:
        """Makes the `Info`: with a `Certificate` of the adjoint if evidence is asked for, else with `Steps`."""
        adjoint = None if self.adjoint is None else self.adjoint.q
        nothing = jnp.zeros((), trees.scalar_type(vector_of(self.y)))
        return Info(
            value=self.value,
            inner_value=self.inner_value,
            aux={"upper": None, "lower": None},
            adjoint=adjoint,
            evidence=_certificate(self) if evidence else _steps(self),
            steps=jnp.array(self.steps),
            products=jnp.array(self.products),
            damping=nothing,
            best_iterate=jnp.array(False),
            results_finite=trees.all_finite([*jax.tree.leaves(gradient), self.value, self.inner_value]),
            policy="ignore",
            estimator=estimator,
        )


def vector_of(tree: Any) -> Vector:
    return [trees.promote(leaf) for leaf in jax.tree.leaves(tree)]


def _steps(reading: Reading) -> Steps:
    inner, y = lax.stop_gradient((vector_of(reading.slope), vector_of(reading.y)))
    move = lax.stop_gradient(vector_of(combine(reading.last, reading.before, -1)))
    scaled, units = measured(inner, move, inner, y)
    inner_squared, move_squared, _, place_squared = trees.dots([(each, each) for each in scaled])
    limit = inner_limit(None, trees.coarsest_type(y), coarseness(reading.y))
    return Steps(units, inner_squared, place_squared, move_squared, limit.astype(move_squared.dtype))


def _certificate(reading: Reading) -> Certificate:
    """The certificate of an approximation: it promises an adjoint with no more residual than the zero vector."""
    assert reading.adjoint is not None
    q, target, image = (vector_of(part) for part in (reading.adjoint.q, reading.adjoint.target, reading.adjoint.image))
    y = vector_of(reading.y)
    kind, rounding = trees.coarsest_type(target), coarseness(reading.y)
    return certify(
        LinearSystem(
            product=lambda vector, step: image,
            target=target,
            symmetric=True,
            definite=True,
            fresh=True,
            read=lambda tree, name: trees.read(tree, y, name),
            tree=lambda vector: vector,
        ),
        Solved(q, jnp.array(reading.steps), jnp.array(reading.products), jnp.full((), jnp.inf), jnp.array(False)),
        image,
        place=Place(y, vector_of(reading.slope), None, rounding, None),
        limits=Limits(1 + 100 * float(jnp.finfo(kind).eps), math.inf, inner_limit(None, kind, rounding)),
        relies=False,
        solves=True,
    )
