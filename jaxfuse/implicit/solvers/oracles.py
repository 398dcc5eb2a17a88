"""Minibatch oracles: two functions of (x, y, batch), with the derivatives and products that solvers ask of them."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
from jax import Array, lax

from jaxfuse.implicit import trees
from jaxfuse.implicit.problem import objective
from jaxfuse.implicit.solvers.batches import Draws, batches_of

Function = Callable[[Any, Any, Any], Any]


class UpperSlopes(NamedTuple):
    """The upper function on a batch: its value, d upper / dx and d upper / dy."""

    value: Array
    x: Any
    y: Any


class LowerProducts(NamedTuple):
    """The lower function on a batch: its value, d lower / dy, and the products of its derivatives with a vector q.

    Attributes:
        image: (d^2 lower / dy^2) q.
        cross: (d^2 lower / dx dy) q, in the structure of x.
    """

    value: Array
    slope: Any
    image: Any
    cross: Any


@dataclasses.dataclass(frozen=True)
class Oracles:
    """Two functions of (x, y, batch), each a mean over the samples of the batch."""

    upper: Function
    lower: Function

    def value(self, name: str, x: Any, y: Any, batch: Any) -> Array:
        """Evaluates the upper or the lower function.

        Raises:
            TypeError: it returns no real scalar, or more than one.
        """
        function = getattr(self, name)
        value, aux = objective(lambda x, y: function(x, y, batch), name)(x, y)
        if aux is not None:
            raise TypeError(
                f"{name}(x, y, batch) returned an auxiliary; solvers take a real scalar alone: leave it out"
            )
        return value

    def upper_slopes(self, x: Any, y: Any, batch: Any) -> UpperSlopes:
        value, (slope_x, slope_y) = jax.value_and_grad(lambda x, y: self.value("upper", x, y, batch), (0, 1))(x, y)
        return UpperSlopes(value, slope_x, slope_y)

    def lower_slope(self, x: Any, y: Any, batch: Any) -> Any:
        return jax.grad(lambda y: self.value("lower", x, y, batch))(y)

    def lower_slopes(self, x: Any, y: Any, batch: Any) -> tuple[Array, Any, Any]:
        """lower, d lower / dx and d lower / dy."""
        value, (slope_x, slope_y) = jax.value_and_grad(lambda x, y: self.value("lower", x, y, batch), (0, 1))(x, y)
        return value, slope_x, slope_y

    def lower_products(self, x: Any, y: Any, q: Any, batch: Any) -> LowerProducts:
        """All products with q by one reverse pass over the gradient."""

        def slope(x: Any, y: Any) -> tuple[Any, Array]:
            value, found = jax.value_and_grad(lambda y: self.value("lower", x, y, batch))(y)
            return found, value

        found, pull, value = jax.vjp(slope, x, y, has_aux=True)
        cross, image = pull(q)
        return LowerProducts(value, found, image, cross)

    def hessian_product(self, x: Any, y: Any, q: Any, batch: Any) -> Any:
        return jax.jvp(lambda y: self.lower_slope(x, y, batch), (y,), (q,))[1]

    def over(self, quantity: Callable[[Any], Any], draws: Draws) -> Any:
        """The mean over all batches of what `quantity` makes of one; one batch at a time is in memory."""
        if draws.whole is None:
            return quantity(None)
        count = batches_of(draws.whole, "the whole")
        first = jax.eval_shape(quantity, jax.tree.map(lambda leaf: leaf[0], draws.whole))

        def add(total: Any, batch: Any) -> tuple[Any, None]:
            return combine(total, quantity(batch), 1 / count), None

        nothing = jax.tree.map(lambda leaf: jnp.zeros(leaf.shape, leaf.dtype), first)
        return lax.scan(add, nothing, draws.whole)[0]


def combine(left: Any, right: Any, scale: Any = 1.0) -> Any:
    """left + scale * right, pytrees of one structure, in the types of `left`."""
    return jax.tree.map(lambda a, b: a + jnp.asarray(scale, a.dtype) * b.astype(a.dtype), left, right)


def multiply(tree: Any, factor: Any) -> Any:
    """factor * tree, in the types of the tree."""
    return jax.tree.map(lambda leaf: jnp.asarray(factor, leaf.dtype) * leaf, tree)


def zeros(tree: Any) -> Any:
    return jax.tree.map(jnp.zeros_like, tree)


def inner_product(left: Any, right: Any) -> Array:
    """Sum of products over all leaves, all devices included."""
    return trees.dot(jax.tree.leaves(left), jax.tree.leaves(right))
