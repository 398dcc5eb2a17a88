"""Estimators that differentiate the inner iteration itself: one step, a phantom, truncated, or the whole run.

With y_K(x) the iterate after K steps, the gradient is that of upper(x, y_K(x)): exact for the iteration that was run,
whatever it reached. No linear system is solved. Lower case, like functions: `estimator=truncated(20, step=update)`.
"""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Callable
from typing import Any, ClassVar, cast

import jax
import jax.numpy as jnp
import optax
from jax import Array, lax

from jaxfuse.implicit import trees
from jaxfuse.implicit.adjoint import Estimate
from jaxfuse.implicit.certificate import Steps, inner_limit, measured
from jaxfuse.implicit.curvature import Curvature, refuse_curvature
from jaxfuse.implicit.problem import Problem
from jaxfuse.implicit.rounding import coarseness
from jaxfuse.implicit.trees import Vector

Step = Callable[[Any, Any], Any]
# (outer variables, (inner variables, optimizer's state)) -> the same after one step
Move = Callable[[Vector, tuple[Vector, Any]], tuple[Vector, Any]]


class UnrolledEstimator:
    """An estimator that differentiates steps of the inner iteration: a subclass has those of the fields it allows.

    Attributes:
        steps: number of steps, at least 1.
        step: (x, y) -> new y, on the pytrees that the user passed; leaves of y that are no variables stay as they are.
        optimizer: an optax transformation of lower's gradient, in the structure of y (None at leaves that are no
            variables), begun afresh; its state is differentiated too. One that asks for more than gradient, state and
            parameters (a line search) does not go.
        learning_rate: that of gradient descent on lower. Exactly one of these three is given.
        start: where the iteration begins, in the structure of y; a function of x makes it depend on x. y if None.
        checkpoint: keep the state at about sqrt(steps) places only and run each stretch between them again on the way
            back: memory of about 2 sqrt(steps) steps instead of steps, for one more run of the iteration.
        relaxation: tau of y <- (1 - tau) y + tau T(x, y), in (0, 1].
        claims_optimum: whether the last iterate is meant to be the inner optimum, judged by the length of the last
            step.
        moves: it evaluates `lower` away from y.
    """

    steps: int
    step: Step | None
    optimizer: optax.GradientTransformation | None
    learning_rate: float | Array | None
    start: Any = None
    checkpoint: bool = False
    relaxation: float = 1.0
    claims_optimum: ClassVar[bool] = True
    moves: ClassVar[bool] = True

    def __post_init__(self) -> None:
        name = type(self).__name__
        given = [what for what in ("step", "optimizer", "learning_rate") if getattr(self, what) is not None]
        if len(given) != 1:
            came = " and ".join(given) or "none"
            raise ValueError(f"{name} got {came}; exactly one of step, optimizer and learning_rate was expected")
        if self.steps < 1:
            raise ValueError(f"{name} got steps={self.steps}; at least 1 was expected")
        if not 0 < self.relaxation <= 1:
            raise ValueError(f"{name} got relaxation={self.relaxation}; more than 0 and at most 1 was expected")
        if isinstance(self.learning_rate, (int, float)) and not self.learning_rate > 0:
            raise ValueError(f"{name} got learning_rate={self.learning_rate}; a positive one was expected")

    def estimate(self, problem: Problem, curvature: Curvature, inner_tolerance: float | None) -> Estimate:
        refuse_curvature(type(self).__name__, curvature)
        last, pull, before = jax.vjp(self.path(problem), problem.x, has_aux=True)
        (value, aux), (direct, slope) = jax.value_and_grad(problem.upper, argnums=(0, 1), has_aux=True)(problem.x, last)
        (indirect,) = pull(slope)
        inner = lax.stop_gradient(_slope(problem, problem.x, last))
        place = lax.stop_gradient(last)
        move = trees.add(place, before, -1)
        scaled, units = measured(inner, move, inner, place)
        inner_squared, move_squared, _, place_squared = trees.dots([(each, each) for each in scaled])
        limit = inner_limit(inner_tolerance, trees.coarsest_type(place), coarseness(problem.y_tree))
        return Estimate(
            gradient=trees.add(direct, indirect),
            direct=direct,
            value=value,
            aux=aux,
            adjoint=None,
            evidence=Steps(
                units,
                inner_squared,
                place_squared,
                move_squared,
                (limit if self.claims_optimum else jnp.full_like(limit, jnp.inf)).astype(move_squared.dtype),
            ),
            steps=jnp.array(self.steps),
            products=jnp.array(0),
            damping=jnp.zeros_like(move_squared),
            best_iterate=jnp.array(False),
        )

    def path(self, problem: Problem) -> Callable[[Vector], tuple[Vector, Vector]]:
        """x -> the last iterate, as a function of x, and the one before it."""

        def iterate(x: Vector) -> tuple[Vector, Vector]:
            first = self._first(problem, x)
            state = self._state(problem, first)
            return run(self._move(problem), x, first, state, self.steps, checkpoint=self.checkpoint)

        return iterate

    def _first(self, problem: Problem, x: Vector) -> Vector:
        if self.start is None:
            return problem.y
        if callable(self.start):
            return problem.read_y(problem.of_trees(lambda x, y: self.start(x))(x, problem.y), "start(x)")
        return problem.read_y(self.start, "start")

    def _state(self, problem: Problem, first: Vector) -> Any:
        return None if self.optimizer is None else self.optimizer.init(problem.tree_y(first))

    def _move(self, problem: Problem) -> Move:
        """One step, relaxation included."""
        lifted = None if self.step is None else problem.of_trees(self.step)

        def advance(x: Vector, y: Vector, state: Any) -> tuple[Vector, Any]:
            if lifted is not None:
                return problem.read_y(lifted(x, y), "step(x, y)"), state
            slope = _slope(problem, x, y)
            if self.optimizer is None:
                return trees.add(y, slope, -cast(Any, self.learning_rate)), state
            updates, state = self.optimizer.update(problem.tree_y(slope), state, problem.tree_y(y))
            return trees.add(y, problem.read_y(updates, "the optimizer's updates")), state

        def move(x: Vector, carry: tuple[Vector, Any]) -> tuple[Vector, Any]:
            y, state = carry
            new, state = advance(x, y, state)
            if self.relaxation != 1:
                new = trees.add(trees.scale(y, 1 - self.relaxation), new, self.relaxation)
            return new, state

        return move


