"""The gradient of min_x upper(x, y*(x)), y*(x) = argmin_y lower(x, y), with the evidence of how far to trust it."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, Protocol, runtime_checkable

import jax.numpy as jnp

from jaxfuse.implicit import trees
from jaxfuse.implicit.adjoint import Estimate
from jaxfuse.implicit.curvature import Curvature, hessian
from jaxfuse.implicit.estimators import cg, dense
from jaxfuse.implicit.info import Info, Policy, check_policy
from jaxfuse.implicit.problem import Problem, pose
from jaxfuse.implicit.trees import Vector

DENSE_LIMIT = 512  # unknowns up to which the default is exact and dense


@runtime_checkable
class Estimator(Protocol):
    """A way to compute the implicit gradient: from a problem at one point to an `Estimate`."""

    def estimate(self, problem: Problem, curvature: Curvature, inner_tolerance: float | None) -> Estimate:
        """Computes the gradient at the point; `inner_tolerance` is that of `hypergradient`, for the evidence."""
        ...


def hypergradient(
    upper: Callable[[Any, Any], Any],
    lower: Callable[[Any, Any], Any],
    x: Any,
    y: Any,
    *,
    estimator: Estimator | None = None,
    curvature: Curvature = hessian(),
    policy: Policy = "warn",
    inner_tolerance: float | None = None,
) -> tuple[Any, Info]:
    """d upper(x, y*(x)) / dx = upper_x - lower_xy q, where lower_yy q = upper_y (implicit function theorem).

    Pure and jittable; works under `vmap`, `scan`, and on sharded variables. Differentiable in both modes, y taken as a
    variable of its own: with y from `implicit_minimum`, its derivative is the second-order one.

    Args:
        upper, lower: (x, y) -> real scalar, or (scalar, auxiliary), the auxiliaries being returned in `Info.aux`.
        x: outer variables, any pytree. Leaves that are neither floating nor complex (counters, masks, keys) are
            constants.
        y: inner variables at (or near) the minimum of lower(x, .), any pytree, likewise.
        estimator: how; if None, undamped and exact: `dense()` for at most 512 unknowns, else (or if y is known to be
            sharded) `cg()`.
        curvature: what is inverted: `hessian()`, `gauss_newton(...)`, `fisher(...)`, `minibatch_hessian(...)`, each
            with the damping that is named there and no other.
        policy: what happens to a gradient that failed a check. "ignore": nothing. "warn", "raise": `info.check()` warns
            or raises, when the caller calls it on the host. "nan": the gradient is NaN. "fallback": it is the direct
            gradient upper_x. The last two act on the device, inside jit.
        inner_tolerance: how far y may be from the optimum, relative to |y|; 1e-4 in float64, 1e-3 in float32.

    Returns:
        The gradient, in the structure and the types of x (zeros at constants; of complex leaves as `jax.grad` has it,
        the conjugate of the direction of ascent), and `Info`.

    Raises:
        TypeError: a function returns no real scalar, or x or y has no variable.
        ValueError: curvature and estimator do not go together.

    Leaves of bfloat16 or float16 are handed to upper and lower as float32, since a solve needs the digits.

    Example:
        The weight x of a penalty, by the error of the fit y that it leaves:

        >>> import jax.numpy as jnp
        >>> from jaxfuse.implicit import hypergradient
        >>> data = jnp.array([1.0, 2.0])
        >>> def lower(x, y):
        ...     return ((y - data) ** 2).sum() + x * (y**2).sum()
        >>> def upper(x, y):
        ...     return ((y - jnp.array([0.5, 1.0])) ** 2).sum()
        >>> x = jnp.array(0.25)
        >>> y = data / (1 + x)  # the minimum of lower(x, .)
        >>> gradient, info = hypergradient(upper, lower, x, y)
        >>> print(f"{gradient:.4f}")  # exact: -2 * 5 * (1 / (1 + x) - 1 / 2) / (1 + x) ** 2
        -1.9200
        >>> bool(info.converged)
        True
    """
    check_policy(policy)
    problem = pose(upper, lower, x, y)
    chosen = estimator or (
        dense() if trees.size(problem.y) <= DENSE_LIMIT and not trees.is_sharded(problem.y) else cg()
    )
    found = chosen.estimate(problem, curvature, inner_tolerance)
    info = Info(
        value=found.value,
        inner_value=problem.inner_value,
        aux={"upper": found.aux, "lower": problem.aux},
        adjoint=None if found.adjoint is None else trees.with_none(y, found.adjoint),
        evidence=found.evidence,
        steps=found.steps,
        products=found.products,
        damping=found.damping,
        best_iterate=found.best_iterate,
        results_finite=trees.all_finite([*found.gradient, found.value, problem.inner_value]),
        policy=policy,
        estimator=type(chosen).__name__,
    )
    return trees.gradient_like(x, apply_policy(info, found.gradient, found.direct)), info


def apply_policy(info: Info, gradient: Vector, direct: Vector) -> Vector:
    """Returns the gradient that is handed out: NaN or the direct one where a check failed and the policy says so."""
    if info.policy == "nan":
        return trees.spoil(gradient, jnp.asarray(info.converged))
    if info.policy == "fallback":
        return trees.select(jnp.asarray(info.converged), gradient, direct)
    return gradient
