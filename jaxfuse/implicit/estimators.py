"""Solvers of the adjoint equation, behind one signature: exact dense, conjugate gradients, MINRES.

Lower case, like functions: that is how a recipe reads, `estimator=cg(steps=20)`.
"""

from __future__ import annotations

import dataclasses
from typing import Any, ClassVar

import jax
import jax.numpy as jnp
from jax import Array, lax
from jax.flatten_util import ravel_pytree
from jax.scipy.linalg import cho_factor, cho_solve, lu_factor, lu_solve

from jaxfuse.implicit import krylov, trees
from jaxfuse.implicit.adjoint import AdjointEstimator
from jaxfuse.implicit.certificate import ratio
from jaxfuse.implicit.krylov import Solved
from jaxfuse.implicit.problem import LinearSystem
from jaxfuse.implicit.trees import Product, Vector


def stop_at(tolerance: float | None, target: Vector) -> float:
    """The relative residual at which an iteration stops: what was named, else 1e-12 in float64 and 1e-6 in float32."""
    if tolerance is not None:
        return tolerance
    return 1e-12 if trees.coarsest_type(target) == jnp.float64 else 1e-6


def most_steps(steps: int | None, target: Vector) -> int:
    """The steps allowed: what was named, else ten for each unknown, 20,000 at most."""
    return min(10 * trees.size(target), 20_000) if steps is None else steps


def check_stop(tolerance: float | None, steps: int | None) -> None:
    if tolerance is not None and not tolerance >= 0:
        raise ValueError(f"tolerance is {tolerance}; a relative residual of at least 0 was expected, or None")
    if steps is not None and steps < 1:
        raise ValueError(f"steps is {steps}; at least 1 was expected")


@dataclasses.dataclass(frozen=True)
class cg(AdjointEstimator):
    """Conjugate gradients, preconditioned if a preconditioner is given: one product a step, four vectors.

    For positive definite curvature; it stops at the first direction of curvature <= 0, keeps the iterate before it,
    and says both in `Info`. Cut short, it returns a point on the way whose error is less at every step, which the
    residual need not be.

    Args:
        tolerance: relative residual to stop at; 1e-12 in float64 and 1e-6 in float32 if None.
        steps: most steps; ten for each unknown, 20,000 at most, if None.
        start: first adjoint in the structure of y (`Info.adjoint` of the outer step before); zero if None.
        preconditioner: v -> M v on pytrees in the structure of y, M positive definite and near the inverse, such as
            `nystrom_preconditioner` gives.

    Example:
        >>> import jax.numpy as jnp
        >>> from jaxfuse import implicit
        >>> lower, upper = lambda x, y: 2 * y**2 - x * y, lambda x, y: y  # y*(x) = x / 4
        >>> x, y = jnp.array(8.0), jnp.array(2.0)
        >>> gradient, info = implicit.hypergradient(upper, lower, x, y, estimator=implicit.cg())
        >>> print(gradient, info.steps)
        0.25 1
    """

    symmetric: ClassVar[bool] = True
    definite: ClassVar[bool] = True
    tolerance: float | None = None
    steps: int | None = None
    start: Any = None
    preconditioner: Any = None

    def __post_init__(self) -> None:
        check_stop(self.tolerance, self.steps)

    def solve(self, system: LinearSystem) -> Solved:
        return krylov.conjugate_gradients(**_arguments(self, system))


@dataclasses.dataclass(frozen=True)
class minres(AdjointEstimator):
    """MINRES: for symmetric curvature of either sign (a stationary point that is no minimum). Arguments as in `cg`.

    Example:
        >>> import jax.numpy as jnp
        >>> from jaxfuse import implicit
        >>> lower, upper = lambda x, y: 2 * y[0] ** 2 - 2 * y[1] ** 2 - x * y.sum(), lambda x, y: y.sum()  # a saddle
        >>> x, y = jnp.array(8.0), jnp.array([2.0, -2.0])
        >>> gradient, info = implicit.hypergradient(upper, lower, x, y, estimator=implicit.minres())
        >>> print(f"{gradient:.2f}")  # 1 / 4 - 1 / 4
        0.00
    """

    symmetric: ClassVar[bool] = True
    tolerance: float | None = None
    steps: int | None = None
    start: Any = None
    preconditioner: Any = None

    def __post_init__(self) -> None:
        check_stop(self.tolerance, self.steps)

    def solve(self, system: LinearSystem) -> Solved:
        return krylov.minimal_residual(**_arguments(self, system))


