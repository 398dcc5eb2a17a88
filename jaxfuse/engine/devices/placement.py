"""The devices of a run, and where states and batches lie on them.

On several devices a training is data parallel: one global batch, whose examples are parted among the devices, and one
state, of which each device has a copy. A step is the same function of both on any number of devices, so that what sums
or averages over a batch, gradients and statistics of a batch norm too, does so over all of it.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax.sharding import AxisType, Mesh, NamedSharding, PartitionSpec, Sharding, SingleDeviceSharding

from jaxfuse.config import Experiment
from jaxfuse.engine.feed.windows import Block
from jaxfuse.errors import UserError

# The axis of a mesh along which the examples of a batch are parted.
DATA = "data"
AUTO, ALL = "auto", "all"


@dataclass(frozen=True)
class Placement:
    """The devices that the arrays of a run lie on.

    Attributes:
        state: sharding of every array of a state.
        batch: sharding of every array of a batch, whose first axis is that of the examples.
    """

    state: Sharding
    batch: Sharding

    @property
    def mesh(self) -> Mesh | None:
        """The mesh of several devices; None where one does everything."""
        return self.batch.mesh if isinstance(self.batch, NamedSharding) else None  # pyright: ignore[reportReturnType]

    @property
    def parts(self) -> int:
        """The number of parts that a batch is divided into."""
        return 1 if self.mesh is None else self.mesh.shape[DATA]

    @property
    def spans(self) -> bool:
        """Whether some of the devices belong to other processes."""
        return not self.batch.is_fully_addressable

    @property
    def devices(self) -> tuple[jax.Device, ...]:
        """The devices in use, ordered by their numbers."""
        return tuple(sorted(self.state.device_set | self.batch.device_set, key=lambda device: device.id))

    @property
    def first(self) -> jax.Device:
        """The first of the devices that belong to this process."""
        return min(self.state.addressable_devices, key=lambda device: device.id)

    @property
    def device_name(self) -> str:
        """The kind of the devices in use, after their count where there are several: `cpu`, `8 x NVIDIA H200`."""
        kind = self.devices[0].device_kind
        return kind if len(self.devices) == 1 else f"{len(self.devices)} x {kind}"

    @property
    def backend(self) -> str:
        """The platform that programs are compiled for: cpu, gpu, tpu."""
        return self.first.platform

    def put(self, batch: Any) -> Any:
        """Puts a batch of the host on the devices, where steps take it; does not wait until it is there.

        Each of several processes gives its own rows. What lies on the devices already stays where it is.
        """
        sharding = self._of_steps if isinstance(batch, Block) else self.batch
        place = jax.make_array_from_process_local_data if self.spans else _put
        return jax.tree.map(lambda leaf: leaf if isinstance(leaf, jax.Array) else place(sharding, leaf), batch)

    def keep(self, state: Any) -> Any:
        """Binds a state to the devices, as it comes out of every step: a step is compiled once for both.

        Each of several processes gives all of it.
        """
        if self.spans:
            return jax.tree.map(lambda leaf: _spread(leaf, self.state), state)
        return jax.device_put(state, self.state)

    def local(self, tree: Any) -> Any:
        """Returns the arrays of a state on the first device of this process, for what devices do each by itself."""
        return tree if self.mesh is None else jax.tree.map(lambda leaf: leaf.addressable_data(0), tree)

    def memory_bytes(self) -> int | None:
        """Memory of the first device that programs may take; None where the backend does not count it (CPU)."""
        counters = self.first.memory_stats()
        return None if counters is None else counters.get("bytes_limit")

    def peak_bytes(self) -> int | None:
        """Peak memory of the first device since the process began; None where the backend does not count it (CPU)."""
        counters = self.first.memory_stats()
        return None if counters is None else counters.get("peak_bytes_in_use")

    @property
    def _of_steps(self) -> Sharding:
        """The sharding of what has an axis of steps before that of the examples."""
        return self.batch if self.mesh is None else NamedSharding(self.mesh, PartitionSpec(None, DATA))


def one_device() -> Placement:
    """Places everything on the first device of this process."""
    here = SingleDeviceSharding(jax.local_devices()[0])
    return Placement(state=here, batch=here)


def on_mesh(devices: list[jax.Device]) -> Placement:
    """Parts batches among these devices, and gives each a copy of the state."""
    mesh = Mesh(np.array(devices), (DATA,), axis_types=(AxisType.Auto,))
    return Placement(NamedSharding(mesh, PartitionSpec()), NamedSharding(mesh, PartitionSpec(DATA)))


def placed(experiment: Experiment) -> Placement:
    """Places a run on the devices that its config asks for, the first ones of each process.

    Raises:
        UserError: there are not so many, or the batch of a phase cannot be parted among them.
    """
    here, processes = jax.local_devices(), jax.process_count()
    count = device_count(experiment.devices, len(here), alone=processes == 1)
    # In the order of the processes, each of which makes the rows of its own devices.
    every = [here] if processes == 1 else map(jax.local_devices, range(processes))
    used = [device for those in every for device in those[:count]]
    if len(used) == 1:
        return one_device()
    check_batches({name: phase.batch for name, phase in experiment.phases.items()}, len(used))
    return on_mesh(used)


def idle_sentence(placement: Placement) -> str:
    """Says how many devices of this process a run leaves idle; "" where none."""
    here = jax.local_devices()
    idle = len(here) - len(placement.state.addressable_devices)
    if idle < 1:
        return ""
    return f"{idle} of {len(here)} devices of this machine are idle; --config.devices=all parts each batch among them"


def check_batches(batches: Mapping[str, int], parts: int) -> None:
    """Refuses batches (phase -> examples) that cannot be divided evenly.

    Raises:
        UserError: names the first of them.
    """
    for name, batch in batches.items():
        if batch % parts:
            raise UserError(
                f"phase {name}: a batch of {batch} cannot be parted evenly among {parts} devices; set {name}.batch to "
                f"a multiple of {parts}, or devices to a number that divides {batch}"
            )


def _put(sharding: Sharding, leaf: Any) -> jax.Array:
    return jax.device_put(leaf, sharding)


def _spread(leaf: Any, sharding: Sharding) -> jax.Array:
    """Puts an array, of which each process has all, on the devices of all processes."""
    if isinstance(leaf, jax.Array) and not leaf.is_fully_addressable:
        return leaf
    if jnp.issubdtype(leaf.dtype, jax.dtypes.prng_key):
        return jax.random.wrap_key_data(_spread(jax.random.key_data(leaf), sharding), impl=jax.random.key_impl(leaf))
    whole = np.asarray(leaf)
    return jax.make_array_from_callback(whole.shape, sharding, lambda index: whole[index])


def device_count(asked: str, there: int, *, alone: bool = True) -> int:
    """Returns how many devices of those of a process an option means; `alone`: there is no other process.

    Raises:
        UserError: there are not so many.
    """
    if asked == AUTO:
        return 1 if alone else there
    if asked == ALL:
        return there
    if not asked.isdigit() or int(asked) < 1:
        raise UserError(f"devices is {asked!r}; choose auto, all or a number from 1 on")
    if int(asked) > there:
        raise UserError(f"devices is {asked}, and this machine has {there}; choose all, or a number up to {there}")
    return int(asked)
