"""Derivatives of roots and fixed points by the implicit function theorem, each with its evidence.

At residual(x, y) = 0, R_x dx + R_y dy = 0: a tangent solves with R_y, a cotangent with its transpose R_y', which is
another matrix as soon as the root is no minimum (a game, the map of an optimizer, a stop_gradient in a loss).

One product with the derivative and its `Info` a call; `attached` carries the derivative through a whole program.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, Literal, NamedTuple

import jax
import jax.numpy as jnp
from jax import Array, lax

from jaxfuse.implicit import trees
from jaxfuse.implicit.adjoint import AdjointEstimator, solve_system
from jaxfuse.implicit.certificate import Place
from jaxfuse.implicit.estimators import dense, minres
from jaxfuse.implicit.hypergradient import DENSE_LIMIT, apply_policy
from jaxfuse.implicit.info import Info, Policy, check_policy
from jaxfuse.implicit.krylov import Solved
from jaxfuse.implicit.linear_solvers import gmres
from jaxfuse.implicit.problem import LinearSystem
from jaxfuse.implicit.rounding import place_of
from jaxfuse.implicit.trees import Vector


def root_vjp(
    residual: Callable[[Any, Any], Any],
    x: Any,
    y: Any,
    cotangent: Any,
    *,
    estimator: AdjointEstimator | None = None,
    symmetric: bool = False,
    policy: Policy = "warn",
    inner_tolerance: float | None = None,
) -> tuple[Any, Info]:
    """The gradient in x of <cotangent, y*(x)>, where residual(x, y*(x)) = 0: -R_x' w with R_y' w = cotangent.

    Pure, jittable, vmap-able; leaves of x and y that are not floating are constants, as in `hypergradient`.

    Args:
        residual: (x, y) -> pytree like y.
        x: any pytree.
        y: the root, any pytree.
        cotangent: pytree like y, the gradient in y of whatever is computed from it (complex leaves as `jax.grad` has
            them).
        estimator: a solver of linear systems; if None, `dense()` for at most 512 unknowns on one device, else
            `gmres()`, or `minres()` if symmetric.
        symmetric: whether R_y equals its transpose, which the caller answers for: it allows `cg` and `minres`, and
            nothing else relies on it. Where it does not, their residual stays, and `Info.solve_converged` is False.
        policy: as in `hypergradient`, but for "fallback": a root has no direct gradient.
        inner_tolerance: how far y may be from the root, relative to |y|; 1e-4 in float64, 1e-3 in float32.

    Returns:
        The gradient, in the structure and types of x, and `Info`, whose fields mean here: value, <cotangent, y>;
        inner_value, |residual|^2 / 2; inner_gradient_norm, |residual|; adjoint, w; displacement, |residual| times the
        largest growth |w| / |cotangent| that was seen, which no more than estimates |R_y^-1|; least_curvature, infinite
        unless symmetric; adjoint_error, the relative residual (unless the estimator relies on positive curvature).

    Raises:
        ValueError: a residual unlike y, or an estimator that needs symmetry where it was not promised.
        TypeError: an estimator that solves no linear system.

    Example:
        >>> import jax.numpy as jnp
        >>> from jaxfuse import implicit
        >>> x, y = jnp.array([4.0, 16.0]), jnp.array([2.0, 4.0])  # y = sqrt(x)
        >>> gradient, info = implicit.root_vjp(lambda x, y: y**2 - x, x, y, jnp.array([1.0, 2.0]))
        >>> print(gradient)
        [0.25 0.25]
    """
    return _vjp(pose_root(residual, x, y, "residual"), cotangent, estimator, symmetric, policy, inner_tolerance)


def root_jvp(
    residual: Callable[[Any, Any], Any],
    x: Any,
    y: Any,
    tangent: Any,
    *,
    estimator: AdjointEstimator | None = None,
    symmetric: bool = False,
    policy: Policy = "warn",
    inner_tolerance: float | None = None,
) -> tuple[Any, Info]:
    """The change of the root y*(x) along a tangent of x: -R_y^-1 R_x tangent, in the structure and types of y.

    Arguments, errors and `Info` as in `root_vjp`, with `tangent` a pytree like x. There is no upper function: adjoint
    is the solution, the tangent of y, and value its length.

    Example:
        >>> import jax.numpy as jnp
        >>> from jaxfuse import implicit
        >>> x, y = jnp.array([4.0, 16.0]), jnp.array([2.0, 4.0])  # y = sqrt(x)
        >>> change, info = implicit.root_jvp(lambda x, y: y**2 - x, x, y, jnp.array([1.0, 1.0]))
        >>> print(change)
        [0.25  0.125]
    """
    return _jvp(pose_root(residual, x, y, "residual"), tangent, estimator, symmetric, policy, inner_tolerance)


def fixed_point_vjp(
    step: Callable[[Any, Any], Any],
    x: Any,
    y: Any,
    cotangent: Any,
    *,
    estimator: AdjointEstimator | None = None,
    symmetric: bool = False,
    policy: Policy = "warn",
    inner_tolerance: float | None = None,
) -> tuple[Any, Info]:
    """The gradient in x of <cotangent, y*(x)>, where y* = step(x, y*): step_x' w with (I - step_y)' w = cotangent.

    `root_vjp` of y - step(x, y); `symmetric` says that step_y is (a step of gradient descent).

    Example:
        >>> import jax.numpy as jnp
        >>> from jaxfuse import implicit
        >>> step = lambda x, y: y / 2 + x  # y = 2 x
        >>> gradient, info = implicit.fixed_point_vjp(step, jnp.array(3.0), jnp.array(6.0), jnp.array(1.0))
        >>> print(gradient)
        2.0
    """
    return _vjp(pose_root(step, x, y, "step"), cotangent, estimator, symmetric, policy, inner_tolerance)


def fixed_point_jvp(
    step: Callable[[Any, Any], Any],
    x: Any,
    y: Any,
    tangent: Any,
    *,
    estimator: AdjointEstimator | None = None,
    symmetric: bool = False,
    policy: Policy = "warn",
    inner_tolerance: float | None = None,
) -> tuple[Any, Info]:
    """The change of the fixed point along a tangent of x: (I - step_y)^-1 step_x tangent; else as `root_jvp`.

    Example:
        >>> import jax.numpy as jnp
        >>> from jaxfuse import implicit
        >>> step = lambda x, y: y / 2 + x  # y = 2 x
        >>> change, info = implicit.fixed_point_jvp(step, jnp.array(3.0), jnp.array(6.0), jnp.array(10.0))
        >>> print(change)
        20.0
    """
    return _jvp(pose_root(step, x, y, "step"), tangent, estimator, symmetric, policy, inner_tolerance)


class Root(NamedTuple):
    """residual(x, y) = 0 on vectors of floating leaves, at a point given as vectors and as trees."""

    residual: Callable[[Vector, Vector], Vector]
    x: Vector
    y: Vector
    x_tree: Any
    y_tree: Any


def pose_root(function: Callable[[Any, Any], Any], x: Any, y: Any, name: Literal["residual", "step"]) -> Root:
    x_vector, x_merge = trees.split(x, "x")
    y_vector, y_merge = trees.split(y, "y")
    expected = jax.tree.structure(y)

    def residual(a: Vector, b: Vector) -> Vector:
        out = function(x_merge(a), y_merge(b))
        if jax.tree.structure(out) != expected:
            raise ValueError(
                f"{name}(x, y) returned the structure {jax.tree.structure(out)}; that of y was expected, {expected}"
            )
        image = trees.read(out, b, f"{name}(x, y)")
        return trees.add(b, image, -1) if name == "step" else image

    return Root(residual, x_vector, y_vector, x, y)


def chosen_solver(estimator: Any, y: Vector, large: Callable[[], AdjointEstimator]) -> AdjointEstimator:
    """The solver asked for, or the default; refused if it is no solver of linear systems."""
    if estimator is None:
        return dense() if trees.size(y) <= DENSE_LIMIT and not trees.is_sharded(y) else large()
    if not isinstance(estimator, AdjointEstimator) or type(estimator).solve is AdjointEstimator.solve:
        raise TypeError(
            f"estimator is {estimator!r}, which solves no linear system on its own; use one such as dense(), gmres() "
            "or neumann(), or give an estimator that needs the inner iteration to hypergradient"
        )
    return estimator


def root_system(
    estimator: AdjointEstimator, product: trees.Product, target: Vector, y: Vector, y_tree: Any, symmetric: bool
) -> LinearSystem:
    return LinearSystem(
        product=lambda vector, step: product(vector),
        target=target,
        symmetric=symmetric,
        definite=relies_on_curvature(estimator, symmetric),
        fresh=False,
        read=lambda tree, name: trees.read(tree, y, name),
        tree=lambda vector: trees.with_none(y_tree, vector),
        claimed=symmetric,
    )


def relies_on_curvature(estimator: AdjointEstimator, symmetric: bool) -> bool:
    """Tells whether a root's matrix must be positive definite for the solver's sake (cg): the root does not need it."""
    return symmetric and estimator.symmetric and estimator.definite


def default_solver(symmetric: bool) -> Callable[[], AdjointEstimator]:
    return minres if symmetric else gmres


def _check_policy(policy: str) -> None:
    check_policy(policy)
    if policy == "fallback":
        raise ValueError("policy 'fallback' was asked of a root, which has no direct gradient to fall back on: use nan")


def _vjp(
    root: Root, cotangent: Any, estimator: Any, symmetric: bool, policy: Any, tolerance: float | None
) -> tuple[Any, Info]:
    _check_policy(policy)
    chosen = chosen_solver(estimator, root.y, default_solver(symmetric))
    target = trees.read_gradient(cotangent, root.y, "cotangent")
    value, pull_y = jax.vjp(lambda inner: root.residual(root.x, inner), root.y)
    system = root_system(chosen, lambda vector: pull_y(vector)[0], target, root.y, root.y_tree, symmetric)
    solved = solve_system(chosen, system)
    # One reverse pass gives the gradient and, measured anew, the left side of the system.
    _, pull = jax.vjp(root.residual, root.x, root.y)
    cross, image = pull(solved.adjoint)
    gradient, along = trees.scale(cross, -1), trees.dot(target, root.y)
    place = place_of(root.y_tree, root.y, value, system.transposed, tolerance)
    gradient, info = _judged(chosen, system, solved, image, place, gradient, along, policy)
    return trees.gradient_like(root.x_tree, gradient), info


def _jvp(
    root: Root, tangent: Any, estimator: Any, symmetric: bool, policy: Any, tolerance: float | None
) -> tuple[Any, Info]:
    _check_policy(policy)
    chosen = chosen_solver(estimator, root.y, default_solver(symmetric))
    direction = trees.read(tangent, root.x, "tangent")
    _, change = jax.jvp(lambda outer: root.residual(outer, root.y), (root.x,), (direction,))
    value, product = jax.linearize(lambda inner: root.residual(root.x, inner), root.y)
    system = root_system(chosen, product, trees.scale(change, -1), root.y, root.y_tree, symmetric)
    solved = solve_system(chosen, system)
    image, length = product(solved.adjoint), trees.norm(lax.stop_gradient(solved.adjoint))
    place = place_of(root.y_tree, root.y, value, product, tolerance)
    moved, info = _judged(chosen, system, solved, image, place, solved.adjoint, length, policy)
    return trees.like(root.y_tree, moved), info


def _judged(
    estimator: AdjointEstimator,
    system: LinearSystem,
    solved: Solved,
    image: Vector,
    place: Place,
    result: Vector,
    value: Array,
    policy: Policy,
) -> tuple[Vector, Info]:
    """The result as the policy hands it out, and what the solve says about itself."""
    evidence = estimator.certify(system, solved, image, place)
    info = Info(
        value=value,
        inner_value=jnp.asarray(evidence.inner_gradient_norm**2 / 2),
        aux={},
        adjoint=system.tree(solved.adjoint),
        evidence=evidence,
        steps=solved.steps,
        products=solved.products + 1,
        damping=jnp.zeros_like(evidence.met),
        best_iterate=solved.best_iterate,
        results_finite=trees.all_finite(result) & trees.all_finite(system.target),
        policy=policy,
        estimator=type(estimator).__name__,
    )
    return apply_policy(info, result, result), info
