"""SOBA and SABA: y, q and x step at once along directions that are sums over samples.

Dagréou, Ablin, Vaiter and Moreau 2022, A framework for bilevel optimization that enables stochastic and global variance
reduction algorithms (NeurIPS), section 2. Their v is -q here, so that signs are those of `hypergradient`:

    D_y = lower_y,    D_q = lower_yy q - upper_y,    D_x = upper_x - lower_xy q.
"""

from __future__ import annotations

import dataclasses
from typing import Any, ClassVar, NamedTuple

import jax
import jax.numpy as jnp
import optax
from jax import Array, lax

from jaxfuse.implicit.info import Info
from jaxfuse.implicit.solvers.batches import Draws
from jaxfuse.implicit.solvers.evidence import Adjoint, Reading
from jaxfuse.implicit.solvers.oracles import LowerProducts, Oracles, UpperSlopes, combine, zeros
from jaxfuse.implicit.solvers.stochastic import State, StochasticSolver, at_least, descend


class Directions(NamedTuple):
    """The directions of a joint step."""

    y: Any
    q: Any
    x: Any


def directions_of(upper: UpperSlopes, lower: LowerProducts) -> Directions:
    """Returns D_y, D_q and D_x of one batch of either function."""
    return Directions(lower.slope, combine(lower.image, upper.y, -1), combine(upper.x, lower.cross, -1))


def step_jointly(solver: Any, state: State, directions: Directions) -> State:
    """Steps y, q and x, each by its transformation."""
    states, of_q = state.optimizers, solver.system or solver.inner
    y, of_y_state = descend(solver.inner, directions.y, states["y"], state.y)
    q, of_q_state = descend(of_q, directions.q, states["q"], state.q)
    x, of_x_state = descend(solver.outer, directions.x, states["x"], state.x)
    return dataclasses.replace(state, x=x, y=y, q=q, optimizers={"x": of_x_state, "y": of_y_state, "q": of_q_state})


def joint_info(
    name: str, before: State, after: State, parts: Any, gradient: Any, evidence: bool, products: Any = 1
) -> Info:
    """Makes the `Info` of a joint step; `parts` are the upper slopes and lower products at `before`."""
    upper, lower = parts
    reading = Reading(
        value=upper.value,
        inner_value=lower.value,
        y=before.y,
        slope=lower.slope,
        last=after.y,
        before=before.y,
        adjoint=Adjoint(before.q, upper.y, lower.image),
        steps=1,
        products=products,
    )
    return reading.info(name, gradient, evidence)


@dataclasses.dataclass(frozen=True)
class soba(StochasticSolver):
    """SOBA: stochastic gradient steps on y, q and x at once, all from the same point (Algorithm 1).

    One batch of either function a step; the product with lower_yy and that with lower_xy share one pass. The evidence
    is that of the point before the step, and costs no evaluation.

    Args:
        inner, outer: optax transformations of the steps in y and in x. The paper's are `optax.sgd` of rates rho and
            gamma.
        system: that of the steps in q; another copy of `inner` if None, as in the paper.

    Example:
        >>> import optax
        >>> from jaxfuse.implicit import solvers
        >>> rate = optax.sgd(0.1)
        >>> solver = solvers.soba(inner=rate, outer=rate)
        >>> solver.upper_draws, solver.lower_draws  # batches of either function that a step takes
        (1, 1)
    """

    inner: optax.GradientTransformation
    outer: optax.GradientTransformation
    system: optax.GradientTransformation | None = None

    def optimizers(self, x: Any, y: Any) -> dict[str, Any]:
        return {"x": self.outer.init(x), "y": self.inner.init(y), "q": (self.system or self.inner).init(y)}

    def step(self, oracles: Oracles, state: State, upper: Draws, lower: Draws, evidence: bool) -> tuple[State, Info]:
        parts = (
            oracles.upper_slopes(state.x, state.y, upper.one(0)),
            oracles.lower_products(state.x, state.y, state.q, lower.one(0)),
        )
        directions = directions_of(*parts)
        after = step_jointly(self, state, directions)
        return after, joint_info("soba", state, after, parts, directions.x, evidence)


class Table(NamedTuple):
    """The last value of a quantity on each batch, and their mean.

    Attributes:
        rows: leaves (batches, ...).
        mean: the mean of the rows, kept along.
    """

    rows: Any
    mean: Any


def empty_table(pattern: Any, count: int) -> Table:
    return Table(jax.tree.map(lambda leaf: jnp.zeros((count, *leaf.shape), leaf.dtype), pattern), zeros(pattern))


def correct(table: Table, number: Array, new: Any) -> tuple[Any, Table]:
    """Returns new - row + mean, and the table with the row replaced: the estimate of SAGA (Defazio and others 2014)."""
    count = len(jax.tree.leaves(table.rows)[0])
    change = combine(new, jax.tree.map(lambda rows: rows[number], table.rows), -1)
    rows = jax.tree.map(lambda rows, leaf: rows.at[number].set(leaf), table.rows, new)
    return combine(change, table.mean), Table(rows, combine(table.mean, change, 1 / count))


