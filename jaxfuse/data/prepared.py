"""Prepared cases: in memory, and as entries of a cache whose arrays are opened when they are asked for.

`PreparedCase` is what samplers, judges and tables see. Its kinds say which part of an entry is meant: all of it
(`CachedCase`), one slice of a stack (`PreparedSlice`), or the volume that a stack was cut from
(`jaxfuse.data.subjects.SlicedVolume`).
"""

from __future__ import annotations

import os
import threading
from abc import ABC, abstractmethod
from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from functools import lru_cache
from pathlib import Path
from typing import Any, final

import numpy as np
from jaxtyping import Bool, Float, Int, Shaped, UInt8

from jaxfuse.data.facts import CaseFacts
from jaxfuse.data.shelf import as_read
from jaxfuse.errors import UserError

_ONE_AT_A_TIME = threading.Lock()
# Labeled voxels outside the crop, one a row: place on the grid before cropping, then class index.
Beyond = Int[np.ndarray, "n columns"]


@dataclass(frozen=True)
class Prepared:
    """A prepared case in memory; the arrays are those of `CachedCase`."""

    facts: CaseFacts
    image: Float[np.ndarray, "*space m"]
    label: UInt8[np.ndarray, "*space"] | None
    tumor: Int[np.ndarray, " tumor"]
    brain: Int[np.ndarray, " brain"]
    beyond: Beyond = field(default_factory=lambda: np.zeros((0, 4), np.int32))


@dataclass(frozen=True)
class PreparedCase(ABC):
    """A prepared case on disk: small and picklable, its arrays opened as read-only memory maps when asked for.

    Attributes:
        folder: its entry in the cache.
        key: names the entry: the content of its files and how it was made.
        facts: its geometry, counts and moments.
    """

    folder: Path
    key: str
    facts: CaseFacts

    @property
    def id(self) -> str:
        """Name of the case, unique in a data set."""
        return self.facts.id

    @property
    def of_case(self) -> str:
        """Name of the case that it was cut from; its own where it is no slice."""
        return self.id

    @property
    def labeled(self) -> bool:
        """Whether the case has a label."""
        return bool(self.facts.voxels_per_class)

    @property
    def image(self) -> Float[np.ndarray, "*space m"]:
        """Normalized intensities, float32; made anew where the cache has another precision."""
        return self.kept_image.astype(np.float32, copy=False)

    @property
    @abstractmethod
    def kept_image(self) -> Shaped[np.ndarray, "*space m"]:
        """Normalized intensities in the precision of the cache."""

    @property
    @abstractmethod
    def label(self) -> UInt8[np.ndarray, "*space"] | None:
        """Class indices, or None for an unlabeled case."""

    @property
    @abstractmethod
    def tumor(self) -> Int[np.ndarray, " n"]:
        """Flat indices into the crop of the voxels whose label is not background; empty without label."""

    @property
    @abstractmethod
    def brain(self) -> Int[np.ndarray, " n"]:
        """Flat indices into the crop of the voxels of the brain (`jaxfuse.data.brain`)."""

    @property
    @abstractmethod
    def beyond(self) -> Beyond:
        """Labeled voxels outside the crop, which nothing learns from and every score counts as missed.

        Of a stack, the first column counts from its first slice.
        """

    def stored(self, name: str) -> np.ndarray:
        """One array of the entry as it lies on disk: image, label, tumor, brain or beyond."""
        return open_mapped(f"{self.folder}/{name}.npy")  # a path joined takes longer than a slice is copied


@final
@dataclass(frozen=True)
class CachedCase(PreparedCase):
    """A whole entry of the cache: a volume, a picture, or a stack of slices."""

    @property
    def kept_image(self) -> Shaped[np.ndarray, "*space m"]:
        return self.stored("image")

    @property
    def label(self) -> UInt8[np.ndarray, "*space"] | None:
        return self.stored("label") if self.labeled else None

    @property
    def tumor(self) -> Int[np.ndarray, " n"]:
        return self.stored("tumor")

    @property
    def brain(self) -> Int[np.ndarray, " n"]:
        return self.stored("brain")

    @property
    def beyond(self) -> Beyond:
        return self.stored("beyond")


