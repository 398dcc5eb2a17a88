"""The devices of this process that predict, and weights on them."""

from __future__ import annotations

import jax

from jaxfuse.engine.trained.conveyor import DEVICES
from jaxfuse.errors import UserError
from jaxfuse.learning.state import State


def chosen_devices(asked: str) -> tuple[jax.Device, ...]:
    """Returns as many devices of this process as are asked for, or all.

    Raises:
        UserError: there are not so many.
    """
    there = jax.local_devices()
    if asked == "all":
        return tuple(there)
    if not asked.isdecimal() or not 1 <= int(asked) <= len(there):
        kind = there[0].device_kind
        raise UserError(
            f"--{DEVICES} is {asked}, and this process sees {len(there)} ({kind}); give a number from 1 to "
            f"{len(there)}, or all"
        )
    return tuple(there[: int(asked)])


def first_device() -> tuple[jax.Device, ...]:
    """Returns the device that works where nothing else is asked for."""
    return (jax.local_devices()[0],)


def weights_on(device: jax.Device, weights: State) -> State:
    """Returns a state for prediction whose weights lie on this device; those that do already are not copied."""
    params, stats = jax.device_put((weights.params, weights.stats), device)
    return weights.replace(params=params, stats=stats)
