"""Newton's method for an inner problem: the minimum to rounding, from anywhere near it."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
from jax import Array, lax

from jaxfuse.implicit import krylov, trees
from jaxfuse.implicit.problem import objective, pose
from jaxfuse.implicit.trees import Vector


def newton(lower: Callable[[Any, Any], Any], x: Any, y: Any, *, most: int = 100) -> tuple[Any, Array]:
    """Finds the minimum of lower(x, .) from y on, to rounding, and the inner gradient norm there.

    Newton steps by conjugate gradients (cut at negative curvature; steepest descent where that leaves nothing), halved
    until `lower` falls; ends when neither `lower` nor its gradient falls any more, after `most` steps at the latest.
    """
    start, merge = trees.split(y, "y")
    valued = objective(lower, "lower")

    def height(vector: Vector) -> Array:
        return valued(x, merge(vector))[0]

    def advance(state: tuple[Vector, Array, Array, Array]) -> tuple[Vector, Array, Array, Array]:
        vector, norm, count, _ = state
        problem = pose(lower, lower, x, merge(vector))
        downhill = trees.scale(problem.inner_gradient, -1)
        steps = min(10 * trees.size(vector), 1000)
        solved = krylov.conjugate_gradients(
            lambda v, step: problem.hessian(v), downhill, start=None, preconditioner=None, tolerance=1e-3, steps=steps
        )
        direction = trees.select(trees.dot(solved.adjoint, downhill) > 0, solved.adjoint, downhill)
        slope = trees.dot(direction, downhill)
        before = problem.inner_value
        # Near the optimum the fall of `lower` drowns in rounding; there the gradient decides.
        rounding = 100 * jnp.finfo(before.dtype).eps * jnp.abs(before)

        def too_long(length: Array) -> Array:
            fallen = height(trees.add(vector, direction, length)) <= before - 1e-4 * length * slope + rounding
            return ~fallen & (length > 1e-9)

        length = lax.while_loop(too_long, lambda length: length / 2, jnp.ones_like(norm))
        moved = trees.add(vector, direction, length)
        value, gradient = jax.value_and_grad(height)(moved)
        after, fell = trees.norm(gradient), value < before - rounding
        better, further = (after < norm) | fell, (after < 0.9 * norm) | fell
        return trees.select(better, moved, vector), jnp.where(better, after, norm), count + 1, further

    first = (start, trees.norm(jax.grad(height)(start)), jnp.array(0), jnp.array(True))
    vector, norm, _, _ = lax.while_loop(lambda state: state[3] & (state[2] < most), advance, first)
    return merge(vector), norm