@final
@dataclass(frozen=True)
class PreparedSlice(PreparedCase):
    """One slice of a stack in the cache, with the arrays of a 2D `PreparedCase`: image (h w m), label (h w).

    Attributes:
        index: place of the slice in the stack's arrays.
        axis: array axis of the canonical volume that the stack was cut across.
        is_whole_case: True if this slice is a case by itself; False if it is one slice of a volume that is scored as a
            whole.
    """

    index: int
    axis: int
    is_whole_case: bool

    @property
    def of_case(self) -> str:
        # `jaxfuse.data.slices.slice_name` has put the place behind.
        return self.id.rpartition("_")[0]

    @property
    def kept_image(self) -> Shaped[np.ndarray, "h w m"]:
        return self.stored("image")[self.index]

    @property
    def label(self) -> UInt8[np.ndarray, "h w"] | None:
        return self.stored("label")[self.index] if self.labeled else None

    @property
    def tumor(self) -> Int[np.ndarray, " n"]:
        return self._own(self.stored("tumor"))

    @property
    def brain(self) -> Int[np.ndarray, " n"]:
        return self._own(self.stored("brain"))

    @property
    def beyond(self) -> Beyond:
        every = self.stored("beyond")
        return every[every[:, 0] == self.index, 1:]

    def _own(self, flat: Int[np.ndarray, " n"]) -> Int[np.ndarray, " own"]:
        """Selects this slice's part of the stack's ascending flat indices, counted from its first pixel."""
        pixels = self.facts.shape[0] * self.facts.shape[1]
        # In the type of the indices: NumPy would convert, and so read, all of them otherwise.
        bounds = np.array([self.index, self.index + 1], flat.dtype) * flat.dtype.type(pixels)
        first, last = np.searchsorted(flat, bounds)
        return flat[first:last] - bounds[0]


def showing(case: Prepared | PreparedCase, presence: Sequence[bool]) -> Prepared:
    """Returns a case as if it had these of its modalities alone; the image of the others is 0.

    Raises:
        UserError: it has none of them.
    """
    own = case.facts.presence or (True,) * len(case.facts.modalities)
    kept = tuple(bool(there and asked) for there, asked in zip(own, presence, strict=True))
    if not any(kept):
        raise UserError(f"case {case.facts.id} has none of the modalities that are to be shown; show one that it has")
    image = np.where(np.array(kept), case.image, np.float32(0))
    facts = replace(case.facts, presence=() if all(kept) else kept)
    return Prepared(facts, image, case.label, case.tumor, case.brain, case.beyond)


def with_absent(prepared: Prepared, modalities: Sequence[str]) -> Prepared:
    """Returns a case that was prepared from those of the modalities that it has with all of them, in their order."""
    facts = prepared.facts
    if facts.modalities == tuple(modalities):
        return prepared
    places = [facts.modalities.index(name) if name in facts.modalities else None for name in modalities]

    def spread(values: Sequence[Any], absent: Any) -> tuple[Any, ...]:
        return tuple(absent if place is None else values[place] for place in places) if values else ()

    image = np.zeros((*facts.shape, len(modalities)), np.float32)
    for channel, place in enumerate(places):
        if place is not None:
            image[..., channel] = prepared.image[..., place]
    whole = replace(
        facts,
        modalities=tuple(modalities),
        presence=tuple(place is not None for place in places),
        mean=spread(facts.mean, 0.0),
        std=spread(facts.std, 1.0),
        scaling=spread(facts.scaling, ()),
        background=spread(facts.background, None),
    )
    return replace(prepared, facts=whole, image=image)


def brain_mask(case: Prepared | PreparedCase) -> Bool[np.ndarray, "*space"]:
    """Marks the voxels of the brain on the cropped grid."""
    mask = np.zeros(case.facts.shape, bool)
    mask.flat[case.brain] = True
    return mask


def open_mapped(path: str | Path) -> np.ndarray:
    """The array of a .npy file, read-only and mapped: only what is looked at is read.

    A map is kept in this process and given again as long as the file is the same: opening one takes ten times as long
    as a crop of a slice.
    """
    status = os.stat(path)
    return _mapped(str(path), status.st_ino, status.st_mtime_ns, status.st_size)


@lru_cache(maxsize=512)
def _mapped(path: str, *identity: int) -> np.ndarray:
    """A plain view of the map, of which NumPy cuts windows faster than of its own subclass.

    One thread at a time: NumPy parses a file's header with `ast`, which in CPython 3.11 fails now and then where two
    threads parse at once (python/cpython#106905).
    """
    with _ONE_AT_A_TIME:
        return as_read(np.load(path, mmap_mode="r").view(np.ndarray))
