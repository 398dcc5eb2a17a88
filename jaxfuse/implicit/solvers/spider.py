"""VRBO and SRBA: a pass over all batches now and then, and between them directions that follow the changes.

The estimate is that of SPIDER and SARAH (Fang and others 2018, Nguyen and others 2017): d <- d + new - old, with new
and old of one batch.
"""

from __future__ import annotations

import dataclasses
from typing import Any, ClassVar

import jax
import jax.numpy as jnp
import optax
from jax import Array, lax

from jaxfuse.implicit.info import Info
from jaxfuse.implicit.solvers.adjoints import sum_neumann, sum_neumann_whole
from jaxfuse.implicit.solvers.batches import Draws, batches_of
from jaxfuse.implicit.solvers.momentum import Estimate, estimate, estimate_info, recurse
from jaxfuse.implicit.solvers.oracles import LowerProducts, Oracles, UpperSlopes, combine, zeros
from jaxfuse.implicit.solvers.soba import Directions, directions_of, joint_info, step_jointly
from jaxfuse.implicit.solvers.stochastic import State, StochasticSolver, at_least, descend

Point = tuple[Any, ...]


@dataclasses.dataclass(frozen=True)
class srba(StochasticSolver):
    """SRBA: SOBA with the directions of SARAH, taken anew over all batches every `period` steps (Algorithm 1).

    Dagréou, Moreau, Vaiter and Ablin 2024, A lower bound and a near-optimal algorithm for bilevel empirical risk
    minimization (AISTATS). The paper projects the adjoint on a ball; that is left out, as in its experiments.

    Args:
        inner, outer, system: as in `soba`.
        period: steps from one pass over all batches to the next, the one with the pass included (q in the paper).

    Example:
        >>> import optax
        >>> from jaxfuse.implicit import solvers
        >>> rate = optax.sgd(0.1)
        >>> solver = solvers.srba(inner=rate, outer=rate, period=10)
        >>> solver.upper_draws, solver.lower_draws  # and all of them every 10 steps
        (1, 1)
    """

    needs_whole: ClassVar[bool] = True
    inner: optax.GradientTransformation
    outer: optax.GradientTransformation
    period: int
    system: optax.GradientTransformation | None = None

    def __post_init__(self) -> None:
        at_least("srba", period=self.period)

    def optimizers(self, x: Any, y: Any) -> dict[str, Any]:
        return super().optimizers(x, y) | {"q": (self.system or self.inner).init(y)}

    def remembered(self, x: Any, y: Any) -> dict[str, Any]:
        return {"directions": Directions(zeros(y), zeros(y), zeros(x)), "point": (x, y, zeros(y))}

    def step(self, oracles: Oracles, state: State, upper: Draws, lower: Draws, evidence: bool) -> tuple[State, Info]:
        here = (state.x, state.y, state.q)

        def parts(point: Point, above: Any, below: Any) -> tuple[UpperSlopes, LowerProducts]:
            x, y, q = point
            return oracles.upper_slopes(x, y, above), oracles.lower_products(x, y, q, below)

        def anew() -> tuple[Directions, Any]:
            found = (
                oracles.over(lambda batch: oracles.upper_slopes(state.x, state.y, batch), upper),
                oracles.over(lambda batch: oracles.lower_products(*here, batch), lower),
            )
            return directions_of(*found), found

        def along() -> tuple[Directions, Any]:
            new, old = (parts(point, upper.one(0), lower.one(0)) for point in (here, state.memory["point"]))
            return recurse(state.memory["directions"], directions_of(*new), directions_of(*old)), new

        directions, found = lax.cond(state.step % self.period == 0, anew, along)
        memory = {"directions": directions, "point": here}
        after = dataclasses.replace(step_jointly(self, state, directions), memory=memory)
        products = jnp.where(state.step % self.period == 0, batches_of(lower.whole, "lower"), 2)
        return after, joint_info("srba", state, after, found, directions.x, evidence, products)


