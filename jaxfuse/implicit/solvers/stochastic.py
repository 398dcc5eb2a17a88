"""Step functions of a solver: `init` and `update`, their state, and what a solver has to say of itself to have them."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable
from typing import Any, ClassVar, NamedTuple

import jax
import jax.numpy as jnp
import optax
from jax import Array

from jaxfuse.implicit import trees
from jaxfuse.implicit.info import Info
from jaxfuse.implicit.solvers.batches import Draws, read_draws
from jaxfuse.implicit.solvers.oracles import Function, Oracles, combine, zeros


@jax.tree_util.register_dataclass
@dataclasses.dataclass(frozen=True)
class State:
    """All that goes from one step to the next: a pytree.

    Attributes:
        step: steps done.
        x, y: outer and inner variables.
        q: the adjoint, near the solution of lower_yy q = upper_y; None for solvers that have none.
        optimizers: the states of the optax transformations, by what they step.
        memory: what a solver remembers besides, by name.
        key: random key of solvers that draw numbers of their own; None for others.
    """

    step: Any
    x: Any
    y: Any
    q: Any
    optimizers: dict[str, Any]
    memory: dict[str, Any]
    key: Any


class StepFunctions(NamedTuple):
    """A solver for two functions: pure functions, to be jitted, scanned or vmapped.

    Attributes:
        init: (x, y, key=None) -> State.
        update: (state, upper draws, lower draws) -> (State, Info).
    """

    init: Callable[..., State]
    update: Callable[[State, Any, Any], tuple[State, Info]]


class StochasticSolver:
    """A stochastic bi-level solver: a subclass is a frozen dataclass of its settings, and says how it steps.

    Attributes:
        inner, outer: optax transformations of the steps in y and x.
        upper_draws, lower_draws: batches of either function that one step takes.

    Attributes of the class:
        has_adjoint: it keeps an adjoint, whose evidence can be asked for.
        needs_key, needs_numbers, needs_whole: it draws random numbers of its own; it must be told which batches came;
            it takes a pass over all batches now and then.

    Example:
        >>> import jax, jax.numpy as jnp, optax
        >>> from jaxfuse.implicit import solvers
        >>> def upper(x, y, batch):
        ...     return (y - 1.0) ** 2
        >>> def lower(x, y, batch):
        ...     return jnp.mean((y - x - batch) ** 2)
        >>> solver = solvers.soba(inner=optax.sgd(0.3), outer=optax.sgd(0.2))
        >>> functions = solver.bind(upper, lower, evidence=True)
        >>> update = jax.jit(functions.update)
        >>> state = functions.init(jnp.array(0.0), jnp.array(0.0))
        >>> for step in range(400):
        ...     batch = jnp.array([[0.1, 0.3]])  # one batch, of two samples
        ...     state, info = update(state, solvers.Draws(None), solvers.Draws(batch))
        >>> print(f"{state.x:.3f} {state.y:.3f}")  # y = x + 0.2 is 1
        0.800 1.000
    """

    has_adjoint: ClassVar[bool] = True
    needs_key: ClassVar[bool] = False
    needs_numbers: ClassVar[bool] = False
    needs_whole: ClassVar[bool] = False
    inner: optax.GradientTransformation
    outer: optax.GradientTransformation

    @property
    def upper_draws(self) -> int:
        return 1

    @property
    def lower_draws(self) -> int:
        return 1

    def remembered(self, x: Any, y: Any) -> dict[str, Any]:
        """Returns the first `State.memory`."""
        return {}

    def optimizers(self, x: Any, y: Any) -> dict[str, Any]:
        """Returns the first `State.optimizers`."""
        return {"x": self.outer.init(x), "y": self.inner.init(y)}

    def step(self, oracles: Oracles, state: State, upper: Draws, lower: Draws, evidence: bool) -> tuple[State, Info]:
        raise NotImplementedError

    def bind(self, upper: Function, lower: Function, *, evidence: bool = False) -> StepFunctions:
        """Makes the step functions of this solver for two functions.

        Args:
            upper, lower: (x, y, batch) -> real scalar, the mean over the samples of the batch.
            evidence: have `Info` hold the certificate of `hypergradient` for the adjoint, at the point where the step
                was made and on its batches: residual, lengths, least curvature. Without it, `Info` has the inner
                gradient and the last move alone.

        Raises:
            ValueError: evidence is asked of a solver that has no adjoint.
        """
        name = type(self).__name__
        if evidence and not self.has_adjoint:
            raise ValueError(
                f"{name} solves no adjoint equation, so there is no residual to measure: leave evidence out, or call "
                "hypergradient at the end"
            )
        oracles = Oracles(upper, lower)

        def init(x: Any, y: Any, key: Array | None = None) -> State:
            x, y = read_variables(x, "x"), read_variables(y, "y")
            if self.needs_key and key is None:
                raise ValueError(f"{name} draws random numbers of its own: pass init a key, such as jax.random.key(0)")
            return State(
                step=jnp.array(0, jnp.int32),
                x=x,
                y=y,
                q=zeros(y) if self.has_adjoint else None,
                optimizers=self.optimizers(x, y),
                memory=self.remembered(x, y),
                key=key if self.needs_key else None,
            )

        def update(state: State, upper: Any, lower: Any) -> tuple[State, Info]:
            upper = self._read(upper, self.upper_draws, "upper")
            lower = self._read(lower, self.lower_draws, "lower")
            state, info = self.step(oracles, state, upper, lower, evidence)
            return dataclasses.replace(state, step=state.step + 1), info

        return StepFunctions(init, update)

    def _read(self, draws: Any, expected: int, level: str) -> Draws:
        name = type(self).__name__
        draws = read_draws(draws, expected, name, level)
        if self.needs_numbers and draws.numbers is None:
            raise ValueError(f"{name} remembers every batch of {level} and was not told which came: use draw()")
        if self.needs_whole and draws.data is not None and draws.whole is None:
            raise ValueError(f"{name} takes passes over all batches of {level}, and they did not come: use draw()")
        return draws


def read_variables(tree: Any, name: str) -> Any:
    """Returns a pytree of variables as arrays.

    Raises:
        TypeError: a leaf is no floating-point array, or there is none.
    """
    trees.split(tree, name)
    for leaf in jax.tree.leaves(tree):
        if not trees.is_float(leaf):
            kind = trees.kind_of(leaf)
            raise TypeError(
                f"{name} has a leaf of type {kind or type(leaf).__name__}; solvers step floating-point leaves alone: "
                "close the functions over it, or put it into the batch"
            )
    return jax.tree.map(jnp.asarray, tree)


def descend(transformation: optax.GradientTransformation, gradient: Any, memory: Any, variable: Any) -> tuple[Any, Any]:
    """Steps a variable along an estimate of its gradient; returns it and the transformation's new state."""
    updates, memory = transformation.update(gradient, memory, variable)
    return combine(variable, updates), memory


def at_least(name: str, **settings: Any) -> None:
    """Refuses a number of steps, terms or directions below 1.

    Raises:
        ValueError: one is.
    """
    for what, value in settings.items():
        if not (isinstance(value, int) and value >= 1):
            raise ValueError(f"{name} got {what}={value}; a whole number of at least 1 was expected")
