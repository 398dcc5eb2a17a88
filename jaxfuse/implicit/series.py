"""Cheap estimators by name: series and steps in place of a solve, and gradients with no or little curvature in them.

What they promise is little: an adjoint with no more residual than the zero vector. `Info.residual` says how good each
was, and a gradient that breaks the promise (a series that diverges) is flagged.
"""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Callable
from typing import Any, ClassVar, NamedTuple

import jax
import jax.numpy as jnp
from jax import Array, lax

from jaxfuse.implicit import trees
from jaxfuse.implicit.adjoint import AdjointEstimator, Estimate, problem_place
from jaxfuse.implicit.certificate import Limits, Place, inner_limit
from jaxfuse.implicit.curvature import Curvature, refuse_curvature
from jaxfuse.implicit.estimators import check_stop, most_steps, stop_at
from jaxfuse.implicit.krylov import Solved
from jaxfuse.implicit.problem import LinearSystem, Problem
from jaxfuse.implicit.trees import Vector


class Approximation(AdjointEstimator):
    """An estimator whose adjoint is no solution: it is accepted up to a residual, 1 if not said, that of zero."""

    exact: ClassVar[bool] = False
    tolerance: float | None = 1.0

    def limits(self, system: LinearSystem, place: Place) -> Limits:
        limit = 1.0 if self.tolerance is None else self.tolerance
        dtype = trees.coarsest_type(system.target)
        residual = limit * (1 + 100 * float(jnp.finfo(dtype).eps))
        return Limits(residual, math.inf, inner_limit(place.tolerance, dtype, place.rounding))


@dataclasses.dataclass(frozen=True)
class neumann(Approximation):
    """Truncated Neumann series, q = a sum_{i<k} (I - a H)^i b (Lorraine 2020): k - 1 products.

    At an inner optimum, equal to back-propagation through k steps of gradient descent of that learning rate a. For
    positive curvature with a < 2 / L, L its largest eigenvalue: the residual is then at most (1 - a mu)^k, mu the
    least. It diverges otherwise, and says so. Takes fresh batches. A loop of fixed length: reverse mode works.

    Args:
        terms: k, at least 1.
        learning_rate: a.
        tolerance: residual up to which the gradient counts as converged.

    Example:
        An eighth, and half of an eighth, of the series that sums to a quarter:

        >>> import jax.numpy as jnp
        >>> from jaxfuse import implicit
        >>> lower, upper = lambda x, y: 2 * y**2 - x * y, lambda x, y: y  # y*(x) = x / 4
        >>> x, y = jnp.array(8.0), jnp.array(2.0)
        >>> solver = implicit.neumann(terms=2, learning_rate=0.125)
        >>> gradient, info = implicit.hypergradient(upper, lower, x, y, estimator=solver)
        >>> print(gradient)
        0.1875
    """

    definite: ClassVar[bool] = True
    one_matrix: ClassVar[bool] = False
    terms: int
    learning_rate: float | Array
    tolerance: float | None = 1.0

    def __post_init__(self) -> None:
        check_stop(self.tolerance, None)
        if self.terms < 1:
            raise ValueError(f"terms is {self.terms}; at least 1 was expected")

    def solve(self, system: LinearSystem) -> Solved:
        def add_term(state: tuple[Vector, Vector, Array], step: Array) -> tuple[tuple[Vector, Vector, Array], None]:
            term, total, least = state
            image = system.product(term, step)
            if not system.fresh:
                least = jnp.fmin(least, _quotient(term, image))
            term = trees.add(term, image, -self.learning_rate)
            return (term, trees.add(total, term), least), None

        nothing = jnp.full((), jnp.inf, trees.scalar_type(system.target))
        (_, total, least), _ = lax.scan(add_term, (system.target, system.target, nothing), jnp.arange(self.terms - 1))
        return Solved(
            adjoint=trees.scale(total, self.learning_rate),
            steps=jnp.array(self.terms),
            products=jnp.array(self.terms - 1),
            least_curvature=least,
            best_iterate=jnp.array(False),
        )


class _Descent(NamedTuple):
    step: Array
    iterate: Vector
    residual: Vector
    squared: Array  # |residual|^2
    least_curvature: Array


