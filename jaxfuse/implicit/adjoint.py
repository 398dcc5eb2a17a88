"""From a solver of linear systems to an implicit gradient with its certificate.

With q from H q = d upper/dy, the gradient is that of the Lagrangian L(x, y) = upper(x, y) - <q, d lower/dy(x, y)> in
x at fixed y and q, and dL/dy is the residual of the adjoint equation: one reverse pass over both gives the gradient
and its certificate.
"""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Callable
from typing import Any, ClassVar

import jax
import jax.numpy as jnp
from jax import Array, lax

from jaxfuse.implicit import trees
from jaxfuse.implicit.certificate import Certificate, Limits, Place, Steps, certify, inner_limit
from jaxfuse.implicit.curvature import Curvature, Levenberg, TraceShare, hessian, is_undamped, refuse_curvature
from jaxfuse.implicit.krylov import Solved
from jaxfuse.implicit.problem import LinearSystem, Problem
from jaxfuse.implicit.rounding import place_of
from jaxfuse.implicit.trees import Vector


@dataclasses.dataclass(frozen=True)
class Estimate:
    """The result of an estimator: the gradient in x, its direct part, and the rest as in `Info`."""

    gradient: Vector
    direct: Vector
    value: Array
    aux: Any
    adjoint: Vector | None
    evidence: Certificate | Steps
    steps: Array
    products: Array
    damping: Array
    best_iterate: Array


class AdjointEstimator:
    """An estimator that solves the adjoint equation: a subclass says how, in `solve`, and what it needs.

    Attributes of the class:
        symmetric: it needs a symmetric system.
        definite: it needs positive curvature, and says so where it met other.
        one_matrix: its recursion needs the same matrix in every product.
        exact: its answer is that of the system up to a tolerance, so it is differentiated as such.
        uses_curvature: it solves a system at all; one that does not takes no other curvature than `hessian()`.
        moves: it evaluates `lower` away from y.
    """

    symmetric: ClassVar[bool] = False
    definite: ClassVar[bool] = False
    one_matrix: ClassVar[bool] = True
    exact: ClassVar[bool] = True
    uses_curvature: ClassVar[bool] = True
    moves: ClassVar[bool] = False
    tolerance: float | None

    def solve(self, system: LinearSystem) -> Solved:
        raise NotImplementedError

    def limits(self, system: LinearSystem, place: Place) -> Limits:
        """Returns the limits that a solve is held to, by the narrowest type of a leaf.

        A named tolerance counts twice, since the residual is measured anew. Without one, the error of the adjoint may
        be 1e-9 in float64 and 1e-3 in float32. Where the solver is made for indefinite systems, and the error cannot
        be estimated, the residual may be 1e-10 and 1e-3.
        """
        dtype = trees.coarsest_type(system.target)
        double = dtype == jnp.float64
        residual = error = math.inf
        if self.tolerance is not None:
            residual = 2 * self.tolerance
        elif self.definite:
            error = 1e-9 if double else 1e-3
        else:
            residual = 1e-10 if double else 1e-3
        return Limits(residual, error, inner_limit(place.tolerance, dtype, place.rounding))

    def certify(
        self,
        system: LinearSystem,
        solved: Solved,
        image: Vector,
        place: Place,
        true_image: Vector | None = None,
    ) -> Certificate:
        """Measures a solution of this estimator and holds it to `limits`; arguments as in `certificate.certify`."""
        return certify(
            system,
            solved,
            image,
            place=place,
            limits=self.limits(system, place),
            relies=self.definite,
            solves=self.uses_curvature,
            true_image=true_image,
        )

    def estimate(self, problem: Problem, curvature: Curvature, inner_tolerance: float | None) -> Estimate:
        return adjoint_estimate(self, problem, curvature, inner_tolerance)

    def check_system(self, *, symmetric: bool, fresh: bool) -> None:
        name = type(self).__name__
        if self.symmetric and not symmetric:
            raise ValueError(
                f"{name} needs a symmetric system, and this one is not: use gmres, bicgstab, lsmr or dense"
            )
        if fresh and self.one_matrix:
            raise ValueError(
                f"{name} needs the same matrix in every product, and this curvature draws a fresh batch for each: use "
                "neumann or fixed_point, or hessian() of one batch"
            )


def solve_system(estimator: AdjointEstimator, system: LinearSystem) -> Solved:
    """The solution of a system, differentiable in both modes where the estimator is exact.

    A solver sees the right-hand side divided by a power of two near its largest entry, so that its answer is linear
    in it, and its stop the same, at any scale. The symmetry that a caller claims is not relied on in reverse mode: a
    solver that needs it shows by its residual where it is not so.

    Not differentiated as a solve inside `shard_map`, whose types `lax.custom_linear_solve` does not know: forward mode
    only there.
    """
    estimator.check_system(symmetric=system.symmetric, fresh=system.fresh)
    if not estimator.exact or system.fresh or trees.in_shard_map():
        return _solve_in_units(estimator, system)

    def solve(product: trees.Product, target: Vector) -> tuple[Vector, tuple[Array, ...]]:
        posed = dataclasses.replace(system, product=lambda vector, step: product(vector), target=target)
        solved = _solve_in_units(estimator, posed)
        return solved.adjoint, tuple(solved[1:])

    certain = system.symmetric and not system.claimed
    adjoint, rest = lax.custom_linear_solve(
        # For its derivatives alone; the solvers' products do without what these need.
        lambda vector: trees.entangle(system.apply(trees.entangle(vector))),
        trees.entangle(system.target),
        lambda _, target: solve(system.apply, target),
        transpose_solve=lambda _, target: solve(system.apply if certain else system.transposed, target),
        symmetric=certain,
        has_aux=True,
    )
    # Outside jit, constants come back as Python numbers.
    return Solved(trees.entangle(adjoint), *(jnp.asarray(part) for part in rest))


