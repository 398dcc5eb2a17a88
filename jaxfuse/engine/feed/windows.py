"""Batches of data that lie on the device: which windows of which cases, cut where the step needs them.

The host draws; the step cuts, so that a batch takes a few integers from host to device. What is cut equals, bit by bit,
what `jaxfuse.data.assembly` makes on the host.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax import lax
from jax.experimental.layout import Layout, with_layout_constraint
from jax.sharding import PartitionSpec

from jaxfuse.arrays import mesh_of
from jaxfuse.data.sampling import Draw


@jax.tree_util.register_dataclass
@dataclass(frozen=True)
class Places:
    """The windows of a batch; of the batches of several steps, with a leading axis of steps.

    Attributes:
        case: (b), int32.
        start: (b axes), int32, first voxel of the patch in the arrays of `Windows`.
        mirrored: (b axes), whether the patch is mirrored along an axis; None where none ever is.
    """

    case: Any
    start: Any
    mirrored: Any


@jax.tree_util.register_dataclass
@dataclass(frozen=True)
class Windows:
    """A batch as places in data on the device.

    Attributes:
        images: (cases *sides m), with background around each case wherever a patch may reach, in the cache's precision.
        labels: (cases *sides), or None.
        presence: (cases m), the modalities that each case has; None where all have all.
        patch: sides of the image.
        margin: what a label is smaller by than its image, on each side.
    """

    images: Any
    labels: Any
    places: Places
    patch: tuple[int, ...] = field(metadata={"static": True})
    margin: int = field(metadata={"static": True})
    presence: Any = None

    def batch(self) -> dict[str, jax.Array]:
        """Cuts `image` (b *patch m) float32 and, with labels, `label` (b *window); tells `presence` (b m) where known.

        On several devices each cuts the examples whose places it has, by itself.
        """
        lost = self.margin
        window = tuple(side - 2 * lost for side in self.patch)

        def cut(images: Any, labels: Any, presence: Any, places: Places) -> dict[str, Any]:
            def one(case: Any, start: Any, mirrored: Any) -> dict[str, Any]:
                found = {"image": _mirrored(_crop(images, case, start, self.patch), mirrored).astype(jnp.float32)}
                if labels is not None:
                    found["label"] = _mirrored(_crop(labels, case, start + lost, window), mirrored)
                return found if presence is None else {**found, "presence": presence[case]}

            # A convolution that would have its input in another order must not have all of the data set put into it.
            return jax.tree.map(_in_order, jax.vmap(one)(places.case, places.start, places.mirrored))

        if (mesh := mesh_of(self.places.case)) is not None:
            # Parted by the compiler, the order of an array would be that of the whole batch, on every device.
            whole, parted = PartitionSpec(), PartitionSpec(mesh.axis_names[0])
            lie = {"in_specs": (whole, whole, whole, parted), "out_specs": parted, "check_vma": False}
            return jax.shard_map(cut, mesh=mesh, **lie)(self.images, self.labels, self.presence, self.places)
        return cut(self.images, self.labels, self.presence, self.places)


def _in_order(array: Any) -> Any:
    return with_layout_constraint(array, Layout(major_to_minor=tuple(range(array.ndim))))


def _crop(array: Any, case: Any, start: Any, sides: Sequence[int]) -> Any:
    more = array.ndim - 1 - len(sides)  # the axis of modalities, which labels have not
    starts = (case, *start, *(np.int32(0) for _ in range(more)))
    return lax.dynamic_slice(array, starts, (1, *sides, *array.shape[array.ndim - more :]))[0]


def _mirrored(piece: Any, axes: Any) -> Any:
    if axes is not None:
        for axis in range(axes.shape[0]):
            piece = jnp.where(axes[axis], jnp.flip(piece, axis), piece)
    return piece


def places_of(draws: Sequence[Draw], shift: Sequence[int], *, mirrors: bool) -> Places:
    """Returns the places of draws.

    Args:
        shift: from the first voxel of a window in its case to that of its patch in `Windows.images`.
        mirrors: whether any draw of the training may be mirrored.
    """
    start = np.array([draw.start for draw in draws], np.int32) + np.asarray(shift, np.int32)
    mirrored = np.zeros(start.shape, bool)
    for row, draw in zip(mirrored, draws, strict=True):
        row[list(draw.mirrored)] = True
    return Places(np.array([draw.case for draw in draws], np.int32), start, mirrored if mirrors else None)


@jax.tree_util.register_dataclass
@dataclass(frozen=True)
class Block:
    """The batches of several steps that one call carries out.

    Attributes:
        batch: a batch whose `Windows` have places with a leading axis of steps.
    """

    batch: Any

    def scan(self, step: Any, state: Any) -> tuple[Any, Any]:
        """Carries out `step` (state, batch) -> (state, output) on one batch after another; stacks the outputs."""
        windows, tree = jax.tree.flatten(self.batch, is_leaf=_is_windows)

        def one(state: Any, places: list[Places]) -> tuple[Any, Any]:
            here = [replace(window, places=place) for window, place in zip(windows, places, strict=True)]
            return step(state, tree.unflatten(here))

        return lax.scan(one, state, [window.places for window in windows])


def block_of(batches: Sequence[Any]) -> Block:
    """Joins batches of `Windows` on the same data, whose places are still on the host."""

    def joined(*windows: Windows) -> Windows:
        places = jax.tree.map(lambda *leaves: np.stack(leaves), *(window.places for window in windows))
        return replace(windows[0], places=places)

    return Block(jax.tree.map(joined, *batches, is_leaf=_is_windows))


def cut_all(batch: Any) -> Any:
    """Returns a batch with all its `Windows` cut."""
    return jax.tree.map(lambda leaf: leaf.batch() if _is_windows(leaf) else leaf, batch, is_leaf=_is_windows)


def _is_windows(node: Any) -> bool:
    return isinstance(node, Windows)
