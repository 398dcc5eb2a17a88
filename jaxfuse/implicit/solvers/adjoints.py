"""Ways of stochastic solvers to the adjoint q of H q = b, H = lower_yy: each product with H has a batch of its own."""

from __future__ import annotations

from typing import Any

import jax
import jax.numpy as jnp
import optax
from jax import Array, lax

from jaxfuse.implicit.solvers.batches import Draws
from jaxfuse.implicit.solvers.oracles import Oracles, combine, multiply
from jaxfuse.implicit.solvers.stochastic import descend


def descend_lower(
    oracles: Oracles, transformation: optax.GradientTransformation, x: Any, start: tuple[Any, Any], draws: Draws, n: int
) -> tuple[Any, Any]:
    """Steps y along n gradients of the lower function; `start` and the result are (y, the transformation's state)."""

    def move(carry: tuple[Any, Any], batch: Any) -> tuple[tuple[Any, Any], None]:
        y, memory = carry
        return descend(transformation, oracles.lower_slope(x, y, batch), memory, y), None

    return lax.scan(move, start, draws.data, length=n)[0]


def descend_system(
    oracles: Oracles,
    transformation: optax.GradientTransformation,
    point: tuple[Any, Any],
    target: Any,
    start: tuple[Any, Any],
    draws: Draws,
    n: int,
) -> tuple[Any, Any]:
    """Steps q along n stochastic gradients H q - b of q'Hq/2 - b'q at the point (x, y)."""

    def move(carry: tuple[Any, Any], batch: Any) -> tuple[tuple[Any, Any], None]:
        q, memory = carry
        remainder = combine(oracles.hessian_product(*point, q, batch), target, -1)
        return descend(transformation, remainder, memory, q), None

    return lax.scan(move, start, draws.data, length=n)[0]


def sum_neumann(
    oracles: Oracles, point: tuple[Any, Any], target: Any, learning_rate: Any, draws: Draws, terms: int
) -> Any:
    """Sums a r_i for i <= Q, r_0 = b, r_i = (I - a H_i) r_{i-1}: Q products (Ji, Yang and Liang 2021, Algorithm 3)."""

    def add_term(carry: tuple[Any, Any], batch: Any) -> tuple[tuple[Any, Any], None]:
        term, total = carry
        term = combine(term, oracles.hessian_product(*point, term, batch), -learning_rate)
        return (term, combine(total, term)), None

    return multiply(lax.scan(add_term, (target, target), draws.data, length=terms)[0][1], learning_rate)


def sum_neumann_whole(
    oracles: Oracles, point: tuple[Any, Any], target: Any, learning_rate: Any, draws: Draws, terms: int
) -> Any:
    """The series of `sum_neumann` with products over all batches."""

    def add_term(carry: tuple[Any, Any], _: None) -> tuple[tuple[Any, Any], None]:
        term, total = carry
        image = oracles.over(lambda batch: oracles.hessian_product(*point, term, batch), draws)
        term = combine(term, image, -learning_rate)
        return (term, combine(total, term)), None

    return multiply(lax.scan(add_term, (target, target), None, length=terms)[0][1], learning_rate)


def draw_product(
    oracles: Oracles, point: tuple[Any, Any], target: Any, learning_rate: Any, draws: Draws, terms: int, key: Array
) -> Any:
    """Draws K a prod_{i <= p} (I - a H_i) b, p uniform in 0 .. K - 1 (Ghadimi and Wang 2018, Algorithm 3).

    Its mean over p is the series of K terms. K - 1 batches come, of which p are used.
    """
    count = jax.random.randint(key, (), 0, terms)

    def multiply_once(place: Array, term: Any) -> Any:
        batch = jax.tree.map(lambda leaf: leaf[place], draws.data)
        return combine(term, oracles.hessian_product(*point, term, batch), -learning_rate)

    # With one term there is no product and no batch to index.
    term = target if terms == 1 else lax.fori_loop(jnp.zeros_like(count), count, multiply_once, target)
    scale = jnp.asarray(learning_rate)
    return multiply(term, terms * scale)
