"""Patch geometry in NumPy, shared by the sampler of the training data and the tiler of whole volumes."""

from __future__ import annotations

import itertools
import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import numpy as np

from jaxfuse.errors import UserError


def check_patch(patch: Sequence[int], *, ndim: int, divisor: int, margin: int = 0, judged: int = 0) -> tuple[int, ...]:
    """Returns the sides of a patch, a network's input, once they fit the network.

    Raises:
        UserError: another number of axes than `ndim`, a side that is no positive multiple of `divisor`, one of which
            valid convolutions, which take `margin` voxels on both sides, leave nothing, or one shorter than `judged`,
            below which critics of overlapping patches give a single score.
    """
    sides = tuple(int(side) for side in patch)
    if len(sides) != ndim or any(side <= 0 or side % divisor for side in sides):
        raise UserError(f"patch is {sides}; the network needs {ndim} sides, each a positive multiple of {divisor}")
    if min(sides) <= 2 * margin:
        raise UserError(
            f"patch is {sides}; the network's valid convolutions take {margin} voxels on both sides of each axis, so "
            f"that each side must be larger than {2 * margin}"
        )
    if min(sides) < judged:
        raise UserError(
            f"patch is {sides}; its critics halve it so often that they give one score along an axis, and judge "
            f"no patches of it: choose sides of at least {judged}, or fewer critic_layers"
        )
    return sides


def output_sides(patch: Sequence[int], margin: int) -> tuple[int, ...]:
    """Returns the sides of the output for a patch that loses `margin` voxels on both sides of each axis."""
    return tuple(side - 2 * margin for side in patch)


def window_around(center: Sequence[int], patch: Sequence[int], shape: Sequence[int]) -> tuple[int, ...]:
    """Returns the start of the window centered on a voxel, shifted to stay inside the volume.

    Along an axis where the volume is shorter than the patch, the window is shifted to contain the whole volume
    (its start is then negative or zero).
    """
    starts = []
    for middle, side, length in zip(center, patch, shape, strict=True):
        low, high = sorted((0, length - side))
        starts.append(min(max(int(middle) - side // 2, low), high))
    return tuple(starts)


def grid_starts(length: int, side: int, step: int) -> tuple[int, ...]:
    """Returns the starts of the windows along one axis, `step` voxels apart; the last one touches the far face.

    No voxel is left out where `step` is at most `side`. An axis not longer than its window has one window, which is
    centered on it.
    """
    if length <= side:
        return window_around((length // 2,), (side,), (length,))
    return (*range(0, length - side, step), length - side)


def crop(array: np.ndarray, start: Sequence[int], patch: Sequence[int]) -> np.ndarray:
    """Copies the window of the leading axes that begins at `start`; zeros where it leaves the array."""
    out = np.empty((*patch, *array.shape[len(start) :]), array.dtype)
    crop_into(out, array, start)
    return out


def crop_into(out: np.ndarray, array: np.ndarray, start: Sequence[int], mirrored: Sequence[int] = ()) -> None:
    """Fills `out` with the window of an array's leading axes that begins at `start`, mirrored along some of them.

    Zeros stand where the window leaves the array. Each voxel is copied once, and its type becomes that of `out`.
    """
    alike = array.dtype == out.dtype
    if mirrored and not alike:
        # Another type is copied as quickly as it can be, and mirrored then.
        wide = np.empty(out.shape, out.dtype)
        crop_into(wide, array, start)
        array, start, mirrored, alike = np.flip(wide, tuple(mirrored)), [0] * len(start), (), True
    if alike and array.ndim > len(start) and _adjacent(out) and _adjacent(array):
        # All channels as one item: NumPy copies mirrored axes several times faster so.
        voxel = f"V{array.itemsize * array.shape[-1]}"
        out, array = out.view(voxel)[..., 0], array.view(voxel)[..., 0]
    out = np.flip(out, tuple(mirrored))
    first = [max(s, 0) for s in start]
    last = [min(s + side, length) for s, side, length in zip(start, out.shape, array.shape, strict=False)]
    place = tuple(slice(low - s, high - s) for low, high, s in zip(first, last, start, strict=True))
    piece = out[place]
    if piece.size < out.size:
        out[...] = np.zeros((), out.dtype)
    piece[...] = array[tuple(map(slice, first, last))]


def _adjacent(array: np.ndarray) -> bool:
    """Tells whether the channels of a voxel, the last axis, lie side by side in memory."""
    return array.strides[-1] == array.itemsize


@dataclass(frozen=True)
class Tiling:
    """Windows of one size that cover a volume: each is where one output of the network lies.

    Attributes:
        shape: the volume's sides.
        tile: the window's sides.
        starts: the first voxel of each window along each axis; a window may overhang the volume.
        margin: voxels that the network's input reaches beyond its output, on both sides, per axis.
    """

    shape: tuple[int, ...]
    tile: tuple[int, ...]
    starts: tuple[tuple[int, ...], ...]
    margin: tuple[int, ...]

    def __len__(self) -> int:
        return math.prod(len(axis) for axis in self.starts)

    def __iter__(self) -> Iterator[tuple[int, ...]]:
        return itertools.product(*self.starts)

    @property
    def input_tile(self) -> tuple[int, ...]:
        """The sides of the input of the network for one window."""
        return tuple(side + 2 * lost for side, lost in zip(self.tile, self.margin, strict=True))

    def input_start(self, start: Sequence[int]) -> tuple[int, ...]:
        """Returns the first voxel of the input for the window that begins at `start`; may be negative."""
        return tuple(first - lost for first, lost in zip(start, self.margin, strict=True))


def tile_volume(
    shape: Sequence[int],
    tile: Sequence[int],
    *,
    overlap: float = 0.0,
    margin: Sequence[int] | None = None,
    centered: bool = False,
) -> Tiling:
    """Covers a volume by the fewest windows whose neighbors share at least the fraction `overlap` of a side.

    `tile` are the sides of the network's output, `margin` what its input has more on both sides of each axis (none
    if not given). Windows are spread evenly between the faces: at overlap 0 a side of 240 with tiles of 128 starts
    at 0 and 112, a side of 155 at 0 and 27. Along an axis with a margin nothing depends on where a window lies, so
    at overlap 0 the windows lie side by side there, each voxel in one, and the last may overhang the far face. An
    axis shorter than its window has one, which overhangs at the end, or on both sides if `centered`.
    """
    if not 0.0 <= overlap < 1.0:
        raise UserError(f"overlap is {overlap}; it must lie in [0, 1)")
    lost = (0,) * len(tile) if margin is None else tuple(margin)
    starts = []
    for length, side, beyond in zip(shape, tile, lost, strict=True):
        if centered and length < side:
            starts.append(grid_starts(length, side, 1))
        elif beyond and not overlap:
            starts.append(tuple(range(0, length, side)))
        else:
            starts.append(_spread_starts(length, side, overlap))
    return Tiling(tuple(shape), tuple(tile), tuple(starts), lost)


def _spread_starts(length: int, side: int, overlap: float) -> tuple[int, ...]:
    room = length - side
    # Whole voxels, so that rounding the starts cannot pull two neighbors further apart than asked.
    stride = max(1, math.floor(side * (1.0 - overlap) + 1e-9))
    count = 1 + math.ceil(max(0, room) / stride)
    return tuple(round(i * room / (count - 1)) for i in range(count)) if count > 1 else (0,)
