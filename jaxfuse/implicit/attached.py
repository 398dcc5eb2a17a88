"""Derivatives attached to a solution: y unchanged, as the function of x that its equation makes it.

`implicit_root`, `implicit_fixed_point` and `implicit_minimum` carry the derivative of the implicit function theorem
through a whole program, in both modes and to every order: the rule of differentiation itself uses the attached y, and
the linear solve in it is differentiated as a solve, never through its iterations. For one derivative with the
evidence of how good it is, see `hypergradient` and `roots`.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Callable
from typing import Any, Literal, NamedTuple

import jax
import jax.numpy as jnp
from jax import Array, lax

from jaxfuse.implicit import trees
from jaxfuse.implicit.adjoint import AdjointEstimator, solve_system
from jaxfuse.implicit.certificate import Place
from jaxfuse.implicit.closures import hoist, may_capture
from jaxfuse.implicit.curvature import Curvature, Levenberg, TraceShare, hessian, is_undamped, refuse_curvature
from jaxfuse.implicit.estimators import cg
from jaxfuse.implicit.krylov import Solved
from jaxfuse.implicit.problem import LinearSystem, objective, pose
from jaxfuse.implicit.roots import Root, chosen_solver, default_solver, pose_root, relies_on_curvature
from jaxfuse.implicit.rounding import place_of
from jaxfuse.implicit.trees import Vector

AttachedPolicy = Literal["nan", "ignore"]


def implicit_root(
    residual: Callable[[Any, Any], Any],
    x: Any,
    y: Any,
    *,
    estimator: AdjointEstimator | None = None,
    symmetric: bool = False,
    policy: AttachedPolicy = "nan",
    inner_tolerance: float | None = None,
) -> Any:
    """y itself, as the function of x that residual(x, y) = 0 makes it, under jax.grad, jvp, jacobian and hessian.

    How y was found is not differentiated: the derivative in what was passed as y, and so in a solver's start, is
    zero. Values that `residual` closes over are differentiated like x. Nothing is solved unless a derivative is
    taken. Inside `jax.shard_map` in forward mode only.

    Args:
        policy: "nan": each derivative whose linear solve failed its certificate, or that was taken at a y too far from
            the root, is NaN, on the device; "ignore": it is handed out. There is no `Info`: `root_vjp` gives it.

    Other arguments and errors as in `roots.root_vjp`. An estimator that approximates (`neumann`) does so in
    both modes and in every order.

    Example:
        >>> import jax
        >>> import jax.numpy as jnp
        >>> from jaxfuse import implicit
        >>> def root(x):
        ...     y = jnp.sqrt(jax.lax.stop_gradient(x))  # by any solver
        ...     return implicit.implicit_root(lambda x, y: y**2 - x, x, y)
        >>> print(jax.grad(root)(4.0), jax.grad(jax.grad(root))(4.0))
        0.25 -0.03125
    """
    return _implicit(pose_root(residual, x, y, "residual"), estimator, symmetric, policy, inner_tolerance)


def implicit_fixed_point(
    step: Callable[[Any, Any], Any],
    x: Any,
    y: Any,
    *,
    estimator: AdjointEstimator | None = None,
    symmetric: bool = False,
    policy: AttachedPolicy = "nan",
    inner_tolerance: float | None = None,
) -> Any:
    """y itself, as the function of x that y = step(x, y) makes it: `implicit_root` of y - step(x, y).

    Example:
        >>> import jax
        >>> from jaxfuse import implicit
        >>> def solution(x):
        ...     y = 2 * jax.lax.stop_gradient(x)  # by any iteration
        ...     return implicit.implicit_fixed_point(lambda x, y: y / 2 + x, x, y)
        >>> print(jax.grad(solution)(3.0))
        2.0
    """
    return _implicit(pose_root(step, x, y, "step"), estimator, symmetric, policy, inner_tolerance)


def implicit_minimum(
    lower: Callable[[Any, Any], Any],
    x: Any,
    y: Any,
    *,
    estimator: AdjointEstimator | None = None,
    curvature: Curvature = hessian(),
    policy: AttachedPolicy = "nan",
    inner_tolerance: float | None = None,
) -> Any:
    """y itself, as the function of x that y = argmin lower(x, .) makes it; else as `implicit_root`.

    Args:
        lower: (x, y) -> real scalar, or (scalar, auxiliary).
        estimator: if None, `dense()` for at most 512 unknowns on one device, else `cg()`.
        curvature: stands for the Hessian wherever a system is solved. With any other than `hessian()`, derivatives are
            those of that approximation, and second derivatives are no longer symmetric. Its damping may be traced, but
            not `Levenberg` or `TraceShare`.

    Example:
        >>> import jax
        >>> from jaxfuse import implicit
        >>> def solution(x):
        ...     y = jax.lax.stop_gradient(x) / 4  # by any solver
        ...     return implicit.implicit_minimum(lambda x, y: 2 * y**2 - x * y, x, y)
        >>> print(jax.grad(solution)(8.0))
        0.25
    """
    x_vector, x_merge = trees.split(x, "x")
    y_vector, y_merge = trees.split(y, "y")
    chosen = chosen_solver(estimator, y_vector, cg)
    _check_curvature(curvature, chosen)
    valued = objective(lower, "lower")
    value, held = hoist(lambda a, b: valued(x_merge(a), y_merge(b))[0], x_vector, y_vector)

    def residual(held: list[Any], a: Vector, b: Vector) -> Vector:
        return jax.grad(lambda inner: value(held, a, inner))(b)

    def linearized(held: list[Any], a: Vector, b: Vector) -> tuple[Vector, trees.Product]:
        def of_trees(outer: Any, inner: Any) -> Array:
            return value(held, trees.split(outer, "x")[0], trees.split(inner, "y")[0])

        problem = pose(of_trees, of_trees, x_merge(a), y_merge(b))
        product = curvature(problem)
        if is_undamped(curvature):
            return problem.inner_gradient, lambda v: product(v, jnp.array(0))
        return problem.inner_gradient, lambda v: trees.add(product(v, jnp.array(0)), v, curvature.damping)

    closed = not may_capture((curvature, chosen, inner_tolerance))
    equation = _Equation(residual, linearized, held, symmetric=True, claimed=False, definite=True, closed=closed)
    return _attach(equation, x_vector, y_vector, y, chosen, policy, inner_tolerance)


def _check_curvature(curvature: Curvature, estimator: AdjointEstimator) -> None:
    name, damping = type(curvature).__name__, curvature.damping
    if curvature.fresh or isinstance(damping, Levenberg | TraceShare):
        raise ValueError(
            f"implicit_minimum was given {name} with damping {damping}, but its derivatives need one matrix: use a "
            "curvature of one batch and a fixed damping"
        )
    if not estimator.uses_curvature:
        refuse_curvature(type(estimator).__name__, curvature)


class _Equation(NamedTuple):
    """residual(x, y) = 0 for every x, with the matrix that stands for its derivative in y.

    Attributes:
        residual: (held, x, y) -> residual, of vectors.
        linearized: (held, x, y) -> (residual, v -> A v).
        held: the traced values that the user's function captures, and may be differentiated in.
        symmetric, claimed, definite: as in `LinearSystem`.
        closed: whether `linearized` and the solver capture no other traced values.
    """

    residual: Callable[[list[Any], Vector, Vector], Vector]
    linearized: Callable[[list[Any], Vector, Vector], tuple[Vector, trees.Product]]
    held: list[Any]
    symmetric: bool
    claimed: bool
    definite: bool
    closed: bool


def _implicit(root: Root, estimator: Any, symmetric: bool, policy: str, tolerance: float | None) -> Any:
    chosen = chosen_solver(estimator, root.y, default_solver(symmetric))
    residual, held = hoist(root.residual, root.x, root.y)

    def linearized(held: list[Any], a: Vector, b: Vector) -> tuple[Vector, trees.Product]:
        return jax.linearize(lambda inner: residual(held, a, inner), b)

    definite = relies_on_curvature(chosen, symmetric)
    closed = not may_capture((chosen, tolerance))
    equation = _Equation(residual, linearized, held, symmetric, symmetric, definite, closed)
    return _attach(equation, root.x, root.y, root.y_tree, chosen, policy, tolerance)


def _attach(
    equation: _Equation,
    x: Vector,
    y: Vector,
    y_tree: Any,
    estimator: AdjointEstimator,
    policy: str,
    tolerance: float | None,
) -> Any:
    """y_tree, with derivatives through the equation."""
    if policy not in ("nan", "ignore"):
        raise ValueError(f"policy {policy!r} cannot act on an attached derivative; choose nan or ignore")
    estimator.check_system(symmetric=equation.symmetric, fresh=False)
    solve, more = _solver(equation, y_tree, estimator, policy, tolerance), []
    if not equation.closed:
        solve, more = hoist(solve, equation.held, x, y, y)

    @jax.custom_jvp
    def attached(x: Vector, held: list[Any], more: list[Any], y: Vector) -> Vector:
        return y

    @attached.defjvp
    def rule(primals: Any, tangents: Any) -> tuple[Vector, Vector]:
        x, held, more, y = primals
        y = attached(x, held, more, y)  # again a function of x: derivatives of this rule are those of higher order
        moved = jax.jvp(lambda a, held: equation.residual(held, a, y), (x, held), tangents[:2])[1]
        arguments = (held, x, y, moved)
        return y, trees.scale(solve(*arguments) if equation.closed else solve(more, *arguments), -1)

    # Copies, because JAX refuses the rows of an array of NumPy that `vmap` makes inside another trace.
    copies = jax.tree.map(lambda leaf: jnp.array(leaf, copy=True), (x, equation.held, more, y))
    return trees.replaced(y_tree, attached(*copies))


def _solver(
    equation: _Equation, y_tree: Any, estimator: AdjointEstimator, policy: str, tolerance: float | None
) -> Callable[..., Vector]:
    """(held, x, y, right-hand side) -> the solution of the linearized equation, certified."""
    solver: Any = estimator
    if getattr(solver, "start", None) is not None:
        # A solution does not depend on where the iteration started.
        solver = dataclasses.replace(solver, start=lax.stop_gradient(solver.start))

    def solve(held: list[Any], x: Vector, y: Vector, target: Vector) -> Vector:
        inner, product = equation.linearized(held, x, y)
        system = LinearSystem(
            product=lambda vector, step: product(vector),
            target=target,
            symmetric=equation.symmetric,
            definite=equation.definite,
            fresh=False,
            read=lambda tree, name: trees.read(tree, y, name),
            tree=lambda vector: trees.with_none(y_tree, vector),
            claimed=equation.claimed,
        )
        place = place_of(y_tree, *lax.stop_gradient((y, inner)), product, tolerance)
        return solve_system(_Checked(solver, policy, place), system).adjoint

    return solve


@dataclasses.dataclass(frozen=True)
class _Checked(AdjointEstimator):
    """A solver whose answer is NaN where it failed its certificate, or where the right-hand side is not finite.

    It acts inside the linear solve, which is differentiated as a whole: so in either mode and every order.
    """

    estimator: AdjointEstimator
    policy: str
    place: Place

    def check_system(self, *, symmetric: bool, fresh: bool) -> None:
        self.estimator.check_system(symmetric=symmetric, fresh=fresh)

    def solve(self, system: LinearSystem) -> Solved:
        solved = self.estimator.solve(system)
        # An iteration may stop at once on a right-hand side of NaN, with an answer of zero.
        good = trees.all_finite(system.target)
        if self.policy == "nan":
            image = system.apply(solved.adjoint)
            found = self.estimator.certify(system, solved, image, self.place)
            good = good & found.solve_converged & found.positive & found.inner_converged
        return solved._replace(adjoint=trees.spoil(solved.adjoint, good))
