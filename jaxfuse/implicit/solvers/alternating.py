"""AmIGO, stocBiO, BSA and TTSA: some steps in y, then an adjoint, then one step in x.

They differ in the adjoint alone: steps on its system from the last one on; a Neumann series; a random product.
"""

from __future__ import annotations

import dataclasses
from typing import Any, ClassVar

import jax
import optax
from jax import Array

from jaxfuse.implicit.info import Info
from jaxfuse.implicit.solvers.adjoints import descend_lower, descend_system, draw_product, sum_neumann
from jaxfuse.implicit.solvers.batches import Draws
from jaxfuse.implicit.solvers.evidence import Adjoint, Reading
from jaxfuse.implicit.solvers.oracles import Oracles, combine
from jaxfuse.implicit.solvers.stochastic import State, StochasticSolver, at_least, descend


class AlternatingSolver(StochasticSolver):
    """Steps in y, an adjoint at their end, a step in x: a subclass says how it finds the adjoint.

    Batches of lower are taken in this order: one for each step in y, those of the adjoint, one for the cross product.
    One batch of upper gives both of its slopes.
    """

    inner_steps: int

    @property
    def products(self) -> int:
        """Curvature products of one adjoint, each with a batch of its own."""
        raise NotImplementedError

    @property
    def lower_draws(self) -> int:
        return self.inner_steps + self.products + 1

    def adjoint(self, oracles: Oracles, state: State, target: Any, draws: Draws, key: Array | None) -> tuple[Any, Any]:
        """Returns q at (x, y) of the state, and the state of its transformation (None if it has none)."""
        raise NotImplementedError

    def step(self, oracles: Oracles, state: State, upper: Draws, lower: Draws, evidence: bool) -> tuple[State, Info]:
        key = None if state.key is None else jax.random.fold_in(state.key, state.step)
        states, before = state.optimizers, state.y
        batches = lower.part(0, self.inner_steps)
        y, of_y = descend_lower(oracles, self.inner, state.x, (before, states["y"]), batches, self.inner_steps)
        state = dataclasses.replace(state, y=y)
        ups = oracles.upper_slopes(state.x, y, upper.one(0))
        q, of_q = self.adjoint(oracles, state, ups.y, lower.part(self.inner_steps, self.products), key)
        downs = oracles.lower_products(state.x, y, q, lower.one(self.lower_draws - 1))
        gradient = combine(ups.x, downs.cross, -1)
        x, of_x = descend(self.outer, gradient, states["x"], state.x)
        optimizers = states | {"x": of_x, "y": of_y} | ({} if of_q is None else {"q": of_q})
        after = dataclasses.replace(state, x=x, q=q, optimizers=optimizers)
        adjoint = Adjoint(q, ups.y, downs.image)
        reading = Reading(
            ups.value, downs.value, y, downs.slope, y, before, adjoint, self.inner_steps, self.products + evidence
        )
        return after, reading.info(type(self).__name__, gradient, evidence)


@dataclasses.dataclass(frozen=True)
class amigo(AlternatingSolver):
    """AmIGO: T steps in y, then N steps on the system of the adjoint, both from where they ended before (Algorithm 1).

    Arbel and Mairal 2022, Amortized implicit differentiation for stochastic bilevel optimization (ICLR); A_k and B_k
    of the paper (Algorithms 2 and 3) are stochastic gradient steps, its z_k is -q.

    Args:
        inner, outer: optax transformations of the steps in y and in x (`optax.sgd` of rates alpha and gamma).
        inner_steps, system_steps: T and N.
        system: the transformation of the steps in q (beta); another copy of `inner` if None.

    Example:
        >>> import optax
        >>> from jaxfuse.implicit import solvers
        >>> rate = optax.sgd(0.1)
        >>> solver = solvers.amigo(inner=rate, outer=rate, inner_steps=2, system_steps=3)
        >>> solver.upper_draws, solver.lower_draws  # 2 for y, 3 for q, 1 for the cross product
        (1, 6)
    """

    inner: optax.GradientTransformation
    outer: optax.GradientTransformation
    inner_steps: int = 10
    system_steps: int = 10
    system: optax.GradientTransformation | None = None

    def __post_init__(self) -> None:
        at_least("amigo", inner_steps=self.inner_steps, system_steps=self.system_steps)

    @property
    def products(self) -> int:
        return self.system_steps

    def optimizers(self, x: Any, y: Any) -> dict[str, Any]:
        return super().optimizers(x, y) | {"q": (self.system or self.inner).init(y)}

    def adjoint(self, oracles: Oracles, state: State, target: Any, draws: Draws, key: Array | None) -> tuple[Any, Any]:
        start = (state.q, state.optimizers["q"])
        transformation = self.system or self.inner
        return descend_system(oracles, transformation, (state.x, state.y), target, start, draws, self.system_steps)


