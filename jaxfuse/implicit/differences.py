"""Central differences over a range of steps, and whether they can be believed: a plateau of steps that agree.

Too long a step shows the curve, too short a one the rounding, and a solver that stops at a tolerance its noise; only
quotients that do not depend on the step are a derivative.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax import Array, lax

from jaxfuse.implicit import trees
from jaxfuse.implicit.certificate import ratio
from jaxfuse.implicit.trees import Vector


@dataclasses.dataclass(frozen=True)
class Limits:
    """Largest relative errors that pass, and the steps of differences in units of the length of the variable.

    Attributes:
        identity: of equalities between derivatives, exact but for rounding.
        spread: of the three quotients that make a plateau.
        agreement: between a derivative and its difference quotient, or two gradients.
        steps: descending.
    """

    identity: float
    spread: float
    agreement: float
    steps: tuple[float, ...]


DOUBLE = Limits(1e-10, 1e-2, 1e-3, tuple(10.0**-power for power in range(1, 10)))
# Float32 leaves about three good digits to a quotient, at steps of 1e-3 to 1e-1: half decades there.
SINGLE = Limits(1e-4, 5e-2, 1e-2, tuple(10.0 ** (-power / 2) for power in range(1, 9)))


def limits_of(variables: Vector) -> Limits:
    """Returns the limits of float64 if every variable has that type, else those of float32."""
    return DOUBLE if all(leaf.dtype == jnp.float64 for leaf in variables) else SINGLE


@dataclasses.dataclass(frozen=True)
class Difference:
    """Central differences of x -> upper(x, solve(x)) along one unit direction, and what they agree on.

    Attributes:
        steps: lengths along the direction, descending.
        values: the difference quotient of each.
        plateau: the middle of the three neighboring values that agree best.
        spread: how far these three lie apart, the rounding of the upper value included.
        width: how many neighboring values lie within the plateau's tolerance of it.
        slope: what the gradient says, <gradient, direction>.
    """

    steps: np.ndarray
    values: np.ndarray
    plateau: float
    spread: float
    width: int
    slope: float


def solved_differences(
    value: Callable[[Any, Any], Array],
    solve: Callable[[Any], Any],
    x: Any,
    y: Any,
    gradient: Any,
    key: Array,
    directions: int,
    limits: Limits,
) -> tuple[Difference, ...]:
    """Central differences of x -> value(x, solve(x)) along random unit directions, on the host."""
    vector, merge = trees.split(x, "x")
    slopes = trees.read_gradient(gradient, vector, "the gradient")
    length = float(trees.norm(vector)) or 1.0
    # The digits of a quotient are those of the coarsest type on the way.
    eps = max(float(jnp.finfo(leaf.dtype).eps) for leaf in vector + trees.split(y, "y")[0])
    steps = length * np.asarray(limits.steps)
    move = jax.jit(lambda direction, step: merge(trees.add(vector, direction, step)))

    def along(direction: Vector, step: float) -> float:
        point = move(direction, step)
        solution = solve(point)
        if jax.tree.structure(solution) != jax.tree.structure(y):
            came, expected = jax.tree.structure(solution), jax.tree.structure(y)
            raise ValueError(f"solve(x) returned {came}; the structure of y, {expected}, was expected")
        return float(value(point, solution))

    found = []
    for number in range(directions):
        direction = trees.random_like(jax.random.fold_in(key, number), vector)
        direction = trees.scale(direction, 1 / trees.norm(direction))
        pairs = np.array([(along(direction, step), along(direction, -step)) for step in steps])
        values = (pairs[:, 0] - pairs[:, 1]) / (2 * steps)
        noise = eps * (np.abs(pairs).sum(axis=1) + 2 * np.abs(values) * length) / steps
        found.append(plateau(steps, values, noise, float(trees.dot(slopes, direction)), limits))
    return tuple(found)


def plateau(steps: np.ndarray, values: np.ndarray, noise: np.ndarray, slope: float, limits: Limits) -> Difference:
    """The three neighboring quotients that agree best, and how many more agree with them.

    Args:
        noise: what rounding may have done to each quotient. It counts as disagreement, or values that rounding has made
            equal would look like a plateau.
    """
    windows = np.lib.stride_tricks.sliding_window_view(values, 3)
    spreads = np.ptp(windows, axis=1) + np.lib.stride_tricks.sliding_window_view(noise, 3).max(axis=1)
    best = int(np.argmin(np.where(np.isfinite(spreads), spreads, np.inf)))
    middle = float(values[best + 1])
    agrees = np.abs(values - middle) <= limits.spread * abs(middle) + spreads[best]
    first = last = best + 1
    while first > 0 and agrees[first - 1]:
        first -= 1
    while last < len(values) - 1 and agrees[last + 1]:
        last += 1
    return Difference(steps, values, middle, float(spreads[best]), last - first + 1, slope)


def size(found: tuple[Difference, ...]) -> float:
    """Root mean square of the directional derivatives, the larger of the two kinds; 1 where all are zero."""
    kinds = ([each.slope for each in found], [each.plateau for each in found])
    sizes = [float(np.sqrt(np.mean(np.square(kind)))) for kind in kinds]
    return max([each for each in sizes if np.isfinite(each)], default=0.0) or 1.0


def mismatch(
    function: Callable[[Vector], Vector], point: Vector, direction: Vector, derivative: Vector, limits: Limits
) -> Array:
    """Relative distance of a derivative along a unit direction from the nearest of its difference quotients.

    Pure and jittable. The steps are those of `limits`, in units of the length of `point` (1 if that is zero). A
    derivative too small to be told from rounding, one that changes the function by less than sqrt(eps) of itself over
    that length, is judged as if it were that large.
    """
    length = trees.norm(point)
    length = jnp.where(length > 0, length, 1)
    least = trees.norm(function(point)) * jnp.sqrt(jnp.finfo(length.dtype).eps) / length

    def apart(step: Array) -> Array:
        ahead = function(trees.add(point, direction, step))
        behind = function(trees.add(point, direction, -step))
        quotient = trees.scale(trees.add(ahead, behind, -1), 1 / (2 * step))
        whole = jnp.maximum(jnp.maximum(trees.norm(quotient), trees.norm(derivative)), least)
        return ratio(trees.norm(trees.add(quotient, derivative, -1)), whole)

    distances = lax.map(apart, length * jnp.asarray(limits.steps, length.dtype))
    return jnp.min(jnp.where(jnp.isnan(distances), jnp.inf, distances))
