"""The devices of this process that predict, and weights on them."""

from __future__ import annotations

import jax

from jaxfuse.engine.devices.placement import device_count
from jaxfuse.learning.state import State


def chosen_devices(asked: str) -> tuple[jax.Device, ...]:
    """Returns as many devices of this process as are asked for, or all.

    Raises:
        UserError: there are not so many.
    """
    there = jax.local_devices()
    return tuple(there[: device_count(asked, len(there))])


def first_device() -> tuple[jax.Device, ...]:
    """Returns the device that works where nothing else is asked for."""
    return (jax.local_devices()[0],)


def weights_on(device: jax.Device, weights: State) -> State:
    """Returns a state for prediction whose weights lie on this device; those that do already are not copied."""
    params, stats = jax.device_put((weights.params, weights.stats), device)
    return weights.replace(params=params, stats=stats)
