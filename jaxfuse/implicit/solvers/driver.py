"""The driver: a solver run for many steps as one program, with batches drawn at random on the device."""

from __future__ import annotations

import dataclasses
from typing import Any

import jax
from jax import Array, lax

from jaxfuse.implicit.info import Info
from jaxfuse.implicit.solvers.batches import batches_of, draw
from jaxfuse.implicit.solvers.oracles import Function
from jaxfuse.implicit.solvers.stochastic import State, StochasticSolver


@jax.tree_util.register_dataclass
@dataclasses.dataclass(frozen=True)
class Solution:
    """The end of a run.

    Attributes:
        state: the last state: `solve` goes on from it.
        info: the `Info` of all steps, every field with a leading axis (steps,); without the adjoints, which the state
            has.
    """

    state: State
    info: Info

    @property
    def x(self) -> Any:
        return self.state.x

    @property
    def y(self) -> Any:
        return self.state.y


def solve(
    upper: Function,
    lower: Function,
    solver: StochasticSolver,
    x: Any,
    y: Any,
    *,
    steps: int,
    key: Array,
    data: tuple[Any, Any] = (None, None),
    evidence: bool = False,
    state: State | None = None,
) -> Solution:
    """Runs a stochastic solver of min_x upper(x, y*(x)), y*(x) = argmin_y lower(x, y), both means over samples.

    Pure: one `scan`, to be jitted, or vmapped over starts, data or rates. Every step draws its batches at random, with
    replacement, by a key of its own number: a run that is continued draws as one that never stopped.

    Args:
        upper, lower: (x, y, batch) -> real scalar, the mean over the samples of the batch.
        solver: `soba(...)` or another one of this package.
        x, y: outer and inner variables, pytrees of floating-point arrays: where it starts.
        steps: outer steps.
        key: random key of all draws.
        data: the batches of upper and of lower, pytrees of arrays (batches, ...) as `split_batches` cuts them; None
            for a function without data, which is called with the batch None.
        evidence: have `info` hold the certificate of every step, see `StochasticSolver.bind`.
        state: last state of the same solver, to go on from; x and y are then not read.

    Raises:
        ValueError: steps below 1, arrays of data of different lengths, evidence of a solver that has none.
        TypeError: a variable is not floating, or a function returns no real scalar.

    Example:
        The weight exp(x) of a penalty, by the error on other samples:

        >>> import jax, jax.numpy as jnp, optax
        >>> from jaxfuse.implicit import solvers
        >>> noise = jax.random.normal(jax.random.key(0), (64, 3))
        >>> targets = noise - noise.mean(axis=0) + 2.0
        >>> def lower(x, y, batch):
        ...     return ((y - batch) ** 2).sum(axis=1).mean() + jnp.exp(x) * (y**2).sum()
        >>> def upper(x, y, batch):
        ...     return ((y - 1.0) ** 2).sum()
        >>> solver = solvers.soba(inner=optax.sgd(0.02), outer=optax.sgd(0.02))
        >>> data = (None, solvers.split_batches(targets, 16))
        >>> x, y = jnp.array(-2.0), jnp.zeros(3)
        >>> key = jax.random.key(1)
        >>> found = solvers.solve(upper, lower, solver, x, y, steps=2000, key=key, data=data, evidence=True)
        >>> print(f"{jnp.exp(found.x):.1f} {found.y.mean():.1f}")  # y = 2 / (1 + exp(x)) is 1 at exp(x) = 1
        1.0 1.0
        >>> found.info.residual.shape  # of the adjoint equation, on the batch of each step
        (2000,)
    """
    if steps < 1:
        raise ValueError(f"steps is {steps}; at least 1 was expected")
    functions = solver.bind(upper, lower, evidence=evidence)
    of_solver, of_draws = jax.random.split(key)
    counts = [batches_of(each, f"the data of {level}") for level, each in zip(("upper", "lower"), data, strict=True)]
    if state is None:
        state = functions.init(x, y, of_solver)

    def advance(state: State, _: None) -> tuple[State, Info]:
        of_upper, of_lower = jax.random.split(jax.random.fold_in(of_draws, state.step))
        above = jax.random.randint(of_upper, (solver.upper_draws,), 0, counts[0])
        below = jax.random.randint(of_lower, (solver.lower_draws,), 0, counts[1])
        state, info = functions.update(state, draw(data[0], above), draw(data[1], below))
        return state, dataclasses.replace(info, adjoint=None)

    return Solution(*lax.scan(advance, state, None, length=steps))
