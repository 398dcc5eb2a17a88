"""Batches from draws: windows of cases copied straight into the arrays of a batch, whose memory is used again."""

from __future__ import annotations

import math
from collections import deque
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from jaxfuse.data.prepared import PreparedCase
from jaxfuse.data.sampling import Draw
from jaxfuse.errors import UserError
from jaxfuse.labels import IGNORED
from jaxfuse.patches import crop_into, output_sides

_ALIGNED = 64  # bytes: on a CPU, JAX takes an array that is aligned so without a copy


class Buffers:
    """The memory of arrays: what is no longer referred to is given out again.

    The system has to clear fresh memory, which takes as long as filling it.
    """

    def __init__(self) -> None:
        self._free: dict[int, deque[np.ndarray]] = {}

    def empty(self, shape: Sequence[int], dtype: Any) -> np.ndarray:
        """Returns an array of any content. Its memory is free again once neither it nor a view of it is left."""
        dtype = np.dtype(dtype)
        size = math.prod(shape) * dtype.itemsize
        free = self._free.setdefault(size, deque())
        try:
            memory = free.pop()
        except IndexError:
            memory = np.empty(size + _ALIGNED, np.uint8)
        return np.asarray(_Lent(memory, free, tuple(shape), dtype))

    def __reduce__(self) -> tuple[type[Buffers], tuple[()]]:
        return Buffers, ()  # another process has memory of its own


class _Lent:
    """The owner of one array's memory, which lives as long as the array or a view of it."""

    def __init__(self, memory: np.ndarray, home: deque[np.ndarray], shape: tuple[int, ...], dtype: np.dtype) -> None:
        self._memory, self._home = memory, home
        address = memory.ctypes.data
        place = (address + -address % _ALIGNED, False)
        self.__array_interface__ = {"version": 3, "shape": shape, "typestr": dtype.str, "data": place}

    def __del__(self) -> None:
        self._home.append(self._memory)


@dataclass(frozen=True)
class Assembly:
    """The making of batches from the draws of their examples.

    Attributes:
        cases: those that draws count.
        patch: sides of the image.
        margin: what windows are smaller by than patches, on each side.
        label_margin: what labels are: as much, or 0.
        labels: whether there are any.
        buffers: where batches lie.
        presence: whether cases may lack modalities, which their batches tell.
        unlabeled: whether cases may lack a label; of them no voxel counts.
    """

    cases: Sequence[PreparedCase]
    patch: tuple[int, ...]
    margin: int
    label_margin: int
    labels: bool
    buffers: Buffers
    presence: bool = False
    unlabeled: bool = False

    def batch(self, draws: Sequence[Draw]) -> dict[str, np.ndarray]:
        """Returns `image` (b *patch m) float32; with labels `label` (b *sides) uint8; `presence` (b m) if it is told.

        Where a patch leaves the crop of its case there is background, 0.

        Raises:
            UserError: a case has no label where there should be some.
        """
        cases = [self.cases[draw.case] for draw in draws]
        modalities = len(cases[0].facts.modalities)
        images = self.buffers.empty((len(draws), *self.patch, modalities), np.float32)
        for image, case, draw in zip(images, cases, draws, strict=True):
            crop_into(image, case.kept_image, [first - self.margin for first in draw.start], draw.mirrored)
        found = {"image": images, **({"presence": presence_table(cases)} if self.presence else {})}
        if not self.labels:
            return found
        labels = self.buffers.empty((len(draws), *output_sides(self.patch, self.label_margin)), np.uint8)
        before = self.margin - self.label_margin
        for label, case, draw in zip(labels, cases, draws, strict=True):
            if self.unlabeled and case.label is None:
                label[...] = IGNORED  # beyond the case, too: nothing is known there either
            else:
                crop_into(label, _label_of(case), [first - before for first in draw.start], draw.mirrored)
        return {**found, "label": labels}


def presence_table(cases: Sequence[PreparedCase]) -> np.ndarray:
    """Returns which modalities each case has, (cases m) bool."""
    return np.array([case.facts.presence or (True,) * len(case.facts.modalities) for case in cases])


def _label_of(case: PreparedCase) -> np.ndarray:
    label = case.label
    if label is None:
        raise UserError(f"case {case.id} has no label, and the phase learns from labels; leave it out of the data")
    return label