@dataclasses.dataclass(frozen=True)
class fixed_point(AdjointEstimator):
    """Fixed-point steps q <- q - a (H q - b), one product each: the Neumann series with a start and a tolerance.

    Conditions on a as in `neumann`. With fresh batches (stochastic steps on the adjoint: Grazzi 2021, Dagreou 2022)
    no single residual says when to stop, so `steps` must be named and all are done; not differentiable in reverse
    mode then.

    Args:
        learning_rate: a.
        tolerance: relative residual to stop at; 1e-12 in float64 and 1e-6 in float32 if None.
        steps: most steps; ten for each unknown, 20,000 at most, if None.
        start: first adjoint in the structure of y (`Info.adjoint` of the outer step before); zero if None.

    Example:
        >>> import jax.numpy as jnp
        >>> from jaxfuse import implicit
        >>> lower, upper = lambda x, y: 2 * y**2 - x * y, lambda x, y: y  # y*(x) = x / 4
        >>> x, y = jnp.array(8.0), jnp.array(2.0)
        >>> solver = implicit.fixed_point(learning_rate=0.25)
        >>> gradient, info = implicit.hypergradient(upper, lower, x, y, estimator=solver)
        >>> print(gradient, info.steps)
        0.25 1
    """

    definite: ClassVar[bool] = True
    one_matrix: ClassVar[bool] = False
    learning_rate: float | Array
    tolerance: float | None = None
    steps: int | None = None
    start: Any = None

    def __post_init__(self) -> None:
        check_stop(self.tolerance, self.steps)

    def check_system(self, *, symmetric: bool, fresh: bool) -> None:
        super().check_system(symmetric=symmetric, fresh=fresh)
        if fresh and self.steps is None:
            raise ValueError("fixed_point with fresh batches has no residual to stop at: name its steps")

    def solve(self, system: LinearSystem) -> Solved:
        target, rate = system.target, self.learning_rate
        iterate, residual = trees.zeros(target), target
        warm = self.start is not None
        if warm:
            iterate = system.start(self.start)
            residual = target if system.fresh else trees.add(target, system.apply(iterate), -1)
        limit = stop_at(self.tolerance, target) ** 2 * trees.dot(target, target)
        most = most_steps(self.steps, target)

        def unfinished(state: _Descent) -> Array:
            return (state.step < most) & (jnp.array(True) if system.fresh else state.squared > limit)

        def advance(state: _Descent) -> _Descent:
            least = state.least_curvature
            if system.fresh:
                residual = trees.add(target, system.product(state.iterate, state.step), -1)
                iterate = trees.add(state.iterate, residual, rate)
            else:
                image = system.product(state.residual, state.step)
                least = jnp.fmin(least, _quotient(state.residual, image))
                iterate = trees.add(state.iterate, state.residual, rate)
                residual = trees.add(state.residual, image, -rate)
            return _Descent(state.step + 1, iterate, residual, trees.dot(residual, residual), least)

        squared = trees.dot(residual, residual)
        nothing = jnp.full_like(squared, jnp.inf)
        last = lax.while_loop(unfinished, advance, _Descent(jnp.array(0), iterate, residual, squared, nothing))
        return Solved(
            adjoint=last.iterate,
            steps=last.step,
            products=last.step + int(warm and not system.fresh),
            least_curvature=last.least_curvature,
            best_iterate=jnp.array(False),
        )


@dataclasses.dataclass(frozen=True)
class identity(Approximation):
    """q = scale * b: the inverse Hessian taken for a multiple of the identity. `neumann` of one term.

    That is the gradient through one inner gradient step of learning rate `scale` (T1-T2: Luketina 2016).

    Example:
        >>> import jax.numpy as jnp
        >>> from jaxfuse import implicit
        >>> lower, upper = lambda x, y: 2 * y**2 - x * y, lambda x, y: y  # y*(x) = x / 4
        >>> x, y = jnp.array(8.0), jnp.array(2.0)
        >>> gradient, info = implicit.hypergradient(upper, lower, x, y, estimator=implicit.identity(scale=0.125))
        >>> print(gradient)
        0.125
    """

    uses_curvature: ClassVar[bool] = False
    scale: float | Array = 1.0

    def solve(self, system: LinearSystem) -> Solved:
        return _known(trees.scale(system.target, self.scale))


