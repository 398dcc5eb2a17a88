"""Gradients through minima under constraints and with kinks: y*(x) = argmin_y lower(x, y) + term(x, y).

Such a minimum is a fixed point of the proximal step y <- prox(y - s d lower/dy), of a projected one if the term is a
set, for any length s; and is differentiated as one. The derivative is that along the face on which it lies: entries
that are held stay held. Where y lies on a kink itself, it has none, and the evidence says so.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
from jax import Array, lax

from jaxfuse.implicit import trees
from jaxfuse.implicit.adjoint import AdjointEstimator
from jaxfuse.implicit.attached import AttachedPolicy, implicit_fixed_point
from jaxfuse.implicit.face import Face, along_face, largest, rounding_of, stride
from jaxfuse.implicit.hypergradient import apply_policy
from jaxfuse.implicit.info import Info, Policy, check_policy
from jaxfuse.implicit.problem import Problem, objective, pose
from jaxfuse.implicit.roots import fixed_point_vjp
from jaxfuse.implicit.terms import Step, check_positive, step_of
from jaxfuse.implicit.trees import Vector


def proximal_step(lower: Callable[[Any, Any], Any], term: Any, x: Any, y: Any, length: float | Array) -> Any:
    """One step of proximal gradient descent on lower + term: the prox of `term` after a gradient step on `lower`.

    Iterated, it finds the minimum if the length is below 2 / L, L the largest curvature of `lower` (1 / L is usual).

    Args:
        lower: (x, y) -> real scalar, or (scalar, auxiliary).
        term: a term such as `box`, `l1_norm` or `simplex`, or a pytree of them, None where y is free.
        x, y: any pytrees.
        length: of the gradient step, positive.

    Returns:
        The new y, in its structure and types; leaves that are no variables stay as they are.

    Raises:
        ValueError: the length is a number that is not positive, or the term does not fit y.
        TypeError: a leaf of `term` is no term, or y is complex.

    Example:
        >>> import jax.numpy as jnp
        >>> from jaxfuse.implicit import l1_norm, proximal_step
        >>> lower = lambda x, y: 0.5 * ((y - x) ** 2).sum()
        >>> print(proximal_step(lower, l1_norm(1.0), jnp.array([3.0, 0.5, -2.0]), jnp.zeros(3), 1.0))
        [ 2.  0. -1.]
    """
    check_positive("proximal_step", length=length)
    kind = trees.scalar_type(trees.split(y, "y")[0])
    point = _step(objective(lower, "lower"), term, x, y, jnp.asarray(length, kind)).point
    return trees.replaced(y, point)


def proximal_hypergradient(
    upper: Callable[[Any, Any], Any],
    lower: Callable[[Any, Any], Any],
    x: Any,
    y: Any,
    *,
    term: Any,
    estimator: AdjointEstimator | None = None,
    policy: Policy = "warn",
    inner_tolerance: float | None = None,
) -> tuple[Any, Info]:
    """d upper(x, y*(x)) / dx, where y*(x) minimizes lower(x, y) + term(x, y) in y.

    Pure, jittable, under `vmap` too. The derivative of the fixed point of a proximal step: right on the face that y
    lies on, for terms whose numbers depend on x as well.

    Args:
        upper, lower: as in `hypergradient`; `lower` is the smooth part.
        x, y: any pytrees, y at (or near) the minimum.
        term: a term such as `box`, `l1_norm` or `simplex`, or a pytree of them, None where y is free.
        estimator: a solver of linear systems that need not be symmetric; if None, `dense()` for at most 512 unknowns
            on one device, else `gmres()`.
        policy: as in `hypergradient`. A gradient at a kink has failed a check, `Info.smooth`.
        inner_tolerance: as in `hypergradient`.

    Returns:
        The gradient, in the structure and types of x, and `Info`, whose numbers are those of `root_vjp`, but for value,
        inner_value and aux, which are those of the two functions; and `Info.face`: which entries are held, how far the
        next kink is, the curvature along the face.

    Raises:
        ValueError: terms unlike y, or an estimator that needs symmetry.
        TypeError: as in `hypergradient`, or an estimator that solves no linear system.

    Example:
        A lasso by its weight: entries at zero stay there, the others shrink alike.

        >>> import jax
        >>> import jax.numpy as jnp
        >>> from jaxfuse import implicit
        >>> data = jnp.array([3.0, 0.5, -2.0])
        >>> lower = lambda x, y: 0.5 * ((y - data) ** 2).sum()
        >>> upper = lambda x, y: (y**2).sum()
        >>> term = implicit.l1_norm(lambda x: x)
        >>> @jax.jit
        ... def differentiate(x, y):
        ...     return implicit.proximal_hypergradient(upper, lower, x, y, term=term)
        >>> gradient, info = differentiate(jnp.array(1.0), jnp.array([2.0, 0.0, -1.0]))  # shrunk by 1
        >>> print(f"{gradient:.4f}")  # -2 (2 + 1)
        -6.0000
        >>> info.face.active.tolist(), bool(info.converged)
        ([False, True, False], True)
    """
    check_policy(policy)
    problem = pose(upper, lower, x, y)
    (value, aux), (direct, target) = jax.value_and_grad(problem.upper, argnums=(0, 1), has_aux=True)(
        problem.x, problem.y
    )
    length = stride(problem.y, problem.inner_gradient, problem.hessian)
    indirect, info = fixed_point_vjp(
        lambda x, y: proximal_step(lower, term, x, y, length),
        x,
        y,
        trees.cotangent(y, target),
        estimator=estimator,
        policy="ignore",
        inner_tolerance=inner_tolerance,
    )
    gradient = trees.add(direct, trees.read_gradient(indirect, direct, "the gradient"))
    face = _face(problem, term, x, y, length, trees.read(info.adjoint, target, "the adjoint"), target)
    info = dataclasses.replace(
        info,
        value=value,
        inner_value=problem.inner_value,
        aux={"upper": aux, "lower": problem.aux},
        results_finite=info.results_finite & trees.all_finite([*gradient, value, problem.inner_value]),
        face=face,
        policy=policy,
    )
    return trees.gradient_like(x, apply_policy(info, gradient, direct)), info


def implicit_proximal_minimum(
    lower: Callable[[Any, Any], Any],
    x: Any,
    y: Any,
    *,
    term: Any,
    estimator: AdjointEstimator | None = None,
    policy: AttachedPolicy = "nan",
    inner_tolerance: float | None = None,
) -> Any:
    """y itself, as the function of x that y = argmin lower(x, .) + term(x, .) makes it; else as `implicit_root`.

    Args:
        lower, term, estimator: as in `proximal_hypergradient`.
        policy: as in `implicit_root`; under "nan", derivatives at a kink are NaN too.

    Example:
        >>> import jax
        >>> import jax.numpy as jnp
        >>> from jaxfuse import implicit
        >>> lower = lambda x, y: 0.5 * ((y - x) ** 2).sum()
        >>> def clipped(x):
        ...     return implicit.implicit_proximal_minimum(lower, x, jnp.clip(x, 0, 1), term=implicit.box(0.0, 1.0))
        >>> print(jax.jit(jax.jacfwd(lambda x: clipped(x).sum()))(jnp.array([-1.0, 0.5, 2.0])))
        [0. 1. 0.]
    """
    held_x, held_y = trees.constant(x), trees.constant(y)
    problem = pose(lower, lower, held_x, held_y)
    length = stride(problem.y, problem.inner_gradient, problem.hessian)
    step, argument = _step_at(problem, term, held_x, held_y, length)
    # What y - step(y) says of the distance to the minimum is judged by the certificate of each derivative.
    apart = trees.norm(trees.add(problem.y, step.point, -1))
    face = _margins(step, argument, problem, jnp.full_like(step.margin, jnp.inf), held_y)
    good = jnp.asarray(face.smooth(apart))

    def followed(x: Any, y: Any) -> Any:
        if policy == "nan":
            vector, merge = trees.split(y, "y")
            y = merge(trees.spoil(vector, good))
        return proximal_step(lower, term, x, y, length)

    return implicit_fixed_point(followed, x, y, estimator=estimator, policy=policy, inner_tolerance=inner_tolerance)


def _step(lower: Callable[..., Any], term: Any, x: Any, y: Any, length: Array) -> Step:
    vector, merge = trees.split(y, "y")
    slope = jax.grad(lambda inner: lower(x, merge(inner))[0])(vector)
    return step_of(term, x, y, trees.add(vector, slope, -length), length)


def _step_at(problem: Problem, term: Any, x: Any, y: Any, length: Array) -> tuple[Step, Vector]:
    """The step at the point of the problem, and the argument of its prox."""
    argument = trees.add(problem.y, problem.inner_gradient, -length)
    return step_of(term, x, y, argument, length), argument


def _face(problem: Problem, term: Any, x: Any, y: Any, length: Array, adjoint: Vector, target: Vector) -> Face:
    fixed = lax.stop_gradient((adjoint, target))
    step, argument = _step_at(problem, term, x, y, length)
    _, (tangent,) = jax.jvp(lambda moved: (step_of(term, x, y, moved, length).point,), (argument,), (fixed[0],))
    curvature = along_face(lax.stop_gradient(tangent), *fixed, length)
    return _margins(step, argument, problem, curvature, y)


def _margins(step: Step, argument: Vector, problem: Problem, curvature: Array, y: Any) -> Face:
    return lax.stop_gradient(
        Face(
            active=trees.with_none(y, step.active),
            margin=step.margin,
            size=largest(argument),
            rounding=rounding_of(problem.y),
            curvature=curvature,
        )
    )
