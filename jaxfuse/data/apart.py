"""The voxels of an image that differ from one value: how many they are, and how far from it."""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np
from jaxtyping import Bool, Int, Integer, Shaped

Image = Shaped[np.ndarray, "*space"]
_AT_ONCE = 1 << 18


@dataclass(frozen=True)
class Apart:
    """The voxels of an image that are not exactly of a value.

    Attributes:
        voxels: of the image.
        distances: from the value, in floating point; of small integers each different one once, ascending.
        counts: how many voxels have each of these distances; None: one each.
    """

    voxels: int
    distances: Shaped[np.ndarray, " n"]
    counts: Int[np.ndarray, " n"] | None = None

    @property
    def exact(self) -> int:
        """How many voxels have exactly the value."""
        return self.voxels - self._many

    def near(self, reach: float) -> int:
        """Counts the voxels at most so far from the value, those of the value itself among them."""
        far = self.distances > reach
        return self.voxels - int(np.count_nonzero(far) if self.counts is None else self.counts[far].sum())

    def percentile(self, percent: float) -> float:
        """Returns the percentile of the distances, as NumPy interpolates it; 0 where there are none."""
        if not self._many:
            return 0.0
        if self.counts is None:
            return float(np.percentile(self.distances, percent))
        place = percent / 100 * (self._many - 1)
        before = math.floor(place)
        ends = np.searchsorted(np.cumsum(self.counts), [before, min(before + 1, self._many - 1)], "right")
        low, high = self.distances[ends]
        share = place - before
        return float(low + (high - low) * share if share < 0.5 else high - (high - low) * (1 - share))

    @property
    def _many(self) -> int:
        return self.distances.size if self.counts is None else int(self.counts.sum())


def apart_from(image: Image, value: float) -> Apart:
    """Finds the voxels that differ from a value; those of small integers are counted, which is quicker than sorting."""
    others = image[differs(image, value)]
    if not others.size or others.dtype.kind not in "iu" or others.dtype.itemsize > 2:
        return Apart(image.size, distances_from(others, value))
    low = min(int(others.min()), 0)
    held = _counts(others, low)
    present = np.flatnonzero(held)
    distances = distances_from(present + low, value)
    order = np.argsort(distances, kind="stable")
    return Apart(image.size, distances[order], held[present][order])


def _counts(values: Integer[np.ndarray, " n"], low: int) -> Int[np.ndarray, " levels"]:
    """Counts small integers from `low` up; NumPy makes 8 bytes of each, so that it gets some at a time."""
    held = np.zeros(int(values.max()) - low + 1, np.intp)
    for first in range(0, values.size, _AT_ONCE):
        held += np.bincount(values[first : first + _AT_ONCE] - np.intp(low), minlength=held.size)
    return held


def distances_from(image: Image, value: float) -> Image:
    """Returns distances from a value, in floating point."""
    kind = image.dtype if image.dtype.kind == "f" else np.dtype(np.float32)
    return np.abs(image.astype(kind, copy=False) - kind.type(value))


def beyond(image: Image, value: float, reach: float) -> Bool[np.ndarray, "*space"]:
    """Marks what differs from a value by more than `reach`; whole numbers are compared as such, which is quicker."""
    if image.dtype.kind not in "iu":
        return distances_from(image, value) > reach
    # Distances are compared in single precision.
    reach = float(np.float32(reach))
    return (image < math.ceil(value - reach)) | (image > math.floor(value + reach))


def differs(image: Image, value: float) -> Bool[np.ndarray, "*space"]:
    """Marks what is not exactly of a value."""
    return image != (int(value) if image.dtype.kind in "iu" and float(value).is_integer() else value)
