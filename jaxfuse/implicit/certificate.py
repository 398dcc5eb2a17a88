"""The end of a linear solve, measured anew: what a solver says of itself is not believed."""

from __future__ import annotations

from typing import TYPE_CHECKING, NamedTuple

import jax.numpy as jnp
from jax import Array

from jaxfuse.implicit import trees
from jaxfuse.implicit.krylov import Solved
from jaxfuse.implicit.problem import LinearSystem
from jaxfuse.implicit.trees import Vector

if TYPE_CHECKING:
    from jaxfuse.implicit.adjoint import AdjointEstimator


class Certificate(NamedTuple):
    """The evidence about one solve; fields as in `Info`, `residual` being that of the system solved."""

    residual: Array
    adjoint_error: Array
    least_curvature: Array
    displacement: Array
    solve_converged: Array
    positive: Array


def certify(
    estimator: AdjointEstimator, system: LinearSystem, solved: Solved, image: Vector, inner_norm: Array
) -> Certificate:
    """Evidence from `image`, the system's matrix times the solution, and `inner_norm`, |d lower/dy| or |residual|.

    |q - q*| <= |r| / (least eigenvalue), which the least curvature met estimates from above, and only of a definite
    system; of another, the residual has to stand for the error.
    """
    residual, target_length = relative_residual(system.target, image)
    squared = trees.dot(solved.adjoint, solved.adjoint)
    length = jnp.sqrt(squared)
    least = jnp.full_like(residual, jnp.nan)
    if system.symmetric:
        least = jnp.fmin(solved.least_curvature, trees.dot(solved.adjoint, image) / squared)
    error, known = residual, jnp.full_like(residual, jnp.nan)
    if system.definite:
        known = least
        error = jnp.where(least > 0, ratio(residual * target_length, least * length), jnp.inf)
        error = jnp.where(squared > 0, error, jnp.where(target_length > 0, jnp.inf, 0))
    return Certificate(
        residual=residual,
        adjoint_error=error,
        least_curvature=least,
        displacement=inner_norm * _inverse_curvature(known, length, target_length),
        solve_converged=estimator.accepts(residual, error),
        positive=~(least <= 0) if system.definite and estimator.definite else jnp.array(True),
    )


def relative_residual(target: Vector, image: Vector) -> tuple[Array, Array]:
    """|target - image| / |target|, 0 where both are 0, and |target|.

    In units of the largest entry of the target, so that squares of tiny or huge gradients survive float32.
    """
    unit = trees.largest(target)
    scaled = trees.scale(target, 1 / unit)
    length = trees.norm(scaled)
    return ratio(trees.norm(trees.add(scaled, image, -1 / unit)), length), unit * length


def ratio(part: Array, whole: Array) -> Array:
    """part / whole, and 0 where both are 0."""
    return jnp.where(part == 0, 0, part / whole)


def _inverse_curvature(least: Array, length: Array, target_length: Array) -> Array:
    """|A^-1| estimated from below: 1 / (least curvature met) and |q| / |target|; 1 where nothing was met."""
    met = jnp.fmax(jnp.where(least > 0, 1 / least, jnp.nan), length / target_length)
    return jnp.where(jnp.isnan(met), 1, met)
