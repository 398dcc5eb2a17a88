"""A data set that lies on the device whole, where it fits, and the stream of batches that are cut from it there."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import jax.numpy as jnp
import numpy as np

from jaxfuse.data.assembly import presence_table
from jaxfuse.data.dataset import Report
from jaxfuse.data.pipeline import ALL_ROWS, PatchSampler, Share, draws
from jaxfuse.data.sampling import Draw
from jaxfuse.engine.devices.placement import Placement
from jaxfuse.engine.feed.windows import Windows, places_of
from jaxfuse.engine.loop import close_stream
from jaxfuse.engine.programs import stored
from jaxfuse.errors import UserError
from jaxfuse.labels import IGNORED
from jaxfuse.patches import crop_into, output_sides

AUTO, ON, OFF = "auto", "on", "off"
# Of the memory that programs may take on a device; the rest is for states and steps.
MOST_SHARE = 0.4
# Copied to the device at a time.
_CHUNK_BYTES = 1 << 28


@dataclass(frozen=True)
class Room:
    """The sides that all cases of a sampler have in memory, with background wherever one of its patches may reach.

    Attributes:
        border: voxels before a case along each axis.
        sides: of a case with its borders.
    """

    border: tuple[int, ...]
    sides: tuple[int, ...]

    def bytes_of(self, sampler: PatchSampler) -> int:
        """Returns the memory that the cases of a sampler take, images in the cache's precision and labels as bytes."""
        image = sampler.cases[0].kept_image
        return len(sampler.cases) * math.prod(self.sides) * (image.itemsize * image.shape[-1] + sampler.labels)


def room_for(sampler: PatchSampler) -> Room:
    """Returns the room for a sampler's cases, whose windows lie in a case, or hold all of it where it is smaller."""
    border, sides = [], []
    for axis, side in enumerate(output_sides(sampler.patch, sampler.margin)):
        lengths = [case.facts.shape[axis] for case in sampler.cases]
        before = sampler.margin + max(0, side - min(lengths))
        border.append(before)
        sides.append(before + max(side, *lengths) + sampler.margin)
    return Room(tuple(border), tuple(sides))


@dataclass(frozen=True)
class Resident:
    """The cases of a sampler on the device, and the streams of batches from them.

    Attributes:
        images, labels, presence: as in `Windows`.
    """

    sampler: PatchSampler
    room: Room
    images: Any
    labels: Any
    presence: Any = None

    def stream(self, start: int, *, batch: int, seed: int, stop: int, share: Share = ALL_ROWS) -> Iterator[Any]:
        """Yields the batches of `jaxfuse.data.pipeline.batches` from step `start` to `stop` - 1 as `Windows`."""
        stream = draws(self.sampler, batch=batch, seed=seed, start=start, stop=stop, share=share)
        try:
            for drawn in stream:
                if self.sampler.unpaired:
                    yield {side: self._windows([one[side] for one in drawn]) for side in ("a", "b")}
                else:
                    yield self._windows(drawn)
        finally:
            close_stream(stream)

    def _windows(self, drawn: Sequence[Draw]) -> Windows:
        sampler = self.sampler
        shift = [border - sampler.margin for border in self.room.border]
        places = places_of(drawn, shift, mirrors=bool(sampler.flip))
        return Windows(self.images, self.labels, places, sampler.patch, sampler.label_margin, self.presence)


def put_cases(sampler: PatchSampler, placement: Placement, report: Report) -> Resident:
    """Puts the cases of a sampler on the device, some at a time, and reports how many are there."""
    room, count = room_for(sampler), len(sampler.cases)
    like = sampler.cases[0].kept_image
    images = placement.keep(jnp.zeros((count, *room.sides, like.shape[-1]), like.dtype))
    labels = placement.keep(jnp.zeros((count, *room.sides), jnp.uint8)) if sampler.labels else None
    at_once = max(1, min(count, _CHUNK_BYTES // (like.itemsize * like.shape[-1] * math.prod(room.sides))))
    for first in range(0, count, at_once):
        first = min(first, count - at_once)  # the last ones some again: one program for all
        some = sampler.cases[first : first + at_once]
        images = stored(images, _filled(images, [case.kept_image for case in some], room), first)
        if labels is not None:
            labels = stored(labels, _filled(labels, [case.label for case in some], room), first)
        report("putting cases on the device", first + len(some), count)
    presence = placement.keep(jnp.array(presence_table(sampler.cases))) if sampler.incomplete else None
    return Resident(sampler, room, images, labels, presence)


def _filled(like: Any, arrays: Sequence[Any], room: Room) -> np.ndarray:
    """Returns arrays of cases in their room, of the type of the array on the device."""
    made = np.empty((len(arrays), *like.shape[1:]), like.dtype)
    for number, array in enumerate(arrays):
        if array is None:
            made[number] = IGNORED  # a case without a label, of which no voxel counts
        else:
            crop_into(made[number, ...], array, [-before for before in room.border])
    return made


def resident(
    samplers: Sequence[PatchSampler], asked: str, placement: Placement, say: Callable[[str], None], report: Report
) -> list[Resident]:
    """Puts the cases of the phases of a training on the device, where that is asked for and possible; else none.

    `auto` puts them there on accelerators; the memory of a CPU is the host's.

    Raises:
        UserError: `on`, and they do not fit.
    """
    if asked == OFF or (asked == AUTO and placement.backend == "cpu"):
        return []
    needed = sum(room_for(sampler).bytes_of(sampler) for sampler in samplers)
    if reason := _against(needed, placement.memory_bytes()):
        if asked == ON:
            raise UserError(f"loader.on_device is on, but {reason}; set it to auto or off")
        say(f"Batches come from the host: {reason}")
        return []
    found = [put_cases(sampler, placement, report) for sampler in samplers]
    say(f"The training cases lie on the device: {needed / 1e9:.2f} GB, from which batches are cut there")
    return found


def _against(needed: int, memory: int | None) -> str:
    """Returns why cases cannot lie on a device; "" where they can."""
    if memory is not None and needed > MOST_SHARE * memory:
        return (
            f"the training cases take {needed / 1e9:.1f} GB, more than {MOST_SHARE:.0%} of the {memory / 1e9:.1f} GB "
            "of the device"
        )
    return ""
