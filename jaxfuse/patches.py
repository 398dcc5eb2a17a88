"""Patch geometry in NumPy, shared by the sampler of the training data and the tiler of whole volumes."""

from __future__ import annotations

import itertools
import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import numpy as np

from jaxfuse.errors import UserError


def check_patch(patch: Sequence[int], *, ndim: int, divisor: int) -> tuple[int, ...]:
    """The patch as a tuple; refuses another number of axes and sides that are no multiple of `divisor`."""
    sides = tuple(int(side) for side in patch)
    if len(sides) != ndim or any(side <= 0 or side % divisor for side in sides):
        raise UserError(f"patch is {sides}; the network needs {ndim} sides, each a positive multiple of {divisor}")
    return sides


def window_around(center: Sequence[int], patch: Sequence[int], shape: Sequence[int]) -> tuple[int, ...]:
    """The start of the window centered on a voxel, shifted to stay inside the volume.

    Along an axis where the volume is shorter than the patch, the window is shifted to contain the whole volume
    (its start is then negative or zero).
    """
    starts = []
    for middle, side, length in zip(center, patch, shape, strict=True):
        low, high = sorted((0, length - side))
        starts.append(min(max(int(middle) - side // 2, low), high))
    return tuple(starts)


def crop(array: np.ndarray, start: Sequence[int], patch: Sequence[int]) -> np.ndarray:
    """A copy of the window of the leading axes that begins at `start`; zeros where it leaves the array."""
    space = len(start)
    inside = tuple(
        slice(max(s, 0), min(s + side, length)) for s, side, length in zip(start, patch, array.shape, strict=False)
    )
    piece = array[inside]
    if piece.shape[:space] == tuple(patch):
        return np.array(piece)
    out = np.zeros((*patch, *array.shape[space:]), array.dtype)
    place = tuple(slice(box.start - s, box.stop - s) for box, s in zip(inside, start, strict=True))
    out[place] = piece
    return out


@dataclass(frozen=True)
class Tiling:
    """Windows of one size that cover a volume; the first and the last touch its faces.

    Attributes:
        shape: the volume's sides.
        tile: the window's sides; an axis shorter than its tile has one window, which overhangs at the end.
        starts: the first voxel of each window along each axis.
    """

    shape: tuple[int, ...]
    tile: tuple[int, ...]
    starts: tuple[tuple[int, ...], ...]

    def __len__(self) -> int:
        return math.prod(len(axis) for axis in self.starts)

    def __iter__(self) -> Iterator[tuple[int, ...]]:
        return itertools.product(*self.starts)


def tile_volume(shape: Sequence[int], tile: Sequence[int], *, overlap: float = 0.0) -> Tiling:
    """The fewest evenly spread windows whose neighbors share at least the fraction `overlap` of a side.

    At overlap 0 a side of 240 with tiles of 128 starts at 0 and 112, a side of 155 at 0 and 27.
    """
    if not 0.0 <= overlap < 1.0:
        raise UserError(f"overlap is {overlap}; it must lie in [0, 1)")
    starts = []
    for length, side in zip(shape, tile, strict=True):
        room = length - side
        # Whole voxels, so that rounding the starts cannot pull two neighbors further apart than asked.
        stride = max(1, math.floor(side * (1.0 - overlap) + 1e-9))
        count = 1 + math.ceil(max(0, room) / stride)
        starts.append(tuple(round(i * room / (count - 1)) for i in range(count)) if count > 1 else (0,))
    return Tiling(tuple(shape), tuple(tile), tuple(starts))
