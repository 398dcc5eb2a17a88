"""The devices of this process that predict, and weights on them."""

from __future__ import annotations

import jax

from jaxfuse.engine.devices.placement import Placement, check_sharing, device_count, on_mesh
from jaxfuse.learning.state import State


def chosen_devices(asked: str, space: int = 1) -> tuple[jax.Device, ...] | tuple[Placement, ...]:
    """Returns as many devices of this process as are asked for, or all; or groups of `space` that share each tile.

    Raises:
        UserError: there are not so many, or they do not make up groups.
    """
    there = jax.local_devices()
    count = device_count(asked, len(there))
    if space == 1:
        return tuple(there[:count])
    check_sharing(count, space, alone=False, shard_state=False)
    return tuple(on_mesh(there[first : first + space], space=space) for first in range(0, count, space))


def first_device() -> tuple[jax.Device, ...]:
    """Returns the device that works where nothing else is asked for."""
    return (jax.local_devices()[0],)


def weights_on(device: jax.Device, weights: State) -> State:
    """Returns a state for prediction whose weights lie on this device; those that do already are not copied."""
    params, stats = jax.device_put((weights.params, weights.stats), device)
    return weights.replace(params=params, stats=stats)
