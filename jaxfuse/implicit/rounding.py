"""The rounding of y to the type in which it was passed: a minimum rounded to bfloat16 is none to more digits.

The gradient there is that of the rounding, H d with d unknown but bounded entry by entry, and no reason to doubt the
minimum. Only y of fewer digits than float32 are looked at; all others have those of the solve.
"""

from __future__ import annotations

from typing import Any

import jax
import jax.numpy as jnp
from jax import Array, lax

from jaxfuse.implicit import trees
from jaxfuse.implicit.certificate import Place
from jaxfuse.implicit.trees import Product, Vector

_DRAWS = 4  # patterns of signs: with as many entries or fewer, they see all of the matrix


def place_of(tree: Any, y: Vector, inner: Vector, product: Product, tolerance: Any) -> Place:
    """The point (y, d lower/dy), y being the vector of `tree` as it was passed; `product` is with d inner / dy."""
    return Place(y, inner, tolerance, coarseness(tree), blur(tree, y, product))


def coarseness(tree: Any) -> float:
    """The largest eps of the types of the variables."""
    return max((_eps(leaf) for leaf in trees.variables(tree)), default=0.0)


def blur(tree: Any, y: Vector, product: Product) -> Array | None:
    """The length of `inner` that the rounding of y explains, with a margin; None where y is float32 or finer.

    |H D| in the norm of Frobenius, D the size of a rounding of each entry, by products with random signs; twice that,
    when roundings are half as large at most.
    """
    if coarseness(tree) <= float(jnp.finfo(jnp.float32).eps):
        return None
    sizes = [_eps(leaf) for leaf in trees.variables(tree)]
    reach = [size * jnp.abs(leaf) for size, leaf in zip(sizes, lax.stop_gradient(y), strict=True)]
    drawn = [_signs(jax.random.key(place), leaf) for place, leaf in enumerate(reach)]

    def moved(signs: Vector) -> Array:
        return trees.norm(product([sign * leaf for sign, leaf in zip(signs, reach, strict=True)]))

    return lax.stop_gradient(2 * jnp.sqrt(jnp.mean(jax.vmap(moved)(drawn) ** 2)))


def _eps(leaf: Any) -> float:
    return float(jnp.finfo(jnp.result_type(leaf)).eps)


def _signs(key: Array, leaf: Array) -> Array:
    """(_DRAWS, *shape): rows of Hadamard's matrix over each few neighbors, whose common sign is random."""
    index = jnp.arange(max(leaf.size, 1))
    rows = jnp.array([[1, 1, 1, 1], [1, -1, 1, -1], [1, 1, -1, -1], [1, -1, -1, 1]], leaf.dtype)[:, index % _DRAWS]
    signs = rows * jax.random.rademacher(key, (len(index),), leaf.dtype)[None, index // _DRAWS]
    return signs[:, : leaf.size].reshape((_DRAWS, *leaf.shape))
