"""The devices of a run, and where states and batches lie on them.

On several devices a training is data parallel: one global batch, whose examples are parted among the devices, and one
state, of which each device has a copy. A step is the same function of both on any number of devices, so that what sums
or averages over a batch, gradients and statistics of a batch norm too, does so over all of it.

Several devices may share one example, each with a slab of it along its first axis: XLA has them exchange what a
convolution reads across a border. And they may share the state instead of copying it (`split_state`).
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax.sharding import AxisType, Mesh, NamedSharding, PartitionSpec, Sharding, SingleDeviceSharding

from jaxfuse.config import Experiment
from jaxfuse.engine.devices.split_state import split_over
from jaxfuse.engine.feed.windows import Block, Windows
from jaxfuse.errors import UserError
from jaxfuse.learning.state import State
from jaxfuse.nn.conv import implementation

# The axes of a mesh: the examples of a batch are parted along the one, each example along the other.
DATA, SPACE = "data", "space"
AUTO, ALL = "auto", "all"


@dataclass(frozen=True)
class Placement:
    """The devices that the arrays of a run lie on.

    Attributes:
        state: sharding of every array of a state that is copied.
        batch: sharding of every array of a batch, whose first axis is that of the examples, and whose second the first
            one of space.
        splits: whether parameters and optimizer states are split among the devices.
    """

    state: Sharding
    batch: Sharding
    splits: bool = False

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
    def slabs(self) -> int:
        """The number of devices that share each example."""
        return 1 if self.mesh is None else self.mesh.shape[SPACE]

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

        def put(part: Any) -> Any:
            sharding = self._of(part)
            place = jax.make_array_from_process_local_data if self.spans else _put
            return jax.tree.map(lambda leaf: leaf if isinstance(leaf, jax.Array) else place(sharding, leaf), part)

        return jax.tree.map(put, batch, is_leaf=lambda part: isinstance(part, Block | Windows))

    def keep(self, state: Any) -> Any:
        """Binds a state to the devices, as it comes out of every step: a step is compiled once for both.

        Each of several processes gives all of it.
        """
        lie = self.state_like(state)
        if not self.spans:
            return jax.device_put(state, lie)
        lie = jax.tree.map(lambda leaf: lie, state) if isinstance(lie, Sharding) else lie
        return jax.tree.map(_spread, state, lie)

    def state_like(self, state: Any) -> Any:
        """Returns the sharding of a state like this one, given it or its shapes: one for all arrays, or a tree."""
        if self.splits and self.mesh is not None and isinstance(state, State):
            return split_over(self.mesh, state)
        return self.state

    def shapes(self, state: Any, batch: Any) -> tuple[Any, Any]:
        """Returns the shapes of a state and of a batch of the host, bound to the devices as `keep` and `put` do."""

        def bound(leaf: Any, sharding: Sharding) -> jax.ShapeDtypeStruct:
            return jax.ShapeDtypeStruct(leaf.shape, leaf.dtype, sharding=sharding)

        lie = self.state_like(state)
        kept = (lambda leaf: bound(leaf, lie)) if isinstance(lie, Sharding) else bound
        trees = (state,) if isinstance(lie, Sharding) else (state, lie)
        return jax.tree.map(kept, *trees), jax.tree.map(lambda leaf: bound(leaf, self.batch), batch)

    def local(self, tree: Any) -> Any:
        """Returns the arrays of a state on the first device of this process, for what devices do each by itself.

        Where they are split, all processes have to call it.
        """
        if self.mesh is None:
            return tree
        return jax.tree.map(lambda leaf: leaf.addressable_data(0), self.whole(tree))

    def whole(self, tree: Any) -> Any:
        """Returns a state of which every device has all. Where it is split, all processes have to call it."""
        return jax.device_put(tree, self.state) if self.splits else tree

    @contextmanager
    def tracing(self) -> Iterator[None]:
        """Within the block, what is traced takes forms that can be divided as examples are."""
        if self.slabs == 1:
            yield
            return
        with implementation("partitioned"):
            yield

    def shared(self, batch: Any) -> Any:
        """Divides, within a traced function, the arrays of a batch as those are that come from the host."""
        return batch if self.slabs == 1 else jax.lax.with_sharding_constraint(batch, self.batch)

    def copied(self, tree: Any) -> Any:
        """Gathers, within a traced function, what is made of shared examples."""
        return tree if self.slabs == 1 else jax.lax.with_sharding_constraint(tree, self.state)

    def gathered(self, state: Any) -> Any:
        """Gathers, within a traced function, the parameters of a state that is split, for every device to compute."""
        if not self.splits:
            return state
        return state.replace(params=jax.lax.with_sharding_constraint(state.params, self.state))

    def split(self, state: Any) -> Any:
        """Splits, within a traced function, the state that it returns, as the given one was."""
        return jax.lax.with_sharding_constraint(state, self.state_like(state)) if self.splits else state

    def of_one_example(self) -> Placement:
        """Returns the devices that share one example, the first ones, each with all of a state."""
        if self.mesh is None or self.slabs == 1:
            return on_one(self.first)
        return on_mesh(self.mesh.devices[0].tolist(), space=self.slabs)

    def memory_bytes(self) -> int | None:
        """Memory of the first device that programs may take; None where the backend does not count it (CPU)."""
        counters = self.first.memory_stats()
        return None if counters is None else counters.get("bytes_limit")

    def peak_bytes(self) -> int | None:
        """Peak memory of the first device since the process began; None where the backend does not count it (CPU)."""
        counters = self.first.memory_stats()
        return None if counters is None else counters.get("peak_bytes_in_use")

    def _of(self, part: Any) -> Sharding:
        """The sharding of a part of a batch. Places of windows have no axis of space, those of a block one of steps."""
        if self.mesh is None or not isinstance(part, Block | Windows):
            return self.batch
        return NamedSharding(self.mesh, PartitionSpec(*(None,) * isinstance(part, Block), DATA))


def one_device() -> Placement:
    """Places everything on the first device of this process."""
    return on_one(jax.local_devices()[0])


def on_one(device: jax.Device) -> Placement:
    """Places everything on one device."""
    here = SingleDeviceSharding(device)
    return Placement(state=here, batch=here)


def on_mesh(devices: Sequence[jax.Device], *, space: int = 1, splits: bool = False) -> Placement:
    """Parts batches among these devices.

    Args:
        space: how many of them share one example.
        splits: whether they share the parameters and optimizer states, too; else each has a copy.
    """
    mesh = Mesh(np.array(devices).reshape(-1, space), (DATA, SPACE), axis_types=(AxisType.Auto,) * 2)
    examples = PartitionSpec(DATA) if space == 1 else PartitionSpec(DATA, SPACE)
    return Placement(NamedSharding(mesh, PartitionSpec()), NamedSharding(mesh, examples), splits)


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
    return among(experiment, used, each=count)


def among(experiment: Experiment, used: Sequence[jax.Device], *, each: int) -> Placement:
    """Places a run on these devices, of which `each` process has as many.

    Raises:
        UserError: the batch of a phase cannot be parted among them, or they cannot share what they are to share.
    """
    check_sharing(each, experiment.space, alone=len(used) == 1, shard_state=experiment.shard_state)
    if len(used) == 1:
        return on_one(used[0])
    batches = {name: phase.batch for name, phase in experiment.phases.items()}
    check_batches(batches, len(used) // experiment.space)
    return on_mesh(used, space=experiment.space, splits=experiment.shard_state)


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


def check_sharing(count: int, space: int, *, alone: bool, shard_state: bool) -> None:
    """Refuses options that so many devices of each process cannot serve.

    Args:
        alone: whether there is no other device in any process.

    Raises:
        UserError: several devices are to share an example or the state, and there is one, or they do not divide.
    """
    if count % space:
        raise UserError(
            f"space is {space}, but the devices are {count}, which cannot be parted into groups of {space} that share "
            f"an example; set devices to a multiple of {space}, or space to 1"
        )
    if shard_state and alone:
        raise UserError(
            "shard_state is True, but there is one device only; set devices to all, or shard_state to False"
        )


def check_sides(phase: str, patch: Sequence[int], margin: int, space: int) -> None:
    """Refuses patches that cannot be divided among devices that share an example.

    Raises:
        UserError: they are pictures, or the first side, of the image or of its label, does not divide.
    """
    if space == 1:
        return
    if len(patch) != 3:
        raise UserError(
            f"phase {phase}: space is {space}, but a network of pictures learns from examples that fit one device; set "
            "space to 1"
        )
    for side in {patch[0], patch[0] - 2 * margin}:
        if side % space:
            lost = f", {side} voxels without the margin of its network," if margin else ""
            raise UserError(
                f"phase {phase}: a patch of {' x '.join(map(str, patch))}{lost} cannot be divided evenly among {space} "
                f"devices along its first axis; choose another {phase}.patch, or another space"
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
