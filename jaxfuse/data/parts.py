"""Connected parts of a mask, by the runs of its voxels along the last axis.

A brain of 1.4 M voxels has some 20,000 runs. Joining those takes a tenth of the time that numbering voxels does.
"""

from __future__ import annotations

import itertools
from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np
from jaxtyping import Bool, Int
from scipy import sparse
from scipy.sparse import csgraph

Mask = Bool[np.ndarray, "*space"]


@dataclass(frozen=True)
class Parts:
    """The connected parts of a mask.

    Attributes:
        shape: of the mask.
        line, start, stop: of each run of voxels, its line among those along the last axis, its first voxel in it, and
            one past its last.
        part: the part that a run belongs to, from 0.
        count: how many parts there are.
    """

    shape: tuple[int, ...]
    line: Int[np.ndarray, " runs"]
    start: Int[np.ndarray, " runs"]
    stop: Int[np.ndarray, " runs"]
    part: Int[np.ndarray, " runs"]
    count: int

    def sizes(self) -> Int[np.ndarray, " parts"]:
        """Counts the voxels of each part."""
        return np.bincount(self.part, self.stop - self.start, self.count).astype(np.int64)

    def at_faces(self) -> Bool[np.ndarray, " parts"]:
        """Tells of each part whether it reaches the first or last voxel along an axis."""
        outer = (self.start == 0) | (self.stop == self.shape[-1])
        for place, length in zip(self._places(), self.shape[:-1], strict=True):
            outer |= (place == 0) | (place == length - 1)
        found = np.zeros(self.count, bool)
        found[self.part[outer]] = True
        return found

    def mask_of(self, chosen: Bool[np.ndarray, " parts"]) -> Mask:
        """Marks the voxels of the chosen parts."""
        kept = chosen[self.part]
        length = self.shape[-1]
        # A run adds 1 at its first voxel and takes it away behind its last.
        steps = np.zeros((*self.shape[:-1], length + 1), np.int8)
        flat = steps.reshape(-1)
        flat[self.line[kept] * (length + 1) + self.start[kept]] = 1
        flat[self.line[kept] * (length + 1) + self.stop[kept]] = -1
        return np.cumsum(steps, axis=-1, dtype=np.int8)[..., :-1].view(bool)

    def _places(self) -> tuple[Int[np.ndarray, " runs"], ...]:
        return np.unravel_index(self.line, self.shape[:-1]) if len(self.shape) > 1 else ()


def parts_of(mask: Mask, *, corners: bool) -> Parts:
    """Finds the connected parts of a mask; with `corners` voxels that touch at a corner are of one, else at a side."""
    lines = np.ascontiguousarray(mask).reshape(-1, mask.shape[-1])
    edges = np.zeros((len(lines), lines.shape[1] + 1), bool)
    edges[:, 0], edges[:, -1] = lines[:, 0], lines[:, -1]
    np.not_equal(lines[:, 1:], lines[:, :-1], out=edges[:, 1:-1])
    # Within a line, runs begin and end in turns.
    line, place = np.divmod(np.flatnonzero(edges), edges.shape[1])
    line, start, stop = line[::2], place[::2], place[1::2]
    pairs = [np.zeros((0, 2), np.int64), *_touching(mask.shape, line, start, stop, corners)]
    one, other = np.concatenate(pairs).T
    joined = sparse.coo_array((np.ones(len(one), bool), (one, other)), (len(line), len(line)))
    count, part = csgraph.connected_components(joined, directed=False)
    return Parts(tuple(mask.shape), line, start, stop, part, int(count))


def _touching(
    shape: tuple[int, ...],
    line: Int[np.ndarray, " runs"],
    start: Int[np.ndarray, " runs"],
    stop: Int[np.ndarray, " runs"],
    corners: bool,
) -> Iterator[Int[np.ndarray, "pairs 2"]]:
    """Yields pairs of runs that touch, for each direction from a line to a neighbor."""
    around, width = shape[:-1], shape[-1] + 3
    places = np.unravel_index(line, around) if around else ()
    firsts, lasts = line * width + start, line * width + stop
    reach = 1 if corners else 0
    for shift in itertools.product((-1, 0, 1), repeat=len(around)):
        if shift <= (0,) * len(around) or (not corners and np.abs(shift).sum() > 1):
            continue  # each pair of lines once
        there = [place + step for place, step in zip(places, shift, strict=True)]
        held = np.logical_and.reduce([(at >= 0) & (at < n) for at, n in zip(there, around, strict=True)])
        runs = np.flatnonzero(held)
        base = np.ravel_multi_index([at[runs] for at in there], around) * width
        # Of the runs there, those that end behind this one's beginning and begin before its end.
        low = np.searchsorted(lasts, base + start[runs] - reach, "right")
        high = np.searchsorted(firsts, base + stop[runs] + reach, "left")
        many = np.maximum(high - low, 0)
        begin = np.repeat(np.cumsum(many) - many, many)
        others = np.repeat(low, many) + np.arange(many.sum()) - begin
        yield np.stack([np.repeat(runs, many), others], axis=1)