@dataclasses.dataclass(frozen=True)
class direct(Approximation):
    """q = 0: the gradient of the upper function in x alone, as if y did not depend on x. No second derivatives.

    Exact where d upper / dy is zero, as for an upper and a lower function that are the same.

    Example:
        >>> import jax.numpy as jnp
        >>> from jaxfuse import implicit
        >>> lower, upper = lambda x, y: 2 * y**2 - x * y, lambda x, y: 3 * x + y
        >>> gradient, info = implicit.hypergradient(
        ...     upper, lower, jnp.array(8.0), jnp.array(2.0), estimator=implicit.direct()
        ... )
        >>> print(gradient)  # without the 0.25 by which y answers
        3.0
    """

    uses_curvature: ClassVar[bool] = False

    def estimate(self, problem: Problem, curvature: Curvature, inner_tolerance: float | None) -> Estimate:
        def slope(target: Vector) -> tuple[Vector, Vector, Vector]:
            return trees.zeros(target), trees.zeros(problem.x), trees.zeros(target)

        return approximate(self, problem, curvature, inner_tolerance, slope, products=0)


@dataclasses.dataclass(frozen=True)
class rank_one(Approximation):
    """Outer products of gradients for second derivatives: lower_yy ~ g g', lower_xy ~ lower_x g' with g = lower_y.

    The gradient is upper_x - c lower_x with c = <g, upper_y> / (|g|^2 + damping): no Hessian product but the one of
    the certificate, for which q = c g / |g|^2. As in BDLFusion (Liu 2023), with the sign of the formula.

    Three limits. At the inner optimum g is 0 and c is 0 / 0 (NaN, and flagged) unless damping outweighs |g|^2; the
    result then tends to the direct gradient. If upper and lower are the same function, c is 1 and the gradient
    cancels to 0, whatever the true one: give them different batches. And it is no curvature: undamped, the implicit
    part grows as 1 / |y - y*| and turns about from one side of y* to the other, so `Info` refuses it near there.

    Args:
        damping: added to |g|^2.
        limit: bound on |c|; none if None.

    Example:
        Off the minimum, where the outer products are not 0; exact is a quarter:

        >>> import jax.numpy as jnp
        >>> from jaxfuse import implicit
        >>> lower, upper = lambda x, y: 2 * y**2 - x * y, lambda x, y: y  # y*(x) = x / 4
        >>> x, y = jnp.array(8.0), jnp.array(3.0)
        >>> gradient, info = implicit.hypergradient(upper, lower, x, y, estimator=implicit.rank_one())
        >>> print(gradient)
        0.75
    """

    uses_curvature: ClassVar[bool] = False
    damping: float | Array = 0.0
    limit: float | None = None

    def __post_init__(self) -> None:
        if isinstance(self.damping, (int, float)) and not self.damping >= 0:
            raise ValueError(f"damping is {self.damping}; it is added to a square and must not be negative")
        if self.limit is not None and not self.limit > 0:
            raise ValueError(f"limit is {self.limit}; a positive bound on the coefficient was expected, or None")

    def estimate(self, problem: Problem, curvature: Curvature, inner_tolerance: float | None) -> Estimate:
        inner = problem.inner_gradient

        def slope(target: Vector) -> tuple[Vector, Vector, Vector]:
            units = lax.stop_gradient((trees.unit(inner), trees.unit(target)))
            small = trees.divide(inner, units[0])
            squared = trees.dot(small, small)
            along = trees.dot(small, trees.divide(target, units[1]))
            coefficient = along / (squared + self.damping / units[0] / units[0]) * (units[1] / units[0])
            if self.limit is not None:
                coefficient = jnp.clip(coefficient, -self.limit, self.limit)
            factor = jnp.where(squared > 0, coefficient / jnp.where(squared > 0, squared, 1) / units[0], 0)
            adjoint = trees.scale(small, factor)
            outer = jax.grad(lambda x: problem.lower(x, problem.y)[0])(problem.x)
            return adjoint, trees.scale(outer, coefficient), problem.hessian(adjoint)

        return approximate(self, problem, curvature, inner_tolerance, slope, products=1)