@dataclasses.dataclass(frozen=True)
class stocbio(AlternatingSolver):
    """stocBiO: T steps in y, then a Neumann series with a fresh batch in every factor (Algorithm 2 with Algorithm 3).

    Ji, Yang and Liang 2021, Bilevel optimization: convergence analysis and enhanced design (ICML). All batches of the
    series have one size; those of the paper's theory grow along it.

    Args:
        inner, outer: optax transformations of the steps in y and in x (`optax.sgd` of rates alpha and beta).
        learning_rate: eta of the series, below 2 / L, L the largest eigenvalue of lower_yy.
        inner_steps: T (D in the paper).
        terms: Q, the products of the series, which has one term more.

    Example:
        >>> import optax
        >>> from jaxfuse.implicit import solvers
        >>> rate = optax.sgd(0.1)
        >>> solver = solvers.stocbio(inner=rate, outer=rate, learning_rate=0.1, inner_steps=2, terms=3)
        >>> solver.upper_draws, solver.lower_draws  # 2 for y, 3 products, 1 for the cross product
        (1, 6)
    """

    inner: optax.GradientTransformation
    outer: optax.GradientTransformation
    learning_rate: float | Array
    inner_steps: int = 10
    terms: int = 10

    def __post_init__(self) -> None:
        at_least("stocbio", inner_steps=self.inner_steps, terms=self.terms)

    @property
    def products(self) -> int:
        return self.terms

    def adjoint(self, oracles: Oracles, state: State, target: Any, draws: Draws, key: Array | None) -> tuple[Any, Any]:
        return sum_neumann(oracles, (state.x, state.y), target, self.learning_rate, draws, self.terms), None


@dataclasses.dataclass(frozen=True)
class bsa(AlternatingSolver):
    """BSA: T steps in y, then a product of random length in place of the series (Algorithms 2 and 3).

    Ghadimi and Wang 2018, Approximation methods for bilevel programming.

    Args:
        inner, outer: optax transformations of the steps in y and in x (`optax.sgd` of rates beta and alpha).
        learning_rate: 1 / L in the paper, L the largest eigenvalue of lower_yy.
        inner_steps: T; the paper lets it grow with the steps done.
        terms: K; at most K - 1 products are made. Their batches come whether or not they are used.

    Example:
        >>> import optax
        >>> from jaxfuse.implicit import solvers
        >>> rate = optax.sgd(0.1)
        >>> solver = solvers.bsa(inner=rate, outer=rate, learning_rate=0.1, inner_steps=2, terms=3)
        >>> solver.upper_draws, solver.lower_draws  # 2 for y, 2 products at most, 1 for the cross product
        (1, 5)
    """

    needs_key: ClassVar[bool] = True
    inner: optax.GradientTransformation
    outer: optax.GradientTransformation
    learning_rate: float | Array
    inner_steps: int = 10
    terms: int = 10

    def __post_init__(self) -> None:
        at_least(type(self).__name__, inner_steps=self.inner_steps, terms=self.terms)

    @property
    def products(self) -> int:
        return self.terms - 1

    def adjoint(self, oracles: Oracles, state: State, target: Any, draws: Draws, key: Array | None) -> tuple[Any, Any]:
        assert key is not None
        return draw_product(oracles, (state.x, state.y), target, self.learning_rate, draws, self.terms, key), None


@dataclasses.dataclass(frozen=True)
class ttsa(bsa):
    """TTSA: BSA with a single step in y, whose rate falls slower than that of x (Algorithm 1).

    Hong, Wai, Wang and Yang 2023, A two-timescale stochastic algorithm framework for bilevel optimization (SIAM
    Journal on Optimization). The rates of the paper are schedules: inner c / (k + 1)^(2/5), outer c / (k + 1)^(3/5).

    Args: as in `bsa`.

    Example:
        >>> import optax
        >>> from jaxfuse.implicit import solvers
        >>> rate = optax.sgd(0.1)
        >>> solver = solvers.ttsa(inner=rate, outer=rate, learning_rate=0.1, terms=3)
        >>> solver.upper_draws, solver.lower_draws  # 1 for y, 2 products at most, 1 for the cross product
        (1, 4)
    """

    inner_steps: int = dataclasses.field(default=1, init=False)
