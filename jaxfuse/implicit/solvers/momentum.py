"""MRBO, SUSTAIN and FSLA: directions that are corrected by what the last point gives on the same batches.

The estimate is that of STORM (Cutkosky and Orabona 2019): d <- new + (1 - a) (d - old), with new and old of one batch;
a is the share of the fresh estimate, 1 at the first step.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Callable
from typing import Any, ClassVar, NamedTuple

import jax
import jax.numpy as jnp
import optax
from jax import Array

from jaxfuse.implicit.info import Info
from jaxfuse.implicit.solvers.adjoints import draw_product, sum_neumann
from jaxfuse.implicit.solvers.batches import Draws
from jaxfuse.implicit.solvers.evidence import Adjoint, Reading
from jaxfuse.implicit.solvers.oracles import LowerProducts, Oracles, UpperSlopes, combine, zeros
from jaxfuse.implicit.solvers.stochastic import State, StochasticSolver, at_least, descend

Share = float | Array | Callable[[Array], Any]  # a schedule is a function of the steps done


def recurse(before: Any, new: Any, old: Any, share: Any = 0.0) -> Any:
    """Returns new + (1 - share) (before - old): STORM; with the share 0 it is the recursion of SPIDER and SARAH."""
    return combine(new, combine(before, old, -1), 1 - share)


def share_at(share: Share, step: Array) -> Any:
    """Returns the share at a step: 1 at the first, where nothing is remembered."""
    return jnp.where(step == 0, 1.0, jnp.asarray(share(step) if callable(share) else share, float))


class Estimate(NamedTuple):
    """A stochastic hypergradient and what it is made of."""

    gradient: Any
    q: Any
    upper: UpperSlopes
    lower: LowerProducts


def estimate(
    oracles: Oracles, point: tuple[Any, Any], upper: Any, cross: Any, adjoint: Callable[[Any, Any], Any]
) -> Estimate:
    """Makes upper_x - lower_xy q at a point, with q = adjoint(point, upper_y); `upper` and `cross` are batches."""
    ups = oracles.upper_slopes(*point, upper)
    q = adjoint(point, ups.y)
    downs = oracles.lower_products(*point, q, cross)
    return Estimate(combine(ups.x, downs.cross, -1), q, ups, downs)


class DoubleMomentum(StochasticSolver):
    """Steps in x and y at once along directions of STORM: a subclass says how it finds the adjoint.

    Batches of lower are taken in this order: one for the direction of y, those of the adjoint, one for the cross
    product. All are evaluated at the present and at the last point.
    """

    inner_share: Share
    outer_share: Share

    @property
    def products(self) -> int:
        raise NotImplementedError

    @property
    def lower_draws(self) -> int:
        return self.products + 2

    def adjoint(self, oracles: Oracles, draws: Draws, key: Array | None) -> Callable[[Any, Any], Any]:
        """Returns (point, target) -> q, with the same batches and random numbers whenever it is called."""
        raise NotImplementedError

    def remembered(self, x: Any, y: Any) -> dict[str, Any]:
        return {"x": x, "y": y, "of_x": zeros(x), "of_y": zeros(y)}

    def step(self, oracles: Oracles, state: State, upper: Draws, lower: Draws, evidence: bool) -> tuple[State, Info]:
        key = None if state.key is None else jax.random.fold_in(state.key, state.step)
        adjoint = self.adjoint(oracles, lower.part(1, self.products), key)
        memory, here, there = state.memory, (state.x, state.y), (state.memory["x"], state.memory["y"])
        batches = upper.one(0), lower.one(self.products + 1)
        new, old = (estimate(oracles, point, *batches, adjoint) for point in (here, there))
        of_x = recurse(memory["of_x"], new.gradient, old.gradient, share_at(self.outer_share, state.step))
        slope, slope_old = (oracles.lower_slope(*point, lower.one(0)) for point in (here, there))
        of_y = recurse(memory["of_y"], slope, slope_old, share_at(self.inner_share, state.step))
        x, x_state = descend(self.outer, of_x, state.optimizers["x"], state.x)
        y, y_state = descend(self.inner, of_y, state.optimizers["y"], state.y)
        after = dataclasses.replace(
            state,
            x=x,
            y=y,
            q=new.q,
            optimizers={"x": x_state, "y": y_state},
            memory={"x": state.x, "y": state.y, "of_x": of_x, "of_y": of_y},
        )
        return after, estimate_info(type(self).__name__, new, (state.y, y), (1, 2 * self.products), of_x, evidence)


def estimate_info(
    name: str, found: Estimate, move: tuple[Any, Any], counts: tuple[int, Any], gradient: Any, evidence: bool
) -> Info:
    """Makes the `Info` of an estimate at move[0]; `counts` are the steps in y and the curvature products."""
    reading = Reading(
        value=found.upper.value,
        inner_value=found.lower.value,
        y=move[0],
        slope=found.lower.slope,
        last=move[1],
        before=move[0],
        adjoint=Adjoint(found.q, found.upper.y, found.lower.image),
        steps=counts[0],
        products=counts[1] + int(evidence),
    )
    return reading.info(name, gradient, evidence)


@dataclasses.dataclass(frozen=True)
class mrbo(DoubleMomentum):
    """MRBO: STORM for the hypergradient, whose adjoint is a Neumann series, and for the inner gradient (Algorithm 1).

    Yang, Ji and Liang 2021, Provably faster algorithms for bilevel optimization (NeurIPS). The paper's rates and shares
    fall with the steps k: rates with (m + k)^(-1/3), shares with its square; give schedules for that.

    Args:
        inner, outer: optax transformations of the steps in y and in x (`optax.sgd` of lambda eta_k and gamma eta_k).
        learning_rate: eta of the series, below 2 / L, L the largest eigenvalue of lower_yy.
        inner_share, outer_share: beta_k and alpha_k, the share of the fresh estimate: a number in (0, 1], or a
            schedule.
        terms: Q, the products of the series, which has one term more.

    Example:
        >>> import optax
        >>> from jaxfuse.implicit import solvers
        >>> rate = optax.sgd(0.1)
        >>> solver = solvers.mrbo(inner=rate, outer=rate, learning_rate=0.1, terms=3)
        >>> solver.upper_draws, solver.lower_draws  # 1 for y, 3 products, 1 for the cross product
        (1, 5)
    """

    inner: optax.GradientTransformation
    outer: optax.GradientTransformation
    learning_rate: float | Array
    inner_share: Share = 0.5
    outer_share: Share = 0.5
    terms: int = 10

    def __post_init__(self) -> None:
        at_least("mrbo", terms=self.terms)

    @property
    def products(self) -> int:
        return self.terms

    def adjoint(self, oracles: Oracles, draws: Draws, key: Array | None) -> Callable[[Any, Any], Any]:
        return lambda point, target: sum_neumann(oracles, point, target, self.learning_rate, draws, self.terms)


@dataclasses.dataclass(frozen=True)
class sustain(DoubleMomentum):
    """SUSTAIN: STORM for both directions, the adjoint by a product of random length (Algorithm 1).

    Khanduri, Zeng, Hong, Wai, Wang and Yang 2021, A near-optimal algorithm for stochastic bilevel optimization via
    double-momentum (NeurIPS). The adjoint is that of `bsa`.

    Args:
        inner, outer: optax transformations of the steps in y and in x (`optax.sgd` of beta_t and alpha_t).
        learning_rate: 1 / L_g in the paper.
        inner_share, outer_share: eta of g and of f, as in `mrbo`.
        terms: K; at most K - 1 products are made. Their batches come whether or not they are used.

    Example:
        >>> import optax
        >>> from jaxfuse.implicit import solvers
        >>> rate = optax.sgd(0.1)
        >>> solver = solvers.sustain(inner=rate, outer=rate, learning_rate=0.1, terms=3)
        >>> solver.upper_draws, solver.lower_draws  # 1 for y, 2 products at most, 1 for the cross product
        (1, 4)
    """

    needs_key: ClassVar[bool] = True
    inner: optax.GradientTransformation
    outer: optax.GradientTransformation
    learning_rate: float | Array
    inner_share: Share = 0.5
    outer_share: Share = 0.5
    terms: int = 10

    def __post_init__(self) -> None:
        at_least("sustain", terms=self.terms)

    @property
    def products(self) -> int:
        return self.terms - 1

    def adjoint(self, oracles: Oracles, draws: Draws, key: Array | None) -> Callable[[Any, Any], Any]:
        assert key is not None
        rate, terms = self.learning_rate, self.terms
        return lambda point, target: draw_product(oracles, point, target, rate, draws, terms, key)


@dataclasses.dataclass(frozen=True)
class fsla(StochasticSolver):
    """FSLA: a step in y, a step on the system of the adjoint, and STORM for the hypergradient (Algorithm 1).

    Li, Gu and Huang 2022, A fully single loop algorithm for bilevel optimization without Hessian inverse (AAAI).
    Batches of lower: for y, for q, for the cross product. Batches of upper: for q, for the hypergradient. The evidence
    is that of q before its step.

    Args:
        inner, outer: optax transformations of the steps in y and in x (`optax.sgd` of tau and of gamma).
        outer_share: eta, the share of the fresh hypergradient, as in `mrbo`.
        system: that of the steps in q; another copy of `inner` if None.

    Example:
        >>> import optax
        >>> from jaxfuse.implicit import solvers
        >>> rate = optax.sgd(0.1)
        >>> solver = solvers.fsla(inner=rate, outer=rate)
        >>> solver.upper_draws, solver.lower_draws  # for q and x; for y, q and x
        (2, 3)
    """

    inner: optax.GradientTransformation
    outer: optax.GradientTransformation
    outer_share: Share = 0.5
    system: optax.GradientTransformation | None = None

    @property
    def upper_draws(self) -> int:
        return 2

    @property
    def lower_draws(self) -> int:
        return 3

    def optimizers(self, x: Any, y: Any) -> dict[str, Any]:
        return super().optimizers(x, y) | {"q": (self.system or self.inner).init(y)}

    def remembered(self, x: Any, y: Any) -> dict[str, Any]:
        return {"x": x, "of_x": zeros(x)}

    def step(self, oracles: Oracles, state: State, upper: Draws, lower: Draws, evidence: bool) -> tuple[State, Info]:
        states, memory, before = state.optimizers, state.memory, (state.y, state.q)
        slope = oracles.lower_slope(state.x, state.y, lower.one(0))
        y, y_state = descend(self.inner, slope, states["y"], state.y)
        image = oracles.hessian_product(state.x, y, state.q, lower.one(1))
        target = oracles.upper_slopes(state.x, y, upper.one(0)).y
        q, q_state = descend(self.system or self.inner, combine(image, target, -1), states["q"], state.q)

        def at(x: Any, y: Any, q: Any) -> Estimate:
            return estimate(oracles, (x, y), upper.one(1), lower.one(2), lambda point, target: q)

        new, old = at(state.x, y, q), at(memory["x"], *before)
        of_x = recurse(memory["of_x"], new.gradient, old.gradient, share_at(self.outer_share, state.step))
        x, x_state = descend(self.outer, of_x, states["x"], state.x)
        after = dataclasses.replace(
            state,
            x=x,
            y=y,
            q=q,
            optimizers={"x": x_state, "y": y_state, "q": q_state},
            memory={"x": state.x, "of_x": of_x},
        )
        adjoint = Adjoint(before[1], target, image)
        reading = Reading(new.upper.value, new.lower.value, y, new.lower.slope, y, before[0], adjoint, 1, 1)
        return after, reading.info("fsla", of_x, evidence)
