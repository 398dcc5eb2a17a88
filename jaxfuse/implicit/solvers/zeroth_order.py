"""PZOBO: the response of y to x from differences along random directions; no second derivative."""

from __future__ import annotations

import dataclasses
from typing import Any, ClassVar

import jax
import jax.numpy as jnp
import optax
from jax import Array

from jaxfuse.implicit import trees
from jaxfuse.implicit.info import Info
from jaxfuse.implicit.solvers.adjoints import descend_lower
from jaxfuse.implicit.solvers.batches import Draws
from jaxfuse.implicit.solvers.evidence import Reading
from jaxfuse.implicit.solvers.oracles import Oracles, combine, inner_product
from jaxfuse.implicit.solvers.stochastic import State, StochasticSolver, at_least, descend


@dataclasses.dataclass(frozen=True)
class pzobo(StochasticSolver):
    """PZOBO: N steps in y at x and at Q points x + mu u near it, all from one start (Algorithms 1 and 2).

    Sow, Ji and Liang 2022, On the convergence theory for Hessian-free bilevel algorithms (NeurIPS). With y_N(x) the end
    of the steps and u standard normal, the estimate is

        upper_x + mean over u of <(y_N(x + mu u) - y_N(x)) / mu, upper_y> u.

    All runs see the same batches. Batches of lower: one for each of N steps. One batch of upper gives both slopes.

    Args:
        inner, outer: optax transformations of the steps in y and in x (`optax.sgd` of alpha and beta).
        smoothing: mu.
        directions: Q, the points beside x, run side by side.
        inner_steps: N.

    Example:
        >>> import optax
        >>> from jaxfuse.implicit import solvers
        >>> rate = optax.sgd(0.1)
        >>> solver = solvers.pzobo(inner=rate, outer=rate, directions=4, inner_steps=2)
        >>> solver.upper_draws, solver.lower_draws  # all 5 runs see the same 2 batches
        (1, 2)
    """

    has_adjoint: ClassVar[bool] = False
    needs_key: ClassVar[bool] = True
    inner: optax.GradientTransformation
    outer: optax.GradientTransformation
    smoothing: float | Array = 0.1
    directions: int = 1
    inner_steps: int = 10

    def __post_init__(self) -> None:
        at_least("pzobo", directions=self.directions, inner_steps=self.inner_steps)

    @property
    def lower_draws(self) -> int:
        return self.inner_steps

    def step(self, oracles: Oracles, state: State, upper: Draws, lower: Draws, evidence: bool) -> tuple[State, Info]:
        start = (state.y, state.optimizers["y"])

        def run(x: Any) -> tuple[Any, Any]:
            return descend_lower(oracles, self.inner, x, start, lower, self.inner_steps)

        y, y_state = run(state.x)
        ups = oracles.upper_slopes(state.x, y, upper.one(0))

        def response(key: Array) -> tuple[Any, Array]:
            """A direction and <change of y along it, upper_y>."""
            direction = random_like(key, state.x)
            aside, _ = run(combine(state.x, direction, self.smoothing))
            return direction, inner_product(combine(aside, y, -1), ups.y) / self.smoothing

        keys = jax.random.split(jax.random.fold_in(state.key, state.step), self.directions)
        drawn, slopes = jax.vmap(response)(keys)
        indirect = jax.tree.map(lambda leaf: weigh(slopes, leaf) / self.directions, drawn)
        gradient = combine(ups.x, indirect)
        x, x_state = descend(self.outer, gradient, state.optimizers["x"], state.x)
        value, _, slope = oracles.lower_slopes(state.x, y, lower.one(self.inner_steps - 1))
        after = dataclasses.replace(state, x=x, y=y, optimizers={"x": x_state, "y": y_state})
        reading = Reading(ups.value, value, y, slope, y, state.y, None, self.inner_steps, 0)
        return after, reading.info("pzobo", gradient, evidence)


def random_like(key: Array, tree: Any) -> Any:
    """Standard normal entries in the shapes and types of a pytree."""
    leaves, treedef = jax.tree.flatten(tree)
    return jax.tree.unflatten(treedef, trees.random_like(key, leaves))


def weigh(weights: Array, leaf: Array) -> Array:
    """Sums weights (n,) times rows of a leaf (n, ...)."""
    return jnp.tensordot(weights.astype(leaf.dtype), leaf, axes=1)
