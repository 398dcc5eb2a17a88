"""Optimizers by player, and learning-rate schedules that do not cost a compilation.

The peak rate and the number of steps are arrays in the optimizer's state, not constants of the compiled step:
a run of another length finds the same program in the compilation cache.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import optax

from jaxfuse.arrays import Array
from jaxfuse.errors import UserError

Schedule = Callable[[Array], Array]


def constant(progress: Array) -> Array:
    """Factor 1 throughout."""
    return jnp.ones_like(progress)


def cosine(progress: Array) -> Array:
    """From 1 to 0 along half a cosine."""
    return 0.5 * (1.0 + jnp.cos(jnp.pi * progress))


def linear_second_half(progress: Array) -> Array:
    """Constant for half the run, then linear to 0: the schedule of the public CycleGAN code."""
    return jnp.clip(2.0 - 2.0 * progress, 0.0, 1.0)


SCHEDULES: Mapping[str, Schedule] = {f.__name__: f for f in (constant, cosine, linear_second_half)}


class ScheduleState(NamedTuple):
    count: Array
    peak: Array
    total: Array


def scale_by_schedule(schedule: Schedule, peak: float, total_steps: int) -> optax.GradientTransformation:
    """Multiplies updates by `-peak * schedule(count / total_steps)`, both numbers kept in the state."""

    def init(params: optax.Params) -> ScheduleState:
        del params
        return ScheduleState(jnp.zeros((), jnp.int32), jnp.float32(peak), jnp.float32(total_steps))

    def update(updates: optax.Updates, state: Any, params: optax.Params | None = None) -> tuple[optax.Updates, Any]:
        del params
        rate = state.peak * schedule(jnp.clip(state.count / state.total, 0.0, 1.0))
        return jax.tree.map(lambda u: -rate.astype(u.dtype) * u, updates), state._replace(count=state.count + 1)

    return optax.GradientTransformation(init, update)  # pyright: ignore[reportArgumentType]


def adam(
    *, learning_rate: float, total_steps: int, b1: float = 0.9, b2: float = 0.999, schedule: str = "constant"
) -> optax.GradientTransformation:
    """Adam with a named schedule over `total_steps` updates."""
    if schedule not in SCHEDULES:
        raise UserError(f"learning-rate schedule {schedule!r} is not known; choose one of {', '.join(SCHEDULES)}")
    if learning_rate <= 0:
        raise UserError(f"learning_rate is {learning_rate}; it must be positive")
    return optax.chain(
        optax.scale_by_adam(b1=b1, b2=b2),
        scale_by_schedule(SCHEDULES[schedule], learning_rate, total_steps),
    )


def with_total_steps(opt_state: Any, total_steps: int) -> Any:
    """The same optimizer state for a run of another length: every schedule in it now ends at `total_steps`."""

    def renew(node: Any) -> Any:
        return node._replace(total=jnp.full_like(node.total, total_steps)) if isinstance(node, ScheduleState) else node

    return jax.tree.map(renew, opt_state, is_leaf=lambda node: isinstance(node, ScheduleState))