def run(move: Move, x: Vector, first: Vector, state: Any, steps: int, *, checkpoint: bool) -> tuple[Vector, Vector]:
    """The iterate after `steps` moves, and the one before it (a constant, for the length of the last move).

    With `checkpoint`, the moves are cut into stretches of floor(sqrt(steps)), and the rest makes one shorter stretch;
    only what enters a stretch is kept for the reverse pass (Chen 2016, sublinear memory).
    """

    def stretch(x: Vector, carry: Any, length: int) -> Any:
        def body(carry: Any, _: None) -> tuple[Any, None]:
            y, state, _ = carry
            return (*move(x, (y, state)), lax.stop_gradient(y)), None

        return lax.scan(body, carry, None, length)[0]

    carry = (first, state, lax.stop_gradient(first))
    if checkpoint:
        kept = jax.checkpoint(stretch, static_argnums=2)
        length = math.isqrt(steps)
        carry, _ = lax.scan(lambda carry, _: (kept(x, carry, length), None), carry, None, steps // length)
        if steps % length:
            carry = kept(x, carry, steps % length)
    else:
        carry = stretch(x, carry, steps)
    last, _, before = carry
    return last, before


@dataclasses.dataclass(frozen=True)
class unroll(UnrolledEstimator):
    """The whole inner run, differentiated step by step: exact for the iterate that it reaches, converged or not.

    It makes no claim that the iterate is the optimum (`Info.inner_converged` is True, `Info.inner_gradient_norm` says
    how far it got). The iteration begins at `start`, or else at y; `Info.inner_value` and the lower function's
    auxiliaries are those at y. Memory grows with the steps, with their root if `checkpoint`. Maclaurin 2015,
    Franceschi 2017. Arguments as in `UnrolledEstimator`.

    Example:
        Two steps from 0, which end at 3 x / 16:

        >>> import jax.numpy as jnp
        >>> from jaxfuse import implicit
        >>> lower, upper = lambda x, y: 2 * y**2 - x * y, lambda x, y: y  # y*(x) = x / 4
        >>> x, y = jnp.array(8.0), jnp.array(2.0)
        >>> solver = implicit.unroll(2, learning_rate=0.125, start=0.0)
        >>> gradient, info = implicit.hypergradient(upper, lower, x, y, estimator=solver)
        >>> print(gradient)
        0.1875
    """

    claims_optimum: ClassVar[bool] = False
    steps: int
    _: dataclasses.KW_ONLY
    step: Step | None = None
    optimizer: optax.GradientTransformation | None = None
    learning_rate: float | Array | None = None
    start: Any = None
    checkpoint: bool = False
    relaxation: float = 1.0


@dataclasses.dataclass(frozen=True)
class truncated(UnrolledEstimator):
    """The last steps only: the iteration goes on from y, which is held constant. Shaban 2019.

    At the optimum, with gradient descent, it is the Neumann series of the inverse Hessian cut after `steps` terms, so
    its error falls as (1 - learning_rate * least eigenvalue)^steps. Arguments as in `UnrolledEstimator`.

    Example:
        >>> import jax.numpy as jnp
        >>> from jaxfuse import implicit
        >>> lower, upper = lambda x, y: 2 * y**2 - x * y, lambda x, y: y  # y*(x) = x / 4
        >>> x, y = jnp.array(8.0), jnp.array(2.0)
        >>> solver = implicit.truncated(2, learning_rate=0.125)
        >>> gradient, info = implicit.hypergradient(upper, lower, x, y, estimator=solver)
        >>> print(gradient)
        0.1875
    """

    steps: int
    _: dataclasses.KW_ONLY
    step: Step | None = None
    optimizer: optax.GradientTransformation | None = None
    learning_rate: float | Array | None = None
    checkpoint: bool = False


@dataclasses.dataclass(frozen=True)
class phantom(UnrolledEstimator):
    """`truncated` with relaxed steps y <- (1 - relaxation) y + relaxation T(x, y). Geng 2021, unrolled form.

    A smaller relaxation damps the series: it converges for a wider class of T, to the same limit, more slowly.
    Arguments as in `UnrolledEstimator`.

    Example:
        >>> import jax.numpy as jnp
        >>> from jaxfuse import implicit
        >>> lower, upper = lambda x, y: 2 * y**2 - x * y, lambda x, y: y  # y*(x) = x / 4
        >>> x, y = jnp.array(8.0), jnp.array(2.0)
        >>> solver = implicit.phantom(2, 0.5, learning_rate=0.25)
        >>> gradient, info = implicit.hypergradient(upper, lower, x, y, estimator=solver)
        >>> print(gradient)
        0.1875
    """

    steps: int
    relaxation: float
    _: dataclasses.KW_ONLY
    step: Step | None = None
    optimizer: optax.GradientTransformation | None = None
    learning_rate: float | Array | None = None
    checkpoint: bool = False


@dataclasses.dataclass(frozen=True)
class one_step(UnrolledEstimator):
    """One step from y, which is held constant: the Jacobian of T in y is dropped. Fung 2022 (JFB), Bolte 2023.

    The relative error is about the contraction factor of T: small for a Newton-like step, near 1 for gradient descent
    on an ill-conditioned problem. Arguments as in `UnrolledEstimator`.

    Example:
        >>> import jax.numpy as jnp
        >>> from jaxfuse import implicit
        >>> lower, upper = lambda x, y: 2 * y**2 - x * y, lambda x, y: y  # y*(x) = x / 4
        >>> x, y = jnp.array(8.0), jnp.array(2.0)
        >>> solver = implicit.one_step(learning_rate=0.125)
        >>> gradient, info = implicit.hypergradient(upper, lower, x, y, estimator=solver)
        >>> print(gradient)
        0.125
    """

    steps: ClassVar[int] = 1
    _: dataclasses.KW_ONLY
    step: Step | None = None
    optimizer: optax.GradientTransformation | None = None
    learning_rate: float | Array | None = None


def _slope(problem: Problem, x: Vector, y: Vector) -> Vector:
    return jax.grad(lambda inner: problem.lower(x, inner)[0])(y)
