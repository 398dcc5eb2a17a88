"""The image that minimizes an energy near the output of a fusion network.

Each image of a batch is settled by itself: what it becomes does not depend on those beside it, so that a picture is
the same in training, in a prediction and in a data set of fused images.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp

from jaxfuse.arrays import Array
from jaxfuse.learning.game import Energy

_TOLERANCE = 1e-6


def settle(energy: Energy, output: Array, rounds: int, steps: int) -> Array:
    """theta after so many reweighted Gauss-Newton rounds from Phi, each solved by at most `steps` of CG."""

    def refine(_: Any, theta: Array) -> Array:
        residuals, push = jax.linearize(lambda theta: energy.residuals(theta, output), theta)
        pull = jax.linear_transpose(push, theta)
        weights = energy.weights(residuals)

        def pull_weighted(tangents: Any) -> Array:
            return pull(jax.tree.map(jnp.multiply, weights, tangents))[0]

        return theta - conjugate_gradients(lambda v: pull_weighted(push(v)), pull_weighted(residuals), steps)

    return jax.lax.fori_loop(0, rounds, refine, output)


def conjugate_gradients(product: Callable[[Array], Array], target: Array, steps: int) -> Array:
    """x with product(x) = target, example by example, after at most `steps` steps from 0.

    The matrix is positive definite and connects no two examples. An example rests once its residual is a millionth of
    its target.
    """

    def inner(a: Array, b: Array) -> Array:
        return (a * b).sum(axis=tuple(range(1, a.ndim)), keepdims=True)

    def divided(a: Array, b: Array, where: Array) -> Array:
        return jnp.where(where, a / jnp.where(where, b, 1), 0)

    enough = _TOLERANCE**2 * inner(target, target)

    def step(_: Any, now: tuple[Array, Array, Array]) -> tuple[Array, Array, Array]:
        x, residual, direction = now
        squared, image = inner(residual, residual), product(direction)
        curvature = inner(direction, image)
        length = divided(squared, curvature, (squared > enough) & (curvature > 0))
        after = residual - length * image
        turn = divided(inner(after, after), squared, length > 0)
        return x + length * direction, after, after + turn * direction

    return jax.lax.fori_loop(0, steps, step, (jnp.zeros_like(target), target, target))[0]