@dataclasses.dataclass(frozen=True)
class vrbo(StochasticSolver):
    """VRBO: a step in x, then steps in y that carry both directions along by SPIDER (Algorithm 2).

    Yang, Ji and Liang 2021, Provably faster algorithms for bilevel optimization (NeurIPS). Both directions are taken
    anew over all batches every `period` steps in x, where the paper takes one large batch. For each step in y, batches
    of lower are taken in this order: one for its direction, those of the series, one for the cross product; and one of
    upper.

    Args:
        inner, outer: optax transformations of the steps in y and in x (`optax.sgd` of beta and alpha).
        learning_rate: eta of the series, below 2 / L, L the largest eigenvalue of lower_yy.
        period: steps in x from one pass over all batches to the next (q in the paper).
        inner_steps: steps in y for each step in x (m + 1 in the paper).
        terms: Q, the products of the series, which has one term more.

    Example:
        >>> import optax
        >>> from jaxfuse.implicit import solvers
        >>> rate = optax.sgd(0.1)
        >>> solver = solvers.vrbo(inner=rate, outer=rate, learning_rate=0.1, period=10, inner_steps=2, terms=3)
        >>> solver.upper_draws, solver.lower_draws  # each of 2 steps in y takes 1 and 1 + 3 + 1
        (2, 10)
    """

    needs_whole: ClassVar[bool] = True
    inner: optax.GradientTransformation
    outer: optax.GradientTransformation
    learning_rate: float | Array
    period: int
    inner_steps: int = 10
    terms: int = 10

    def __post_init__(self) -> None:
        at_least("vrbo", period=self.period, inner_steps=self.inner_steps, terms=self.terms)

    @property
    def upper_draws(self) -> int:
        return self.inner_steps

    @property
    def lower_draws(self) -> int:
        return self.inner_steps * (self.terms + 2)

    def remembered(self, x: Any, y: Any) -> dict[str, Any]:
        return {"of_x": zeros(x), "of_y": zeros(y)}

    def step(self, oracles: Oracles, state: State, upper: Draws, lower: Draws, evidence: bool) -> tuple[State, Info]:
        memory, here = state.memory, (state.x, state.y)
        of_x, of_y = lax.cond(
            state.step % self.period == 0,
            lambda: self._anew(oracles, here, upper, lower),
            lambda: (memory["of_x"], memory["of_y"]),
        )
        x, x_state = descend(self.outer, of_x, state.optimizers["x"], state.x)

        def move(carry: Any, batches: Any) -> tuple[Any, None]:
            point, before, of_x, of_y, y_state, _ = carry
            above, below = batches
            new, old = (self._estimate(oracles, at, above, below) for at in (point, before))
            first = jax.tree.map(lambda leaf: leaf[0], below)
            slope, slope_old = (oracles.lower_slope(at[0], at[1], first) for at in (point, before))
            of_x, of_y = recurse(of_x, new.gradient, old.gradient), recurse(of_y, slope, slope_old)
            y, y_state = descend(self.inner, of_y, y_state, point[1])
            return ((x, y), point, of_x, of_y, y_state, new), None

        groups = jax.tree.map(
            lambda leaf: jnp.reshape(leaf, (self.inner_steps, self.terms + 2, *leaf.shape[1:])), lower.data
        )
        pattern = jax.eval_shape(
            lambda: self._estimate(oracles, here, upper.one(0), jax.tree.map(lambda leaf: leaf[0], groups))
        )
        nothing = jax.tree.map(lambda leaf: jnp.zeros(leaf.shape, leaf.dtype), pattern)
        first = ((x, state.y), here, of_x, of_y, state.optimizers["y"], nothing)
        last, _ = lax.scan(move, first, (upper.data, groups), length=self.inner_steps)
        point, before, of_x, of_y, y_state, found = last
        after = dataclasses.replace(
            state,
            x=x,
            y=point[1],
            q=found.q,
            optimizers={"x": x_state, "y": y_state},
            memory={"of_x": of_x, "of_y": of_y},
        )
        whole = jnp.where(state.step % self.period == 0, self.terms * batches_of(lower.whole, "lower"), 0)
        counts = (self.inner_steps, 2 * self.inner_steps * self.terms + whole)
        return after, estimate_info("vrbo", found, (before[1], point[1]), counts, of_x, evidence)

    def _estimate(self, oracles: Oracles, point: Point, above: Any, below: Any) -> Estimate:
        draws = Draws(below).part(1, self.terms)
        last = jax.tree.map(lambda leaf: leaf[self.terms + 1], below)

        def adjoint(point: Any, target: Any) -> Any:
            return sum_neumann(oracles, point, target, self.learning_rate, draws, self.terms)

        return estimate(oracles, (point[0], point[1]), above, last, adjoint)

    def _anew(self, oracles: Oracles, here: Point, upper: Draws, lower: Draws) -> tuple[Any, Any]:
        """The directions of x and y over all batches."""
        ups = oracles.over(lambda batch: oracles.upper_slopes(here[0], here[1], batch), upper)
        q = sum_neumann_whole(oracles, (here[0], here[1]), ups.y, self.learning_rate, lower, self.terms)
        downs = oracles.over(lambda batch: oracles.lower_products(here[0], here[1], q, batch), lower)
        return combine(ups.x, downs.cross, -1), downs.slope
