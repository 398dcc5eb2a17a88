"""BiCGStab on vectors made of many arrays: for systems that need not be symmetric, in few vectors.

An own loop, because lineax's ends, with 64-bit mode off, at the first coefficient that is not positive, which healthy
systems have too, and divides 0 by 0 where a half step is exact; and because this one runs on sharded variables.
"""

from __future__ import annotations

from typing import Any, NamedTuple

import jax.numpy as jnp
from jax import Array, lax

from jaxfuse.implicit import trees
from jaxfuse.implicit.krylov import Solved
from jaxfuse.implicit.trees import Product, Vector


def stabilized_biconjugate(
    product: Product,
    target: Vector,
    *,
    start: Vector | None,
    preconditioner: Product | None,
    tolerance: Any,
    steps: int,
) -> Solved:
    """Solves A q = target for any invertible A by BiCGStab, preconditioned from the right. van der Vorst 1992.

    Args:
        product: v -> A v.
        start: first iterate; zero if None, which spares one product.
        preconditioner: v -> M v with M near the inverse of A.
        tolerance: stops when |A q - target| <= tolerance * |target|, by the recursive residual.
        steps: stops after as many steps; two products each.

    Where the recursion breaks down it begins anew from the residual of that moment. Returns the iterate of least
    residual.
    """
    iterate, residual = trees.zeros(target), target
    if start is not None:
        iterate, residual = start, trees.add(target, product(start), -1)
    limit = jnp.asarray(tolerance, trees.scalar_type(target)) ** 2 * trees.dot(target, target)
    last = _iterate(product, preconditioner or (lambda v: v), iterate, residual, limit, steps)
    return Solved(
        adjoint=last.best,
        steps=last.step,
        products=2 * last.step + int(start is not None),
        least_curvature=jnp.full_like(limit, jnp.inf),
        best_iterate=~(last.squared <= last.best_squared),
    )


class _Stabilized(NamedTuple):
    step: Array
    iterate: Vector
    residual: Vector
    shadow: Vector
    direction: Vector
    image: Vector
    turn: Array  # (alpha / omega) / rho of the step before; 0: begin anew
    omega: Array
    squared: Array  # |residual|^2
    best: Vector
    best_squared: Array


def _iterate(
    product: Product, precondition: Product, iterate: Vector, residual: Vector, limit: Array, steps: int
) -> _Stabilized:
    """BiCGStab until |residual|^2 <= limit; products are with A M, and the iterate is moved by M of their vectors."""
    squared = trees.dot(residual, residual)
    eps = jnp.finfo(squared.dtype).eps
    nothing, none = trees.zeros(residual), jnp.zeros_like(squared)

    def over(part: Array, whole: Array) -> Array:
        return jnp.where(whole == 0, 0, part / jnp.where(whole == 0, 1, whole))

    def advance(state: _Stabilized) -> _Stabilized:
        residual = state.residual
        rho = trees.dot(state.shadow, residual)
        # A shadow orthogonal to the residual, or a step of no length, says nothing about the next direction.
        floor = eps * jnp.sqrt(trees.dot(state.shadow, state.shadow) * state.squared)
        anew = (state.turn == 0) | (jnp.abs(rho) <= floor)
        onward = trees.add(residual, trees.add(state.direction, state.image, -state.omega), rho * state.turn)
        direction = trees.select(anew, residual, onward)
        shadow = trees.select(anew, residual, state.shadow)
        rho = jnp.where(anew, state.squared, rho)
        moved = precondition(direction)
        image = product(moved)
        alpha = over(rho, trees.dot(shadow, image))
        half = trees.add(residual, image, -alpha)
        moved_half = precondition(half)
        image_half = product(moved_half)
        omega = over(trees.dot(half, image_half), trees.dot(image_half, image_half))
        iterate = trees.add(trees.add(state.iterate, moved, alpha), moved_half, omega)
        residual = trees.add(half, image_half, -omega)
        squared = trees.dot(residual, residual)
        better = squared < state.best_squared
        return _Stabilized(
            step=state.step + 1,
            iterate=iterate,
            residual=residual,
            shadow=shadow,
            direction=direction,
            image=image,
            turn=over(alpha, omega * rho),
            omega=omega,
            squared=squared,
            best=trees.select(better, iterate, state.best),
            best_squared=jnp.where(better, squared, state.best_squared),
        )

    first = _Stabilized(
        jnp.array(0), iterate, residual, residual, nothing, nothing, none, none, squared, iterate, squared
    )
    return lax.while_loop(lambda state: (state.step < steps) & (state.squared > limit), advance, first)
