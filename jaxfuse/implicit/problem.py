"""A bi-level problem at one point as estimators see it, in vectors of floating leaves, and linear systems."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
from jax import Array

from jaxfuse.implicit import trees
from jaxfuse.implicit.trees import Product, Vector

Objective = Callable[[Vector, Vector], tuple[Array, Any]]


@dataclasses.dataclass(frozen=True)
class Problem:
    """min_x upper(x, y*(x)), y*(x) = argmin_y lower(x, y), at a point (x, y) with y near y*(x).

    Attributes:
        upper, lower: (x, y) -> (value, aux) on vectors.
        x, y: floating leaves, at least float32.
        of_trees: lifts a user's function of (x, y) to vectors.
        inner_value, inner_gradient: lower and d lower / dy at (x, y).
        hessian: v -> (d^2 lower / dy^2) v at (x, y), linearized once.
        aux: what `lower` returned beside its value.
        read_y: reads a pytree in the structure of y (a start, a preconditioner's basis) as a vector.
        y_tree: y as it was passed.
    """

    upper: Objective
    lower: Objective
    x: Vector
    y: Vector
    of_trees: Callable[[Callable[..., Any]], Callable[[Vector, Vector], Any]]
    inner_value: Array
    inner_gradient: Vector
    hessian: Product
    aux: Any
    y_tree: Any

    def read_y(self, tree: Any, name: str) -> Vector:
        return trees.read(tree, self.y, name)

    def tree_y(self, vector: Vector) -> Any:
        return trees.with_none(self.y_tree, vector)


@dataclasses.dataclass(frozen=True)
class LinearSystem:
    """A q = target, A known by its products.

    Attributes:
        product: (v, step) -> A v; the step matters only where every product draws a fresh batch.
        target: the right-hand side.
        symmetric: whether A equals its transpose.
        definite: whether A is meant to be positive definite (a minimum): a solver may rely on it and must report where
            it is not so.
        fresh: whether products at different steps are of different batches.
        read: reads a pytree in the structure of the unknown as a vector.
        tree: puts a vector into the structure of the unknown, None where a leaf is no variable.
        claimed: whether the caller answers for the symmetry, so that nothing but a choice of solver may rely on it.
        unit: what the target was divided by before it came to a solver.
    """

    product: Callable[[Vector, Array], Vector]
    target: Vector
    symmetric: bool
    definite: bool
    fresh: bool
    read: Callable[[Any, str], Vector]
    tree: Callable[[Vector], Any]
    claimed: bool = False
    unit: Array | None = None

    def start(self, tree: Any) -> Vector:
        """A first solution in the structure of the unknown, as a vector in the units of the target."""
        start = self.read(tree, "start")
        return start if self.unit is None else trees.divide(start, self.unit)

    def transposed(self, vector: Vector) -> Vector:
        """A' v."""
        return jax.linear_transpose(self.apply, vector)(vector)[0]

    def apply(self, vector: Vector) -> Vector:
        """A v, for solvers that have no step to name."""
        return self.product(vector, jnp.array(0))


def objective(function: Callable[..., Any], name: str) -> Callable[..., tuple[Array, Any]]:
    """`function` with a scalar value of at least float32 and its auxiliary output, None where it has none."""

    def valued(x: Any, y: Any) -> tuple[Array, Any]:
        out: Any = function(x, y)
        value: Any
        value, aux = out if isinstance(out, tuple) and len(out) == 2 else (out, None)
        if jnp.shape(value) != () or not trees.is_float(value):
            came = jax.tree.map(lambda leaf: f"{jnp.result_type(leaf)}{list(jnp.shape(leaf))}", value)
            raise TypeError(f"{name}(x, y) returned {came}; a real scalar, or (scalar, auxiliary), was expected")
        return trees.promote(jnp.asarray(value)), aux

    return valued


def pose(upper: Callable[..., Any], lower: Callable[..., Any], x: Any, y: Any) -> Problem:
    """Splits the variables from the constants in x and y, and linearizes the lower gradient at y."""
    x_vector, x_merge = trees.split(x, "x")
    y_vector, y_merge = trees.split(y, "y")

    def of_trees(function: Callable[..., Any]) -> Callable[[Vector, Vector], Any]:
        return lambda a, b: function(x_merge(a), y_merge(b))

    lower_of_vectors = of_trees(objective(lower, "lower"))

    def slope(vector: Vector) -> tuple[Vector, tuple[Array, Any]]:
        (value, aux), gradient = jax.value_and_grad(lower_of_vectors, argnums=1, has_aux=True)(x_vector, vector)
        return gradient, (value, aux)

    inner_gradient, hessian, (value, aux) = jax.linearize(slope, y_vector, has_aux=True)
    return Problem(
        upper=of_trees(objective(upper, "upper")),
        lower=lower_of_vectors,
        x=x_vector,
        y=y_vector,
        of_trees=of_trees,
        inner_value=value,
        inner_gradient=inner_gradient,
        hessian=hessian,
        aux=aux,
        y_tree=y,
    )
