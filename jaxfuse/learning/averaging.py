"""The exponential moving average of weights, by which a training is judged and predicts.

It moves slower than the weights that learn, whose last steps jump about: Polyak and Juditsky, Acceleration of
Stochastic Approximation by Averaging (1992); Tarvainen and Valpola, Mean teachers (2017), in the form used here.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp

from jaxfuse.arrays import Metrics
from jaxfuse.learning.state import State

TrainStep = Callable[[State, Any], tuple[State, Metrics]]


def begun(state: State, decay: float) -> State:
    """Returns a state whose average, if there is a decay, begins as its weights and running statistics."""
    if not decay:
        return state
    return state.replace(average=jax.tree.map(jnp.copy, {"params": state.params, "stats": state.stats}))


def averaging(train_step: TrainStep, decay: float) -> TrainStep:
    """Returns a step that moves the average too: average <- d average + (1 - d) weights.

    d is the decay, and less in the first steps, min(decay, (1 + step) / (10 + step)), so that what was drawn at random
    is soon forgotten. Without a decay it is the step itself.
    """
    if not decay:
        return train_step

    def step(state: State, batch: Any) -> tuple[State, Metrics]:
        after, metrics = train_step(state, batch)
        rate = 1.0 - jnp.minimum(decay, (1.0 + state.step) / (10.0 + state.step))
        now = {"params": after.params, "stats": after.stats}
        average = jax.tree.map(lambda mean, x: mean + (rate * (x - mean)).astype(mean.dtype), after.average, now)
        return after.replace(average=average), metrics

    return step


def deployed(state: State) -> State:
    """Returns a state with the average in place of its weights and statistics, where it has one."""
    return state.replace(**state.average, average={}) if state.average else state