def _solve_in_units(estimator: AdjointEstimator, system: LinearSystem) -> Solved:
    if trees.size(system.target) == 0 and not trees.in_shard_map():
        nothing = jnp.full((), jnp.inf, trees.scalar_type(system.target))
        return Solved(system.target, jnp.array(0), jnp.array(0), nothing, jnp.array(False))
    unit = lax.stop_gradient(trees.unit(system.target))
    solved = estimator.solve(dataclasses.replace(system, target=trees.divide(system.target, unit), unit=unit))
    return solved._replace(adjoint=trees.multiply(solved.adjoint, unit))


def adjoint_estimate(
    estimator: AdjointEstimator, problem: Problem, curvature: Curvature, inner_tolerance: float | None
) -> Estimate:
    """The gradient of the upper function through the adjoint equation, with its certificate (module docstring)."""
    if not estimator.uses_curvature:
        refuse_curvature(type(estimator).__name__, curvature)
    (value, aux), (direct, target) = jax.value_and_grad(problem.upper, argnums=(0, 1), has_aux=True)(
        problem.x, problem.y
    )
    solved, system, damping = _solve(estimator, problem, curvature, target)
    adjoint = solved.adjoint
    cross, hessian_image = lagrangian_slope(problem, adjoint)
    image, true_image, products = hessian_image, None, solved.products + 1
    if not isinstance(curvature, hessian) and not curvature.fresh:
        image, true_image, products = system.apply(adjoint), hessian_image, products + 1
    elif not is_undamped(curvature):
        image, true_image = trees.add(hessian_image, adjoint, damping), hessian_image
    evidence = estimator.certify(system, solved, image, problem_place(problem, inner_tolerance), true_image)
    return Estimate(
        gradient=trees.add(direct, cross, -1),
        direct=direct,
        value=value,
        aux=aux,
        adjoint=adjoint,
        evidence=evidence,
        steps=solved.steps,
        products=products,
        damping=damping,
        best_iterate=solved.best_iterate,
    )


def problem_place(problem: Problem, inner_tolerance: float | None) -> Place:
    """The point at which a problem was posed, as a certificate judges it."""
    return place_of(problem.y_tree, problem.y, problem.inner_gradient, problem.hessian, inner_tolerance)


def lagrangian_slope(problem: Problem, adjoint: Vector) -> tuple[Vector, Vector]:
    """Gradients of <adjoint, d lower / dy> in x and in y: the cross product and the Hessian product, in one pass."""

    def slope(x: Vector, y: Vector) -> Vector:
        return jax.grad(lambda inner: problem.lower(x, inner)[0])(y)

    _, pull = jax.vjp(slope, problem.x, problem.y)
    return pull(adjoint)


def _solve(
    estimator: AdjointEstimator, problem: Problem, curvature: Curvature, target: Vector
) -> tuple[Solved, LinearSystem, Array]:
    """The solution, the system that was solved in the end, and its damping."""
    product = curvature(problem)

    def damped(damping: Any) -> LinearSystem:
        return LinearSystem(
            product=lambda vector, step: trees.add(product(vector, step), vector, damping),
            target=target,
            symmetric=True,
            definite=True,
            fresh=curvature.fresh,
            read=problem.read_y,
            tree=problem.tree_y,
        )

    scalar = trees.scalar_type(target)
    if isinstance(curvature.damping, Levenberg):
        solved, damping = _levenberg(estimator, curvature.damping, damped, scalar)
        return solved, damped(damping), damping
    if isinstance(curvature.damping, TraceShare):
        damping = lax.stop_gradient(curvature.damping.of(product, problem.y)).astype(scalar)
        solved = solve_system(estimator, damped(damping))
        return solved._replace(products=solved.products + curvature.damping.probes), damped(damping), damping
    damping = jnp.asarray(curvature.damping, scalar)
    system = dataclasses.replace(damped(0.0), product=product) if is_undamped(curvature) else damped(damping)
    return solve_system(estimator, system), system, damping


def _levenberg(
    estimator: AdjointEstimator, rule: Levenberg, damped: Callable[[Array], LinearSystem], scalar: Any
) -> tuple[Solved, Array]:
    """Solves with growing damping until a try succeeds or all are spent; steps and products are those of all tries."""

    def attempt(damping: Array) -> tuple[Solved, Array]:
        system = damped(damping)
        solved = solve_system(estimator, system)
        nothing, image = trees.zeros(system.target), system.apply(solved.adjoint)
        found = estimator.certify(system, solved, image, Place(nothing, nothing, None, 0.0, None))
        return solved._replace(products=solved.products + 1), found.solve_converged & found.positive

    def more(state: tuple[Array, Array, Solved, Array]) -> Array:
        tries, _, _, success = state
        return ~success & (tries < rule.tries)

    def again(state: tuple[Array, Array, Solved, Array]) -> tuple[Array, Array, Solved, Array]:
        tries, damping, before, _ = state
        solved, success = attempt(damping * rule.factor)
        solved = solved._replace(steps=before.steps + solved.steps, products=before.products + solved.products)
        return tries + 1, damping * rule.factor, solved, success

    first = jnp.asarray(rule.start, scalar)
    solved, success = attempt(first)
    _, damping, solved, _ = lax.while_loop(more, again, (jnp.array(1), first, solved, success))
    return solved, damping
