"""Conjugate gradients and MINRES on vectors made of many arrays, with what a certificate needs.

Own loops, because no library has these together: inner products that are plain reductions (so that parameters may be
sharded), the curvature met on the way, a stop at negative curvature, warm starts, and float32 at
any size. `lax.while_loop` keeps memory constant in the number of steps.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, NamedTuple

import jax.numpy as jnp
from jax import Array, lax

from jaxfuse.implicit import trees
from jaxfuse.implicit.trees import Product, Vector

Numbered = Callable[[Vector, Array], Vector]  # a product that knows which step it serves


class Solved(NamedTuple):
    """The end of a solve: the iterate, and scalars about the way there.

    `least_curvature` is infinite where no curvature was met, NaN where one was.
    """

    adjoint: Vector
    steps: Array
    products: Array
    least_curvature: Array
    best_iterate: Array


class _CG(NamedTuple):
    step: Array
    iterate: Vector
    residual: Vector
    direction: Vector
    scalars: Array  # one array, so that a step computes all of them at once: see _Scalars


class _Scalars(NamedTuple):
    slope: Array  # residual . preconditioned residual
    squared: Array  # |residual|^2
    direction_squared: Array
    least_curvature: Array  # NaN once a curvature was


def conjugate_gradients(
    product: Numbered,
    target: Vector,
    *,
    start: Vector | None,
    preconditioner: Product | None,
    tolerance: Any,
    steps: int,
) -> Solved:
    """Solves A q = target for a symmetric positive definite A by preconditioned conjugate gradients.

    Args:
        product: (v, step) -> A v.
        start: first iterate; zero if None, which spares one product.
        preconditioner: v -> M v with M positive definite, near the inverse of A.
        tolerance: stops when |A q - target| <= tolerance * |target|, by the recursive residual.
        steps: stops after as many steps; one product each.

    Stops before a step along a direction of curvature <= 0 (its value is in `least_curvature`), or not finite. Every
    step before lowers the error in the norm of A, even where the residual grows, so the iterate reached is the best.
    Hestenes and Stiefel 1952, theorems 4:3 and 6:3.
    """
    precondition = preconditioner or (lambda v: v)
    plain = preconditioner is None
    iterate, residual = _begin(product, target, start)
    first = _first_cg(iterate, residual, precondition, plain=plain)
    squared = _Scalars(*first.scalars).squared
    limit = jnp.asarray(tolerance, squared.dtype) ** 2 * trees.dot(target, target)

    def unfinished(state: _CG) -> Array:
        now = _Scalars(*state.scalars)
        return (state.step < steps) & (now.squared > limit) & (now.least_curvature > 0)

    last = lax.while_loop(unfinished, lambda state: _advance_cg(state, product, precondition, plain=plain), first)
    end = _Scalars(*last.scalars)
    return Solved(
        adjoint=last.iterate,
        steps=last.step,
        products=last.step + int(start is not None),
        least_curvature=end.least_curvature,
        best_iterate=~(end.least_curvature > 0),
    )


def _begin(product: Numbered, target: Vector, start: Vector | None) -> tuple[Vector, Vector]:
    """Returns the first iterate and its residual."""
    if start is None:
        return trees.zeros(target), target
    return start, trees.add(target, product(start, jnp.array(0)), -1)


def _first_cg(iterate: Vector, residual: Vector, precondition: Product, *, plain: bool) -> _CG:
    direction = precondition(residual)
    squared = trees.dot(residual, residual)
    slope = squared if plain else trees.dot(residual, direction)
    direction_squared = squared if plain else trees.dot(direction, direction)
    scalars = _Scalars(slope, squared, direction_squared, jnp.full_like(squared, jnp.inf))
    return _CG(jnp.array(0), iterate, residual, direction, jnp.stack(scalars))


def _advance_cg(state: _CG, product: Numbered, precondition: Product, *, plain: bool) -> _CG:
    now = _Scalars(*state.scalars)
    image = product(state.direction, state.step)
    curvature = trees.dot(state.direction, image)
    # Where it is not positive, or NaN, a step of length 0 ends the loop.
    length = jnp.where(curvature > 0, now.slope / curvature, 0)
    iterate = trees.add(state.iterate, state.direction, length)
    residual = trees.add(state.residual, image, -length)
    squared = trees.dot(residual, residual)
    preconditioned = precondition(residual)
    slope = squared if plain else trees.dot(residual, preconditioned)
    turn = slope / now.slope
    direction = trees.add(preconditioned, state.direction, turn)
    # Without preconditioner the new residual is orthogonal to the old direction, so their squares add.
    direction_squared = squared + turn**2 * now.direction_squared if plain else trees.dot(direction, direction)
    least = jnp.minimum(curvature / now.direction_squared, now.least_curvature)
    scalars = _Scalars(slope, squared, direction_squared, least)
    return _CG(state.step + 1, iterate, residual, direction, jnp.stack(scalars))


class _Minres(NamedTuple):
    step: Array
    iterate: Vector
    before: Vector  # Lanczos vectors, not normalized: v_{k-1}, v_k
    current: Vector
    preconditioned: Vector  # M v_k
    beta: Array
    beta_before: Array
    direction: Vector  # w_{k-1} and w_{k-2} of Paige and Saunders
    direction_before: Vector
    cosine: Array
    sine: Array
    delta_bar: Array
    epsilon: Array
    residual_norm: Array
    least_curvature: Array


def minimal_residual(
    product: Numbered,
    target: Vector,
    *,
    start: Vector | None,
    preconditioner: Product | None,
    tolerance: Any,
    steps: int,
) -> Solved:
    """Solves A q = target for a symmetric, possibly indefinite A by MINRES (Paige and Saunders 1975).

    Arguments as in `conjugate_gradients`; with a preconditioner, the residual is measured in its norm. The residual
    never grows, so the last iterate is the best. `least_curvature` is the least Rayleigh quotient of the Lanczos
    vectors.
    """
    precondition = preconditioner or (lambda v: v)
    first = _first_minres(*_begin(product, target, start), precondition)
    scale = first.beta if start is None else trees.root_of_dot(target, precondition(target))
    limit = jnp.asarray(tolerance, scale.dtype) * scale
    tiny = jnp.finfo(scale.dtype).tiny

    def unfinished(state: _Minres) -> Array:
        alive = (state.residual_norm > limit) & (state.beta > tiny)
        return (state.step < steps) & alive & jnp.isfinite(state.residual_norm)

    last = lax.while_loop(unfinished, lambda state: _advance_minres(state, product, precondition), first)
    return Solved(
        adjoint=last.iterate,
        steps=last.step,
        products=last.step + int(start is not None),
        least_curvature=last.least_curvature,
        best_iterate=jnp.array(False),
    )


def _first_minres(iterate: Vector, residual: Vector, precondition: Product) -> _Minres:
    preconditioned = precondition(residual)
    beta = trees.root_of_dot(residual, preconditioned)
    nothing, one, none = trees.zeros(residual), jnp.ones_like(beta), jnp.zeros_like(beta)
    return _Minres(
        step=jnp.array(0),
        iterate=iterate,
        before=nothing,
        current=residual,
        preconditioned=preconditioned,
        beta=beta,
        beta_before=one,
        direction=nothing,
        direction_before=nothing,
        cosine=-one,
        sine=none,
        delta_bar=none,
        epsilon=none,
        residual_norm=beta,
        least_curvature=jnp.full_like(beta, jnp.inf),
    )


def _advance_minres(state: _Minres, product: Numbered, precondition: Product) -> _Minres:
    # Lanczos: A z = beta_{k+1} v_{k+1} + alpha v_k + beta_k v_{k-1}, with z = M v_k.
    unit = trees.scale(state.preconditioned, 1 / state.beta)
    image = product(unit, state.step)
    alpha = trees.dot(unit, image)
    met = alpha / trees.dot(unit, unit)
    following = trees.add(image, state.current, -alpha / state.beta)
    following = trees.add(following, state.before, jnp.where(state.step > 0, -state.beta / state.beta_before, 0))
    preconditioned = precondition(following)
    beta = trees.root_of_dot(following, preconditioned)
    # The last reflection acts on the new column, the next one clears the entry below its diagonal.
    delta = state.cosine * state.delta_bar + state.sine * alpha
    gamma_bar = state.sine * state.delta_bar - state.cosine * alpha
    gamma = jnp.hypot(gamma_bar, beta)
    inverse = jnp.where(gamma > 0, 1 / jnp.where(gamma > 0, gamma, 1), 0)
    cosine, sine = gamma_bar * inverse, beta * inverse
    direction = trees.add(trees.add(unit, state.direction_before, -state.epsilon), state.direction, -delta)
    direction = trees.scale(direction, inverse)
    return _Minres(
        step=state.step + 1,
        iterate=trees.add(state.iterate, direction, cosine * state.residual_norm),
        before=state.current,
        current=following,
        preconditioned=preconditioned,
        beta=beta,
        beta_before=state.beta,
        direction=direction,
        direction_before=state.direction,
        cosine=cosine,
        sine=sine,
        delta_bar=-state.cosine * beta,
        epsilon=state.sine * beta,
        residual_norm=state.residual_norm * sine,
        least_curvature=jnp.where(met < state.least_curvature, met, state.least_curvature),
    )