@dataclasses.dataclass(frozen=True)
class saba(StochasticSolver):
    """SABA: SOBA with the variance reduction of SAGA in each of the five sums (Algorithm 1 with the estimates of SAGA).

    All five quantities (lower_y, lower_yy q, lower_xy q, upper_x, upper_y) of every batch are remembered: three arrays
    like y and two like x for each batch. The memory is filled by one pass at the first step, from the first point.

    Args:
        inner, outer, system: as in `soba`.
        upper_batches, lower_batches: number of batches that either function has; 1 for a function without data.

    Example:
        >>> import optax
        >>> from jaxfuse.implicit import solvers
        >>> rate = optax.sgd(0.1)
        >>> solver = solvers.saba(inner=rate, outer=rate, upper_batches=5, lower_batches=8)
        >>> solver.upper_draws, solver.lower_draws  # and all of them once, at the first step
        (1, 1)
    """

    needs_numbers: ClassVar[bool] = True
    needs_whole: ClassVar[bool] = True
    inner: optax.GradientTransformation
    outer: optax.GradientTransformation
    upper_batches: int
    lower_batches: int
    system: optax.GradientTransformation | None = None

    def __post_init__(self) -> None:
        at_least("saba", upper_batches=self.upper_batches, lower_batches=self.lower_batches)

    def optimizers(self, x: Any, y: Any) -> dict[str, Any]:
        return {"x": self.outer.init(x), "y": self.inner.init(y), "q": (self.system or self.inner).init(y)}

    def remembered(self, x: Any, y: Any) -> dict[str, Any]:
        lower = {"slope": y, "image": y, "cross": x}
        return {
            "upper": {name: empty_table(pattern, self.upper_batches) for name, pattern in (("x", x), ("y", y))},
            "lower": {name: empty_table(pattern, self.lower_batches) for name, pattern in lower.items()},
        }

    def step(self, oracles: Oracles, state: State, upper: Draws, lower: Draws, evidence: bool) -> tuple[State, Info]:
        for level, draws, count in (("upper", upper, self.upper_batches), ("lower", lower, self.lower_batches)):
            came = [len(leaf) for leaf in jax.tree.leaves(draws.whole)] or [1]
            if set(came) != {count}:
                raise ValueError(f"saba was told of {count} batches of {level}, and {came[0]} came: name that number")
        tables = lax.cond(
            state.step == 0,
            lambda: fill(oracles, state, upper, lower),
            lambda: state.memory,
        )
        ups = oracles.upper_slopes(state.x, state.y, upper.one(0))
        downs = oracles.lower_products(state.x, state.y, state.q, lower.one(0))
        better, tables = self._corrected(tables, (ups, downs), upper, lower)
        directions = directions_of(*better)
        after = dataclasses.replace(step_jointly(self, state, directions), memory=tables)
        products = 1 + jnp.where(state.step == 0, self.lower_batches, 0)  # the tables are filled at first
        return after, joint_info("saba", state, after, better, directions.x, evidence, products)

    def _corrected(self, tables: Any, parts: Any, upper: Draws, lower: Draws) -> tuple[Any, Any]:
        """The five quantities with their variance reduced, and the tables with their new rows."""
        assert upper.numbers is not None
        assert lower.numbers is not None
        new: dict[str, Any] = {"upper": {}, "lower": {}}
        better: dict[str, Any] = {"upper": {}, "lower": {}}
        for level, part, number in (("upper", parts[0], upper.numbers[0]), ("lower", parts[1], lower.numbers[0])):
            for name, table in tables[level].items():
                better[level][name], new[level][name] = correct(table, number, getattr(part, name))
        return (parts[0]._replace(**better["upper"]), parts[1]._replace(**better["lower"])), new


def fill(oracles: Oracles, state: State, upper: Draws, lower: Draws) -> dict[str, Any]:
    """The tables of a point: every quantity on every batch."""

    def on_all(quantity: Any, draws: Draws, names: tuple[str, ...]) -> dict[str, Table]:
        if draws.whole is None:
            rows = jax.tree.map(lambda leaf: leaf[None], quantity(None))
        else:
            rows = lax.map(quantity, draws.whole)
        count = len(jax.tree.leaves(rows)[0])
        of = {name: getattr(rows, name) for name in names}
        return {
            name: Table(each, jax.tree.map(lambda leaf: jnp.sum(leaf, axis=0) / jnp.asarray(count, leaf.dtype), each))
            for name, each in of.items()
        }

    return {
        "upper": on_all(lambda batch: oracles.upper_slopes(state.x, state.y, batch), upper, ("x", "y")),
        "lower": on_all(
            lambda batch: oracles.lower_products(state.x, state.y, state.q, batch), lower, ("slope", "image", "cross")
        ),
    }