@dataclasses.dataclass(frozen=True)
class finite_difference(Approximation):
    """q = scale * b as in `identity`, and its products by central differences: no second derivatives (Liu 2019, DARTS).

    Two gradients of `lower` in x and y, at y +- (step / |q|) q, give both the cross product and the Hessian product of
    the certificate. Their error is of the order of step^2 and of rounding / step.

    Args:
        scale: as in `identity`.
        step: Euclidean distance from y.

    Example:
        >>> import jax.numpy as jnp
        >>> from jaxfuse import implicit
        >>> lower, upper = lambda x, y: 2 * y**2 - x * y, lambda x, y: y  # y*(x) = x / 4
        >>> x, y = jnp.array(8.0), jnp.array(2.0)
        >>> solver = implicit.finite_difference(scale=0.25)
        >>> gradient, info = implicit.hypergradient(upper, lower, x, y, estimator=solver)
        >>> print(f"{gradient:.2f}")
        0.25
    """

    uses_curvature: ClassVar[bool] = False
    moves: ClassVar[bool] = True
    scale: float | Array = 1.0
    step: float = 0.01

    def __post_init__(self) -> None:
        if not self.step > 0:
            raise ValueError(f"step is {self.step}; a positive distance was expected")

    def estimate(self, problem: Problem, curvature: Curvature, inner_tolerance: float | None) -> Estimate:
        def slope(target: Vector) -> tuple[Vector, Vector, Vector]:
            adjoint = trees.scale(target, self.scale)
            return adjoint, *by_differences(problem, adjoint, self.step)

        return approximate(self, problem, curvature, inner_tolerance, slope, products=1)


def by_differences(problem: Problem, adjoint: Vector, step: float, *, one_sided: bool = False) -> tuple[Vector, Vector]:
    """The cross and the Hessian product of an adjoint, by two gradients of `lower` at a distance of `step` from y."""
    length = trees.norm(adjoint)
    reach = jnp.where(length > 0, step / jnp.where(length > 0, length, 1), 0)

    def gradients(y: Vector) -> tuple[Vector, Vector]:
        return jax.grad(lambda x, y: problem.lower(x, y)[0], argnums=(0, 1))(problem.x, y)

    ahead = gradients(trees.add(problem.y, adjoint, reach))
    behind = gradients(problem.y if one_sided else trees.add(problem.y, adjoint, -reach))
    cross, image = (
        trees.scale(trees.add(after, before, -1), length / ((1 if one_sided else 2) * step))
        for after, before in zip(ahead, behind, strict=True)
    )
    return cross, image


def _quotient(vector: Vector, image: Vector) -> Array:
    """The Rayleigh quotient, infinite of a zero vector; kept out of derivatives: it is evidence only."""
    vector, image = lax.stop_gradient((vector, image))
    squared = trees.dot(vector, vector)
    return jnp.where(squared == 0, jnp.inf, trees.dot(vector, image) / jnp.where(squared == 0, 1, squared))


def _known(adjoint: Vector) -> Solved:
    nothing = jnp.full((), jnp.inf, trees.scalar_type(adjoint))
    return Solved(adjoint, jnp.array(0), jnp.array(0), nothing, jnp.array(False))


def approximate(
    estimator: AdjointEstimator,
    problem: Problem,
    curvature: Curvature,
    inner_tolerance: float | None,
    slope: Callable[[Vector], tuple[Vector, Vector, Vector]],
    products: int,
) -> Estimate:
    """Builds the estimate; `slope` gives, from d upper / dy: q, its cross product and its Hessian product."""
    refuse_curvature(type(estimator).__name__, curvature)
    (value, aux), (outer, target) = jax.value_and_grad(problem.upper, argnums=(0, 1), has_aux=True)(
        problem.x, problem.y
    )
    adjoint, cross, image = slope(target)
    system = LinearSystem(
        product=lambda vector, step: problem.hessian(vector),
        target=target,
        symmetric=True,
        definite=True,
        fresh=False,
        read=problem.read_y,
        tree=problem.tree_y,
    )
    evidence = estimator.certify(system, _known(adjoint), image, problem_place(problem, inner_tolerance))
    return Estimate(
        gradient=trees.add(outer, cross, -1),
        direct=outer,
        value=value,
        aux=aux,
        adjoint=adjoint,
        evidence=evidence,
        steps=jnp.array(0),
        products=jnp.array(products),
        damping=jnp.zeros_like(evidence.met),
        best_iterate=jnp.array(False),
    )
