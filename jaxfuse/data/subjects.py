"""Subjects: one row of a results table stands for a whole subject, even if the network saw single slices.

A network of slices is trained on pictures, but papers score the heads that these were cut from: InfiNet and the 2D rows
of HyperFusionNet print Dice per subject, mean and standard deviation over subjects, and distances in three dimensions.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import final

import numpy as np
from jaxtyping import Int, Shaped, UInt8

from jaxfuse.data.entries import read_prepared
from jaxfuse.data.facts import CaseFacts
from jaxfuse.data.prepared import Beyond, PreparedCase, PreparedSlice
from jaxfuse.data.preprocess import flat_indices
from jaxfuse.data.slices import pictures, turned_back, volume_facts, volume_of


@final
@dataclass(frozen=True)
class SlicedVolume(PreparedCase):
    """The volume that a stack of slices in the cache was cut from, whole and in canonical axes: image (d h w m).

    Slices that became no case, because they show too little, are part of it: their truth counts, and a network is
    asked for them as it is for a new volume.

    Attributes:
        axis: array axis of the volume that the stack was cut across.
    """

    axis: int

    @property
    def kept_image(self) -> Shaped[np.ndarray, "d h w m"]:
        return volume_of(self.stored("image"), self.axis)

    @property
    def label(self) -> UInt8[np.ndarray, "d h w"] | None:
        return volume_of(self.stored("label"), self.axis) if self.labeled else None

    @property
    def tumor(self) -> Int[np.ndarray, " n"]:
        return self._turned("tumor")

    @property
    def brain(self) -> Int[np.ndarray, " n"]:
        return self._turned("brain")

    @property
    def beyond(self) -> Beyond:
        stack = np.array(self.stored("beyond"))
        stack[:, 0] += self.facts.crop_start[self.axis]
        return turned_back(stack, self.facts.original_shape, self.axis)

    def _turned(self, name: str) -> Int[np.ndarray, " n"]:
        """Flat indices into the stack as ascending flat indices into the volume."""
        volume = np.zeros(self.facts.shape, bool)
        # Pictures are a view on the volume: what is written into them stands in it.
        stack = pictures(volume, self.axis)
        stack[np.unravel_index(self.stored(name), stack.shape)] = True
        return flat_indices(volume)


def subjects_of(cases: Sequence[PreparedCase]) -> tuple[PreparedCase, ...]:
    """Lists the subjects of these cases, in the order of their first cases.

    Slices of one volume make up that volume. Every other case is a subject of its own: a volume, a picture, and a slice
    that was chosen to stand for its volume.
    """
    found: dict[object, PreparedCase] = {}
    for case in cases:
        if isinstance(case, PreparedSlice) and not case.is_whole_case:
            if case.folder not in found:
                found[case.folder] = _volume(case)
        else:
            found[case.id] = case
    return tuple(found.values())


def volume_facts_of(case: PreparedCase) -> CaseFacts:
    """Reads the facts of the volume that a slice was cut from, in canonical axis order; of other cases their own."""
    if isinstance(case, PreparedSlice):
        return volume_facts(read_prepared(case.folder).facts, case.axis)
    return case.facts


def shown_by(case: PreparedCase, array: Shaped[np.ndarray, ...]) -> Shaped[np.ndarray, ...]:
    """The part of an array on the grid of a case's subject, channels behind or not, that the case shows."""
    if isinstance(case, PreparedSlice) and not case.is_whole_case:
        return pictures(array, case.axis)[case.index]
    return array


def _volume(case: PreparedSlice) -> SlicedVolume:
    """Opens the volume that a slice was cut from."""
    stack = read_prepared(case.folder)
    return SlicedVolume(stack.folder, stack.key, volume_facts(stack.facts, case.axis), case.axis)
