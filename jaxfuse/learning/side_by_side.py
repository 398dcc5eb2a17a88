"""Several trainings of one System as one: the members' states lie stacked, and `vmap` carries out their steps at once.

Small networks leave an accelerator idle; several that differ in their data and first weights only can share it. The
networks, losses and optimizers are those of one System; every member keeps its own weights, statistics, optimizer and
randomness, and sees its own batches. What comes out is, up to rounding, what each would have come to alone.

Members are drawn one by one, with the keys that they would have alone, and stacked then: initializers draw by the
hardware generator, whose numbers under `vmap` are others than in a loop. The keys of the steps are threefry's, whose
numbers are the same.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

import jax
import jax.numpy as jnp

from jaxfuse.arrays import Array, Batch, Metrics
from jaxfuse.learning.state import State
from jaxfuse.learning.system import System

# The axis of the members in each part of a state; the step is common to all.
_AXES: Any = State(step=None, rng=0, params=0, stats=0, opt_state=0, memory=0, average=0)  # pyright: ignore[reportArgumentType]

Step = Callable[[State, Any], tuple[State, Metrics]]


@dataclass(frozen=True)
class SideBySide:
    """The steps of several members that share one System, and the stacking of their states.

    A state is that of the System with a leading axis of members before every array but `step`, which is one number.

    Attributes:
        system: the networks, losses and optimizers of all members.
        members: their names, in the order in which they are stacked.
    """

    system: System
    members: tuple[str, ...]

    def stack(self, states: Mapping[str, State]) -> State:
        """The members' states as one; all are at the same step.

        Raises:
            ValueError: the states are those of other members, or at several steps.
        """
        if set(states) != set(self.members):
            raise ValueError(f"states of {sorted(states)} came, and the members are {sorted(self.members)}")
        ordered = [states[name] for name in self.members]
        steps = {int(state.step) for state in ordered}
        if len(steps) > 1:
            raise ValueError(f"members side by side are at the same step, these are at {sorted(steps)}")
        stacked = jax.tree.map(lambda *leaves: jnp.stack(leaves), *ordered)
        return stacked.replace(step=ordered[0].step)

    def member(self, state: State, name: str) -> State:
        """The state of one member, as it would be alone."""
        number = self.members.index(name)
        return jax.tree.map(lambda leaf: leaf[number], state.replace(step=None)).replace(step=state.step)

    def train_step(self, state: State, batches: Mapping[str, Batch]) -> tuple[State, Metrics]:
        """One update of every member on its own batch, `batches[member]`; metrics are named `<member>/<metric>`.

        The members' batches have the same shapes.
        """
        return self.over_members(self.system.train_step)(state, batches)

    def over_members(self, train_step: Step) -> Step:
        """Returns the step of every member on its own batch, where this is that of one; else as in `train_step`."""

        def step(state: State, batches: Mapping[str, Batch]) -> tuple[State, Metrics]:
            each = jax.vmap(train_step, in_axes=(_AXES, 0), out_axes=(_AXES, 0))
            state, metrics = each(state, self._stacked(batches))
            return state, self._by_member(metrics)

        return step

    def eval_step(self, state: State, batches: Mapping[str, Batch]) -> Metrics:
        """The evaluation of every member on its own batch; else as in `train_step`."""
        return self._by_member(jax.vmap(self.system.eval_step, in_axes=(_AXES, 0))(state, self._stacked(batches)))

    def _stacked(self, batches: Mapping[str, Batch]) -> Batch:
        return jax.tree.map(lambda *leaves: jnp.stack(leaves), *(batches[name] for name in self.members))

    def _by_member(self, metrics: Mapping[str, Array]) -> Metrics:
        return {
            f"{name}/{metric}": values[number]
            for number, name in enumerate(self.members)
            for metric, values in metrics.items()
        }