def _arguments(estimator: cg | minres, system: LinearSystem) -> dict[str, Any]:
    return {
        "product": system.product,
        "target": system.target,
        "start": None if estimator.start is None else system.start(estimator.start),
        "preconditioner": estimator.preconditioner and on_vectors(estimator.preconditioner, system),
        "tolerance": stop_at(estimator.tolerance, system.target),
        "steps": most_steps(estimator.steps, system.target),
    }


def on_vectors(function: Any, system: LinearSystem) -> Product:
    """A user's linear map on pytrees in the structure of y, as one on vectors."""
    return lambda vector: system.read(function(system.tree(vector)), "the preconditioner's result")


@dataclasses.dataclass(frozen=True)
class dense(AdjointEstimator):
    """Exact: the matrix from one product for each unknown, by Cholesky, or LU where it is not positive definite.

    One step of refinement. n x n numbers are held: for a few thousand unknowns at most, on one device.

    Args:
        chunk: products evaluated at a time (their intermediate values are held together).

    Example:
        >>> import jax.numpy as jnp
        >>> from jaxfuse import implicit
        >>> lower, upper = lambda x, y: 2 * y**2 - x * y, lambda x, y: y  # y*(x) = x / 4
        >>> x, y = jnp.array(8.0), jnp.array(2.0)
        >>> gradient, info = implicit.hypergradient(upper, lower, x, y, estimator=implicit.dense())
        >>> print(gradient, info.products)
        0.25 2
    """

    definite: ClassVar[bool] = True
    tolerance: float | None = None
    chunk: int = 128

    def solve(self, system: LinearSystem) -> Solved:
        matrix, flat, restore = assemble(system, self.chunk)
        if system.symmetric:
            adjoint, least = _solve_symmetric(matrix, flat)
        else:
            factors = lu_factor(matrix)
            adjoint, least = _refined(matrix, flat, lambda right: lu_solve(factors, right)), jnp.inf
        return Solved(
            adjoint=restore(adjoint),
            steps=jnp.array(1),
            products=jnp.array(len(flat)),
            least_curvature=jnp.asarray(least, flat.dtype),
            best_iterate=jnp.array(False),
        )


def assemble(system: LinearSystem, chunk: int) -> tuple[Array, Array, Any]:
    """The matrix (n, n) of a system, its right-hand side (n,), and the function from (n,) to a vector."""
    if trees.is_sharded(system.target):
        raise ValueError("dense needs y on one device or automatic mesh axes, and y is split: use cg")
    kind = trees.scalar_type(system.target)

    def join(vector: Vector) -> Vector:
        return [leaf.astype(kind) for leaf in vector]

    flat, split = ravel_pytree(join(system.target))

    def restore(flat: Array) -> Vector:
        return [leaf.astype(model.dtype) for leaf, model in zip(split(flat), system.target, strict=True)]

    def column(unit: Array) -> Array:
        return ravel_pytree(join(system.apply(restore(unit))))[0]

    columns = lax.map(column, jnp.eye(len(flat), dtype=flat.dtype), batch_size=min(chunk, len(flat)))
    return columns.T, flat, restore


def _refined(matrix: Array, target: Array, solve: Any) -> Array:
    first = solve(target)
    return first + solve(target - matrix @ first)


def _near_one(vector: Array) -> Array:
    return trees.divide([vector], trees.unit([vector]))[0]


@jax.jit  # one operation, also outside of jit: its Cholesky factor of NaN is no error, but the sign of the matrix
def _solve_symmetric(matrix: Array, target: Array) -> tuple[Array, Array]:
    """Solution and least curvature: inverse iteration from the solution if definite, else the least eigenvalue."""
    factor = cho_factor(matrix, lower=True)

    def definite() -> tuple[Array, Array]:
        adjoint = _refined(matrix, target, lambda right: cho_solve(factor, right))
        vector = _near_one(adjoint)
        length = jnp.linalg.norm(vector)
        vector += 1e-3 * jnp.where(length > 0, length, 1) * jnp.cos(jnp.arange(len(target), dtype=target.dtype))
        for _ in range(4):
            vector = _near_one(cho_solve(factor, vector))
        return adjoint, ratio(vector @ (matrix @ vector), vector @ vector)

    def indefinite() -> tuple[Array, Array]:
        factors = lu_factor(matrix)
        adjoint = _refined(matrix, target, lambda right: lu_solve(factors, right))
        return adjoint, jnp.linalg.eigvalsh(matrix)[0]

    return lax.cond(jnp.all(jnp.isfinite(factor[0])), definite, indefinite)
