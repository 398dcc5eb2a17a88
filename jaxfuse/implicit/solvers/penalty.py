"""F2SA and BOME: first-order solvers, the lower function being a penalty on the upper one: no second derivative."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable
from typing import Any, ClassVar

import jax
import jax.numpy as jnp
import optax
from jax import Array, lax

from jaxfuse.implicit.info import Info
from jaxfuse.implicit.solvers.adjoints import descend_lower
from jaxfuse.implicit.solvers.batches import Draws
from jaxfuse.implicit.solvers.evidence import Reading
from jaxfuse.implicit.solvers.oracles import Oracles, combine, inner_product
from jaxfuse.implicit.solvers.stochastic import State, StochasticSolver, at_least, descend


@dataclasses.dataclass(frozen=True)
class f2sa(StochasticSolver):
    """F2SA: x follows upper(x, w) + p (lower(x, w) - lower(x, y)), y near the minimum of lower, w of both.

    Kwon, Kwon, Wright and Nowak 2023, A fully first-order method for stochastic bilevel optimization (ICML), Algorithm
    1; their y is w here, their z is y. w steps along upper_y / p + lower_y by a transformation like `inner`: alpha_k of
    the paper is then the rate of `inner` over p. For each of T steps in y and w, batches of lower are one for y and one
    for w, and one of upper for w; then two of lower (for w, for y) and one of upper for x.

    Args:
        inner, outer: optax transformations of the steps in y and w, and in x (`optax.sgd` of gamma_k and xi alpha_k).
        penalty: p (lambda_k), a number, or a function of the steps done that grows.
        inner_steps: T.

    Example:
        >>> import optax
        >>> from jaxfuse.implicit import solvers
        >>> rate = optax.sgd(0.1)
        >>> solver = solvers.f2sa(inner=rate, outer=rate, penalty=2.0, inner_steps=2)
        >>> solver.upper_draws, solver.lower_draws  # 1 and 2 for each of 2 steps, then 1 and 2
        (3, 6)
    """

    has_adjoint: ClassVar[bool] = False
    inner: optax.GradientTransformation
    outer: optax.GradientTransformation
    penalty: float | Array | Callable[[Array], Any]
    inner_steps: int = 10

    def __post_init__(self) -> None:
        at_least("f2sa", inner_steps=self.inner_steps)

    @property
    def upper_draws(self) -> int:
        return self.inner_steps + 1

    @property
    def lower_draws(self) -> int:
        return 2 * self.inner_steps + 2

    def optimizers(self, x: Any, y: Any) -> dict[str, Any]:
        return super().optimizers(x, y) | {"w": self.inner.init(y)}

    def remembered(self, x: Any, y: Any) -> dict[str, Any]:
        return {"w": y}

    def step(self, oracles: Oracles, state: State, upper: Draws, lower: Draws, evidence: bool) -> tuple[State, Info]:
        penalty, x, steps = self._penalty(state.step), state.x, self.inner_steps

        def move(carry: Any, batches: Any) -> tuple[Any, None]:
            (y, y_state), (w, w_state) = carry
            above, pair = batches
            one, other = (jax.tree.map(lambda leaf, n=number: leaf[n], pair) for number in (0, 1))
            pull = combine(oracles.lower_slope(x, w, other), oracles.upper_slopes(x, w, above).y, 1 / penalty)
            moved = descend(self.inner, oracles.lower_slope(x, y, one), y_state, y)
            return (moved, descend(self.inner, pull, w_state, w)), None

        pairs = jax.tree.map(lambda leaf: jnp.reshape(leaf[: 2 * steps], (steps, 2, *leaf.shape[1:])), lower.data)
        first = ((state.y, state.optimizers["y"]), (state.memory["w"], state.optimizers["w"]))
        batches = (upper.part(0, steps).data, pairs)
        ((y, y_state), (w, w_state)), _ = lax.scan(move, first, batches, length=steps)
        ups = oracles.upper_slopes(x, w, upper.one(steps))
        value, at_y, slope = oracles.lower_slopes(x, y, lower.one(2 * steps + 1))
        apart = combine(oracles.lower_slopes(x, w, lower.one(2 * steps))[1], at_y, -1)
        gradient = combine(ups.x, apart, penalty)
        x, x_state = descend(self.outer, gradient, state.optimizers["x"], x)
        optimizers = {"x": x_state, "y": y_state, "w": w_state}
        after = dataclasses.replace(state, x=x, y=y, optimizers=optimizers, memory={"w": w})
        reading = Reading(ups.value, value, y, slope, y, state.y, None, steps, 0)
        return after, reading.info("f2sa", gradient, evidence)

    def _penalty(self, step: Array) -> Array:
        return jnp.asarray(self.penalty(step) if callable(self.penalty) else self.penalty, float)


@dataclasses.dataclass(frozen=True)
class bome(StochasticSolver):
    """BOME: x and y step together along the upper gradient, bent so that lower(x, y) - min lower falls (Algorithm 1).

    Ye, Liu, Wright, Stone and Liu 2022, BOME! Bilevel optimization made easy: a simple first-order approach (NeurIPS).
    With t the end of T steps on lower from y, q(x, y) = lower(x, y) - lower(x, t), t held fixed, and f = upper:

        d = grad f + c grad q,    c = max(eta |grad q|^2 - <grad f, grad q>, 0) / |grad q|^2.

    The paper is written for whole gradients; here each is of a batch. Batches of lower: one for each of T steps, one
    for both values of q.

    Args:
        inner, outer: optax transformations of the steps in y and in x (`optax.sgd` of one rate xi in the paper).
        eta: how fast q has to fall.
        search: that of the T steps, begun afresh each time (`optax.sgd` of alpha); like `inner` if None.
        inner_steps: T.

    Example:
        >>> import optax
        >>> from jaxfuse.implicit import solvers
        >>> rate = optax.sgd(0.1)
        >>> solver = solvers.bome(inner=rate, outer=rate, inner_steps=2)
        >>> solver.upper_draws, solver.lower_draws  # 2 steps, then the gap
        (1, 3)
    """

    has_adjoint: ClassVar[bool] = False
    inner: optax.GradientTransformation
    outer: optax.GradientTransformation
    eta: float | Array = 0.5
    search: optax.GradientTransformation | None = None
    inner_steps: int = 10

    def __post_init__(self) -> None:
        at_least("bome", inner_steps=self.inner_steps)

    @property
    def lower_draws(self) -> int:
        return self.inner_steps + 1

    def step(self, oracles: Oracles, state: State, upper: Draws, lower: Draws, evidence: bool) -> tuple[State, Info]:
        x, y, steps = state.x, state.y, self.inner_steps
        search = self.search or self.inner
        end, _ = descend_lower(oracles, search, x, (y, search.init(y)), lower.part(0, steps), steps)
        ups = oracles.upper_slopes(x, y, upper.one(0))
        value, at_y, slope = oracles.lower_slopes(x, y, lower.one(steps))
        gap = (combine(at_y, oracles.lower_slopes(x, end, lower.one(steps))[1], -1), slope)
        objective = (ups.x, ups.y)
        squared = inner_product(gap, gap)
        missing = jnp.maximum(self.eta * squared - inner_product(objective, gap), 0)
        weight = jnp.where(squared > 0, missing / jnp.where(squared > 0, squared, 1), 0)
        of_x, of_y = combine(objective, gap, weight)
        x, x_state = descend(self.outer, of_x, state.optimizers["x"], x)
        y, y_state = descend(self.inner, of_y, state.optimizers["y"], y)
        after = dataclasses.replace(state, x=x, y=y, optimizers={"x": x_state, "y": y_state})
        reading = Reading(ups.value, value, state.y, slope, y, state.y, None, steps, 0)
        return after, reading.info("bome", of_x, evidence)
