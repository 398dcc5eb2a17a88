"""Is the implicit gradient of your problem right? Tests of a user's own functions, in the spirit of a gradient check.

They ask in turn: are the derivatives those of the functions, and consistent with each other; is the chosen curvature
that of `lower`; does the gradient's own evidence pass; does it agree with finite differences of the solved problem,
and are those themselves to be believed; is it still the same when the inner problem is solved much better.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Iterator
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax import Array

from jaxfuse.implicit import differences, trees
from jaxfuse.implicit.adjoint import lagrangian_slope
from jaxfuse.implicit.certificate import inner_limit, ratio
from jaxfuse.implicit.curvature import Curvature, fisher, gauss_newton, hessian
from jaxfuse.implicit.differences import Difference, Limits, limits_of, mismatch, solved_differences
from jaxfuse.implicit.hypergradient import Estimator, hypergradient
from jaxfuse.implicit.info import Info, UnreliableGradient
from jaxfuse.implicit.newton import newton
from jaxfuse.implicit.problem import Problem, objective, pose
from jaxfuse.implicit.rounding import coarseness
from jaxfuse.implicit.trees import Vector

Function = Callable[[Any, Any], Any]


@dataclasses.dataclass(frozen=True)
class Check:
    """One test: its number, the most (or, for a curvature, the least) it may be, and the verdict.

    `passed` is None where nothing could be judged; `sentence` says what is wrong and what to do, empty if passed.
    """

    name: str
    value: float
    limit: float
    passed: bool | None
    sentence: str = ""


@dataclasses.dataclass(frozen=True)
class HypergradientReport:
    """The findings of `check_hypergradient`; `str(report)` is a table.

    Attributes:
        checks: every test, in the order in which a failure should be looked into.
        differences: the finite differences, one for each direction.
        scale: the size of a directional derivative, to which differences are relative.
        gradient, info: the implicit gradient that was judged, and its evidence.

    Example:
        >>> import jax.numpy as jnp
        >>> from jaxfuse import implicit
        >>> lower, upper = lambda x, y: 2 * y**2 - x * y, lambda x, y: y  # y*(x) = x / 4
        >>> x, y = jnp.array(8.0), jnp.array(2.0)
        >>> report = implicit.check_hypergradient(upper, lower, x, y + 1)  # no minimum
        >>> report.passed, "inner optimum" in report.failed
        (False, True)
    """

    checks: tuple[Check, ...]
    differences: tuple[Difference, ...]
    scale: float
    gradient: Any
    info: Info

    @property
    def failed(self) -> tuple[str, ...]:
        """Names of the tests that failed."""
        return tuple(check.name for check in self.checks if check.passed is False)

    @property
    def passed(self) -> bool:
        """Tells whether no test failed."""
        return not self.failed

    def raise_if_failed(self) -> HypergradientReport:
        """Returns itself if no test failed.

        Raises:
            UnreliableGradient: a test failed; the message is the table.
        """
        if self.failed:
            raise UnreliableGradient(str(self))
        return self

    def __str__(self) -> str:
        verdicts = {True: "ok", False: "FAILED", None: "not judged"}
        count = f"{len(self.failed)} of {len(self.checks)} tests failed" if self.failed else "no test failed"
        lines = [f"implicit gradient by {self.info.estimator}: {count}"]
        lines += [f"{'test':<28}{'value':>10}{'limit':>10}  verdict"]
        for check in self.checks:
            limit = f"{check.limit:.1e}" if np.isfinite(check.limit) else "-"
            lines += [f"{check.name:<28}{check.value:>10.1e}{limit:>10}  {verdicts[check.passed]}"]
        for number, found in enumerate(self.differences, 1):
            lines += [
                f"direction {number}: differences {found.plateau:.6g} +- {found.spread:.1g} over {found.width} steps, "
                f"gradient {found.slope:.6g}"
            ]
        return "\n".join(lines + [f"{check.name}: {check.sentence}" for check in self.checks if check.sentence])


def check_hypergradient(
    upper: Function,
    lower: Function,
    x: Any,
    y: Any,
    *,
    solve: Callable[[Any], Any] | None = None,
    estimator: Estimator | None = None,
    curvature: Curvature = hessian(),
    key: Array | None = None,
    directions: int = 3,
) -> HypergradientReport:
    """Tests the gradient that `hypergradient` gives for these arguments, on the host; prints and raises nothing.

    The tests, with their limits in float64 and float32 (the latter if any variable is not float64):
      - symmetry of the Hessian of `lower` and of the chosen curvature; the mixed derivative taken forward, backward
        and in the other order; by inner products with random vectors (1e-10, 1e-4). Custom derivative rules that
        contradict each other break them. For Gauss-Newton and Fisher, also that v'Cv >= 0.
      - for `gauss_newton`, convex(residual(x, y)) = lower(x, y), at y and near it (1e-10, 1e-4).
      - the slopes of both functions, the Hessian and the mixed derivative against difference quotients, the nearest of
        several steps (1e-3, 1e-2). `stop_gradient` breaks these; it leaves derivatives that are wrong but consistent.
      - the flags of `Info`: inner optimum, linear solve, curvature, finite values.
      - finite differences of x -> upper(x, solve(x)) along random unit directions, central, with steps from 1e-1 to
        1e-9 |x| (3e-1 to 1e-4 |x|). A plateau is three neighboring steps that agree (1e-2, 5e-2); it must be there,
        and be <gradient, direction> (1e-3, 1e-2, plus its own spread), relative to the size of the directional
        derivatives. A flat plateau that differs is how an inner solver that stops early shows.
      - y solved anew to rounding must not change the gradient (1e-3, 1e-2).

    Args:
        upper, lower, x, y, estimator, curvature: as for `hypergradient`.
        solve: the inner solver, x -> y, called about 20 times for each direction, outside jit. If None, y is solved
            anew from the given one by damped Newton steps, so that differences are those of the inner optimum itself.
        key: of the random directions; `jax.random.key(0)` if None.
        directions: number of directions for the differences.

    An approximation by name (a damped curvature, Gauss-Newton away from a perfect fit, a truncated series) fails the
    finite differences by as much as it is off: the table says by how much.

    Example:
        >>> import jax.numpy as jnp
        >>> from jaxfuse import implicit
        >>> lower, upper = lambda x, y: 2 * y**2 - x * y, lambda x, y: y  # y*(x) = x / 4
        >>> x, y = jnp.array(8.0), jnp.array(2.0)
        >>> report = implicit.check_hypergradient(upper, lower, x, y, solve=lambda x: x / 4)
        >>> print(str(report).partition(chr(10))[0])
        implicit gradient by dense: no test failed
    """
    if directions < 1:
        raise ValueError(f"directions is {directions}; at least 1 was expected")
    keys = jax.random.split(jax.random.key(0) if key is None else key, 2)
    limits = limits_of(trees.split(x, "x")[0] + trees.split(y, "y")[0])

    @jax.jit
    def differentiate(x: Any, y: Any) -> tuple[Any, Info]:
        return hypergradient(upper, lower, x, y, estimator=estimator, curvature=curvature, policy="ignore")

    resolve = jax.jit(lambda x: newton(lower, x, y))
    gradient, info = differentiate(x, y)
    value = jax.jit(lambda x, y: objective(upper, "upper")(x, y)[0])
    solver = solve or (lambda x: resolve(x)[0])
    found = solved_differences(value, solver, x, y, gradient, keys[0], directions, limits)
    scale = differences.size(found)
    checks = [
        *_derivatives(upper, lower, x, y, curvature, keys[1], limits),
        *_evidence(info, y),
        *_judged(found, scale, limits),
        _resolved(resolve(x), x, gradient, info, differentiate, limits),
    ]
    return HypergradientReport(tuple(checks), found, scale, gradient, info)


_SENTENCES = {
    "Hessian symmetry": "<u, Hv> and <v, Hu> differ, so the gradient of lower is not the slope of one function: look "
    "for custom derivative rules or an iterative solver inside lower",
    "mixed derivative": "d2 lower / dy dx taken forward, backward and in the other order differ: look for custom "
    "derivative rules inside lower",
    "curvature symmetry": "<u, Cv> and <v, Cu> differ: look for custom derivative rules inside the functions that the "
    "curvature was given",
    "curvature sign": "v'Cv is negative, so the outer function is not convex: choose another split",
    "gauss_newton split": "convex(residual(x, y)) is not lower(x, y), so the curvature is that of another function: "
    "put every term of lower that depends on y into residual and convex",
    "lower by differences": "the gradient of lower in y is not the slope of its values: look for stop_gradient, custom "
    "derivative rules, rounding or randomness inside lower",
    "Hessian by differences": "the Hessian of lower is not the slope of its gradient: look for stop_gradient, custom "
    "derivative rules, or kinks (whose curvature automatic differentiation does not see) inside lower",
    "mixed by differences": "d2 lower / dy dx is not the slope in x of the gradient in y: look for stop_gradient on x "
    "or y inside lower",
    "upper by differences": "the gradient of upper is not the slope of its values: look for stop_gradient, custom "
    "derivative rules, rounding or randomness inside upper",
}


def _derivatives(
    upper: Function, lower: Function, x: Any, y: Any, curvature: Curvature, key: Array, limits: Limits
) -> Iterator[Check]:
    """Tests whether the derivatives of `lower` and `upper` agree with each other and with their functions."""

    @jax.jit
    def measure(x: Any, y: Any) -> tuple[dict[str, Array], dict[str, Array]]:
        problem = pose(upper, lower, x, y)
        draws = [trees.random_like(each, problem.y) for each in jax.random.split(key, 2)]
        side = trees.random_like(jax.random.fold_in(key, 2), problem.x)
        exact = _equalities(problem, side, *draws) | _of_curvature(problem, curvature, *draws)
        return exact, _quotients(problem, side, draws[0], limits)

    for numbers, limit in zip(measure(x, y), (limits.identity, limits.agreement), strict=True):
        for name in (name for name in _SENTENCES if name in numbers):
            number = float(numbers[name])
            passed = number <= limit
            yield Check(name, number, limit, passed, "" if passed else _SENTENCES[name])


def _asymmetry(u: Vector, image_of_u: Vector, v: Vector, image_of_v: Vector) -> Array:
    size = trees.norm(u) * trees.norm(image_of_v) + trees.norm(v) * trees.norm(image_of_u)
    return ratio(2 * jnp.abs(trees.dot(u, image_of_v) - trees.dot(v, image_of_u)), size)


def _equalities(problem: Problem, side: Vector, u: Vector, v: Vector) -> dict[str, Array]:
    """Symmetry of the second derivatives of `lower`: `side` is a direction in x, u and v are directions in y."""

    def across(y: Vector) -> Vector:
        return jax.grad(lambda x: problem.lower(x, y)[0])(problem.x)

    forward = _mixed(problem, side)
    backward, _ = lagrangian_slope(problem, u)
    _, swapped = jax.jvp(across, (problem.y,), (u,))
    same = jnp.stack([trees.dot(u, forward), trees.dot(backward, side), trees.dot(swapped, side)])
    size = trees.norm(u) * trees.norm(forward) + trees.norm(side) * trees.norm(swapped)
    return {
        "Hessian symmetry": _asymmetry(u, problem.hessian(u), v, problem.hessian(v)),
        "mixed derivative": ratio(2 * (jnp.max(same) - jnp.min(same)), size),
    }


def _of_curvature(problem: Problem, curvature: Curvature, u: Vector, v: Vector) -> dict[str, Array]:
    """Symmetry, sign and, for Gauss-Newton, the split of a curvature other than the Hessian."""
    if isinstance(curvature, hessian):
        return {}
    product = curvature(problem)
    images = product(u, jnp.array(0)), product(v, jnp.array(0))
    numbers = {"curvature symmetry": _asymmetry(u, images[0], v, images[1])}
    if isinstance(curvature, (gauss_newton, fisher)):
        pairs = zip((u, v), images, strict=True)
        below = [ratio(-trees.dot(w, image), trees.norm(w) * trees.norm(image)) for w, image in pairs]
        numbers["curvature sign"] = jnp.maximum(jnp.max(jnp.stack(below)), 0)
    if isinstance(curvature, gauss_newton):
        split = problem.of_trees(lambda x, y: curvature.convex(curvature.residual(x, y)))
        # A term that vanishes at y, such as a penalty on zeros, shows only beside it.
        values = [(split(problem.x, y), problem.lower(problem.x, y)[0]) for y in (problem.y, _beside(problem, u))]
        apart = [ratio(jnp.abs(a - b), jnp.maximum(jnp.abs(a), jnp.abs(b))) for a, b in values]
        numbers["gauss_newton split"] = jnp.max(jnp.stack(apart))
    return numbers


def _quotients(problem: Problem, side: Vector, along: Vector, limits: Limits) -> dict[str, Array]:
    """Distances of the derivatives from their difference quotients; `side` is a direction in x, `along` one in y."""
    outer = len(problem.x)
    slope = _slope(problem, problem.x)
    side, along = _unit(side), _unit(along)

    def upper(both: Vector) -> Vector:
        return [problem.upper(both[:outer], both[outer:])[0]]

    def lower(y: Vector) -> Vector:
        return [problem.lower(problem.x, y)[0]]

    def of_value(function: Callable[[Vector], Vector], point: Vector, random: Vector) -> Array:
        gradient = jax.grad(lambda at: function(at)[0])(point)
        # Half steepest ascent: across the gradient there would be nothing to compare.
        direction = _unit(trees.add(_unit(random), _unit(gradient)))
        return mismatch(function, point, direction, [trees.dot(gradient, direction)], limits)

    return {
        "lower by differences": of_value(lower, _beside(problem, along), along),
        "Hessian by differences": mismatch(slope, problem.y, along, problem.hessian(along), limits),
        "mixed by differences": mismatch(
            lambda x: _slope(problem, x)(problem.y), problem.x, side, _mixed(problem, side), limits
        ),
        "upper by differences": of_value(upper, problem.x + problem.y, side + along),
    }


def _slope(problem: Problem, x: Vector) -> Callable[[Vector], Vector]:
    return jax.grad(lambda y: problem.lower(x, y)[0])


def _mixed(problem: Problem, side: Vector) -> Vector:
    """The change of the gradient of `lower` in y along a direction in x."""
    return jax.jvp(lambda x: _slope(problem, x)(problem.y), (problem.x,), (side,))[1]


def _beside(problem: Problem, direction: Vector) -> Vector:
    """A point a tenth of |y| from y, since much vanishes at y itself; 0.1 from it where y is zero."""
    length = trees.norm(problem.y)
    return trees.add(problem.y, _unit(direction), jnp.where(length > 0, 0.1 * length, 0.1))


def _unit(vector: Vector) -> Vector:
    length = trees.norm(vector)
    return trees.scale(vector, jnp.where(length > 0, 1 / jnp.where(length > 0, length, 1), 0))


def _evidence(info: Info, y: Any) -> Iterator[Check]:
    """The flags of `Info`, each with its own complaint."""
    place = trees.split(y, "y")[0]
    limit = inner_limit(None, trees.coarsest_type(place), coarseness(y)) * trees.norm(place)
    rows = {
        "inner_converged": ("inner optimum", info.displacement, limit),
        "solve_converged": ("linear solve", info.system_residual, np.nan),
        "positive": ("least curvature", info.least_curvature, 0.0),
        "finite": ("finite", info.value, np.inf),
    }
    for flag, (name, value, limit) in rows.items():
        said = info.complaints().get(flag, "")
        yield Check(name, float(value), float(limit), not said, said)


def _judged(found: tuple[Difference, ...], scale: float, limits: Limits) -> Iterator[Check]:
    """Tests whether the differences have a plateau, and whether it is where the gradient says."""
    spreads = np.array([d.spread for d in found]) / scale
    flat = spreads <= limits.spread
    worst = int(np.argmax(np.where(np.isfinite(spreads), spreads, np.inf)))
    said = (
        f"differences along direction {worst + 1} agree at no three neighboring steps, so they can neither confirm nor "
        "refute the gradient: upper(x, solve(x)) is noisy or not smooth; fix its randomness, or solve to a tighter "
        "tolerance"
    )
    yield Check(
        "difference plateau", float(spreads[worst]), limits.spread, bool(flat.all()), "" if flat.all() else said
    )
    if not flat.any():
        yield Check("finite differences", np.nan, limits.agreement, None, "not judged for want of a plateau")
        return
    apart = np.array([abs(d.plateau - d.slope) for d in found]) / scale
    # By how much each direction exceeds what it is allowed, its own spread included.
    excess = np.where(flat, apart - spreads, -np.inf)
    excess = np.where(np.isnan(excess), np.inf, excess)
    worst = int(np.argmax(excess))
    limit = limits.agreement + float(spreads[worst])
    passed = bool(apart[worst] <= limit)
    one = found[worst]
    said = (
        f"along direction {worst + 1} the differences are flat at {one.plateau:.6g} over {one.width} steps and the "
        f"gradient says {one.slope:.6g}: either the gradient is wrong (an approximate estimator or curvature, a "
        "stop_gradient), or y, here or in the differences, is not the inner optimum, and then the two are derivatives "
        "of different functions; see inner optimum and re-solve"
    )
    yield Check("finite differences", float(apart[worst]), limit, passed, "" if passed else said)


def _resolved(
    resolved: tuple[Any, Array],
    x: Any,
    gradient: Any,
    info: Info,
    differentiate: Callable[[Any, Any], tuple[Any, Info]],
    limits: Limits,
) -> Check:
    """Tests how much the gradient changes when y is solved to rounding."""
    y, norm = resolved
    anew, anew_info = differentiate(x, y)
    here, there = trees.split(gradient, "the gradient")[0], trees.split(anew, "the gradient")[0]
    change = float(ratio(trees.norm(trees.add(here, there, -1)), trees.norm(there)))
    way = f"from an inner gradient norm of {float(info.inner_gradient_norm):.2g} to {float(norm):.2g}"
    if not bool(anew_info.inner_converged):
        said = f"y could not be solved anew: Newton's method went {way}, and that is no optimum either"
        return Check("re-solve", change, limits.agreement, None, said)
    passed = change <= limits.agreement
    said = f"the gradient changes when y is solved {way}: run the inner solver longer"
    return Check("re-solve", change, limits.agreement, passed, "" if passed else said)
