"""Deterministic preparation of one case: crop and normalize, from arrays to arrays.

A case is cropped to its brain and each modality brought to zero mean and unit variance (Cross-Modality Deep
Feature Learning for Brain Tumor Segmentation, section 4; over the brain's voxels unless asked otherwise), or to
[0, 1] by a rule of `jaxfuse.data.intensities`.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial
from typing import Any

import numpy as np
from jaxtyping import Bool, Float, Int, Shaped, UInt8

from jaxfuse.data.brain import NONE, TOLD, BackgroundRule, Brain, find_backgrounds, find_brain
from jaxfuse.data.cases import Case
from jaxfuse.data.facts import CaseFacts, Scaling
from jaxfuse.data.intensities import BRAIN, Landmarks, Normalization, Stored, landmarks_of, moments
from jaxfuse.data.memory_order import in_memory_order, memory_order
from jaxfuse.data.prepared import Beyond, Prepared, PreparedCase
from jaxfuse.errors import UserError
from jaxfuse.labels import IGNORED

# Crop per axis: a slice; slice(None) keeps all; None crops to the brain. Empty: crop to the brain on every axis.
Extent = Sequence[slice | None]
# A shape -> an array of zeros.
Room = Callable[[tuple[int, ...]], Float[np.ndarray, "*space"]]
# Voxels that are filled, or looked for, at once.
SLAB = 1 << 17


def zeros(shape: tuple[int, ...]) -> Float[np.ndarray, "*space"]:
    """Makes the memory of an image."""
    return np.zeros(shape, np.float32)


@dataclass(frozen=True)
class Cropped:
    """A case cropped and normalized, whose files' arrays may be gone before its voxels are listed.

    Attributes:
        inside: marks the voxels of the brain.
    """

    facts: CaseFacts
    image: Float[np.ndarray, "*space m"]
    label: UInt8[np.ndarray, "*space"] | None
    inside: Bool[np.ndarray, "*space"]
    beyond: Beyond

    def listed(self) -> Prepared:
        """Lists the voxels of its tumor and its brain."""
        tumor = np.zeros(0, np.int32) if self.label is None else flat_indices(is_marked(self.label))
        return Prepared(self.facts, self.image, self.label, tumor, flat_indices(self.inside), self.beyond)


def prepare_case(case: Case, **options: Any) -> Prepared:
    """Crops and normalizes a case as `crop_case` does, with the same options, and lists its voxels."""
    return crop_case(case, **options).listed()


def crop_case(
    case: Case,
    *,
    normalize: Normalization = BRAIN,
    landmarks: Landmarks | None = None,
    extent: Extent = (),
    group: str = "",
    classes: int = 0,
    background: BackgroundRule = TOLD,
    brain: Bool[np.ndarray, "d h w"] | None = None,
    room: Room = zeros,
) -> Cropped:
    """Crops a case to its brain, or to `extent`, and normalizes it.

    The brain is what `jaxfuse.data.brain` finds by the rule `background`, or the mask `brain` where it is given. With
    `"brain"`, mean and standard deviation are taken over the brain, the rest becomes 0, and the brain's bounding box is
    kept. With `"volume"` they are taken over the whole volume, background included, and all of it is kept
    unless `extent` says otherwise, because background is no longer 0. The other rules, of `jaxfuse.data.intensities`,
    scale the brain to [0, 1] by the whole volume, whatever is kept of it; `landmarks` are those of "histmatch", by
    default the known ones. `classes` is the least length of `voxels_per_class`; `room` makes the image's memory.

    Raises:
        UserError: for images that show nothing, for a modality that is constant or has no landmarks, and for
            an extent that leaves the volume or holds nothing of the brain.
    """
    if brain is None:
        found = find_brain(case.channels, case.modalities, background)
    else:
        found = Brain(brain, find_backgrounds(case.channels, case.modalities, background))
    mask = found.mask
    if not in_memory_order(mask).any():
        raise UserError(f"case {case.id}: {_blank(case)}; remove or replace the case")
    box = _box(case.id, mask, extent, rest=slice(None) if normalize.whole_volume else None)
    inside = mask[box]
    if normalize.needs_landmarks and landmarks is None:
        landmarks = landmarks_of(case.modalities)
    image, measured = _normalized(case, found, box, normalize, landmarks or {}, room)
    label = None if case.label is None else np.ascontiguousarray(case.label[box])
    facts = CaseFacts(
        id=case.id,
        group=group,
        modalities=case.modalities,
        affine=tuple(tuple(float(v) for v in row) for row in case.affine),
        spacing_mm=tuple(float(v) for v in case.spacing_mm),
        original_shape=mask.shape,
        crop_start=tuple(kept.start for kept in box),
        shape=inside.shape,
        voxels_per_class=() if label is None else count_classes(label, classes),
        background=() if background.text == NONE else tuple(one and one.value for one in found.backgrounds),
        **measured,
    )
    return Cropped(facts, image, label, np.ascontiguousarray(inside), _beyond(case, box))


def _beyond(case: Case, box: tuple[slice, ...]) -> Beyond:
    """Lists the labeled voxels outside the box."""
    if case.label is None:
        return np.zeros((0, 4), np.int32)
    if np.count_nonzero(in_memory_order(case.label)) == np.count_nonzero(case.label[box]):
        return np.zeros((0, 4), np.int32)
    left_out = case.label > 0
    left_out[box] = False
    return np.column_stack([np.argwhere(left_out), case.label[left_out]]).astype(np.int32)


def _box(case_id: str, mask: Bool[np.ndarray, "d h w"], extent: Extent, *, rest: slice | None) -> tuple[slice, ...]:
    """The voxels that are kept, with both ends of each range; along axes that `extent` says nothing of, `rest`."""
    asked = [rest if one is None else one for one in extent or (None,) * mask.ndim]
    box = []
    for axis, (one, low, high, length) in enumerate(zip(asked, *bounding_box(mask), mask.shape, strict=True)):
        first, last = (low, high) if one is None else (one.start or 0, length if one.stop is None else one.stop)
        if not 0 <= first < last <= length:
            raise UserError(
                f"case {case_id}: a window of voxels {first} to {last} along axis {axis} was asked for, and the volume "
                f"is {mask.shape}; choose one within it"
            )
        box.append(slice(first, last))
    if not mask[tuple(box)].any():
        ranges = ", ".join(f"{one.start} to {one.stop}" for one in box)
        raise UserError(f"case {case_id}: voxels {ranges} hold nothing of the brain; choose another window")
    return tuple(box)


def _blank(case: Case) -> str:
    """Says that no image shows anything."""
    names = ", ".join(case.modalities)
    return (
        f"no voxel of {names} differs from its background"
        if any(one.any() for one in case.channels)
        else f"every voxel of {names} is 0"
    )


def _normalized(
    case: Case, brain: Brain, box: tuple[slice, ...], normalize: Normalization, landmarks: Landmarks, room: Room
) -> tuple[Float[np.ndarray, "*space m"], dict[str, Any]]:
    """The image within the box, and what was measured of each modality, by the names of `CaseFacts`."""
    inside = np.ascontiguousarray(brain.mask[box])
    count = np.count_nonzero(inside)
    holds_all = count == np.count_nonzero(in_memory_order(brain.mask))
    sources, both, scalings = [], [], []
    for channel, (modality, background) in enumerate(zip(case.modalities, brain.backgrounds, strict=True)):
        stored = case.channels[channel]
        kept = None if normalize.whole_volume else stored[box][inside]
        together = kept if holds_all and kept is not None else _together(stored, brain.mask, normalize)
        mean, std = moments(case.id, modality, together)
        both.append((mean, std))
        if normalize.fit is None:
            level = partial(_standardized, mean=np.float32(mean), std=np.float32(std))
        else:
            seen = Stored(stored, background, together)
            scalings.append(normalize.fit(case.id, modality, seen, landmarks.get(modality, ())))
            level = partial(_scaled, normalize=normalize, scaling=scalings[-1])
            del seen
        if kept is not None and kept.nbytes + 4 * inside.size > 4 * brain.mask.size:
            kept = None  # the crop leaves no room for them
        sources.append(_Source(stored[box], kept, level))
        del kept, together
    image = room((*inside.shape, len(case.modalities)))
    _fill(image, sources, None if normalize.whole_volume else inside)
    means, stds = zip(*both, strict=True)
    return image, {"mean": means, "std": stds, "scaling": tuple(scalings)}


def _together(
    stored: Shaped[np.ndarray, "d h w"], mask: Bool[np.ndarray, "d h w"], normalize: Normalization
) -> Shaped[np.ndarray, ...]:
    """The intensities that are measured together: of a whole volume, or of all of its brain."""
    return np.ascontiguousarray(stored) if normalize.whole_volume else stored[mask]


def _standardized(values: Float[np.ndarray, "*n"], mean: np.float32, std: np.float32) -> Float[np.ndarray, "*n"]:
    return (values - mean) / std


def _scaled(values: Float[np.ndarray, "*n"], normalize: Normalization, scaling: Scaling) -> Float[np.ndarray, "*n"]:
    return normalize.apply(values, scaling)


@dataclass(frozen=True)
class _Source:
    """One modality of a case.

    Attributes:
        stored: its intensities within the box.
        kept: those of the brain, in the order of its voxels; None where they are taken out once more, because they and
            the image would be more than an image of the whole volume.
        level: what becomes of intensities.
    """

    stored: Shaped[np.ndarray, "*space"]
    kept: Shaped[np.ndarray, " n"] | None
    level: Callable[[Float[np.ndarray, "*n"]], Float[np.ndarray, "*n"]]

    def levels(self, slab: slice, inside: Bool[np.ndarray, "*space"] | None, before: int) -> Float[np.ndarray, "*n"]:
        """Returns the levels of a slab, of the brain in it, which has so many `before` it; without one of all of it."""
        if inside is None:
            taken = self.stored[slab]
        elif self.kept is None:
            taken = self.stored[slab][inside]
        else:
            taken = self.kept[before : before + np.count_nonzero(inside)]
        return self.level(taken.astype(np.float32, copy=False))


def _fill(
    image: Float[np.ndarray, "*space m"], sources: Sequence[_Source], mask: Bool[np.ndarray, "*space"] | None
) -> None:
    """Fills an image with levels, those of its brain where a mask marks it: slab by slab, to hold few of them twice."""
    before, planes = 0, max(1, SLAB // max(1, image[0].size // len(sources)))
    for first in range(0, len(image), planes):
        slab = slice(first, first + planes)
        inside = None if mask is None else mask[slab]
        found = [source.levels(slab, inside, before) for source in sources]
        if inside is None:
            for channel, levels in enumerate(found):
                image[slab, ..., channel] = levels
        else:
            # All channels of a voxel as one item.
            _as_items(image[slab])[inside] = _as_items(np.stack(found, axis=-1))
            before += len(found[0])


def _as_items(array: Float[np.ndarray, "*n m"]) -> np.ndarray:
    return array.view(f"V{array.itemsize * array.shape[-1]}")[..., 0]


def uncrop(array: Shaped[np.ndarray, ...], prepared: Prepared | PreparedCase, fill: float) -> Shaped[np.ndarray, ...]:
    """Puts an array on a case's crop back on its canonical grid, `fill` around it.

    `array` has the crop's shape, with or without channels behind. The type is kept.
    """
    facts = prepared.facts
    ndim = len(facts.shape)
    if array.shape[:ndim] != facts.shape:
        raise UserError(f"case {facts.id}: an array of shape {array.shape} was given for a crop of {facts.shape}")
    whole = np.full((*facts.original_shape, *array.shape[ndim:]), fill, array.dtype)
    whole[tuple(slice(a, a + n) for a, n in zip(facts.crop_start, facts.shape, strict=True))] = array
    return whole


def bounding_box(mask: Shaped[np.ndarray, ...]) -> tuple[tuple[int, ...], tuple[int, ...]]:
    """First and one past last index of the true voxels per axis; two equal tuples where there is none."""
    order = memory_order(mask)
    laid = order.laid(mask)
    start, stop = [0] * mask.ndim, [0] * mask.ndim
    for place, axis in enumerate(order.axes):
        held = np.asarray(laid.any(axis=tuple(a for a in range(mask.ndim) if a != place)))
        along = np.flatnonzero(held[::-1] if axis in order.mirrored else held)
        if along.size:
            start[axis], stop[axis] = int(along[0]), int(along[-1]) + 1
    return tuple(start), tuple(stop)


def flat_indices(mask: Shaped[np.ndarray, ...]) -> Int[np.ndarray, " n"]:
    """Flat indices of the true voxels, int32 where they fit."""
    flat = np.ravel(mask)
    found = np.empty(np.count_nonzero(flat), np.int32 if mask.size < 2**31 else np.int64)
    done = 0
    # NumPy finds them in 8 bytes each.
    for first in range(0, flat.size, SLAB):
        some = np.flatnonzero(flat[first : first + SLAB])
        np.add(some, first, out=found[done : done + some.size], casting="same_kind")
        done += some.size
    return found


def count_classes(label: UInt8[np.ndarray, "*space"], classes: int) -> tuple[int, ...]:
    """Voxels per class index, at least `classes` long; ignored ones are of none."""
    # Most voxels are background, and need not be sorted into classes.
    marked = label[label > 0]
    counted = np.bincount(marked, minlength=max(classes, 1 if label.size else 0))
    if label.size:
        counted[0] = label.size - marked.size
    if len(counted) > IGNORED:
        counted = counted[: max(classes, 1 + int(np.flatnonzero(counted[:IGNORED]).max(initial=0)))]
    return tuple(int(n) for n in counted)


def is_marked(label: UInt8[np.ndarray, "*space"]) -> Bool[np.ndarray, "*space"]:
    """Marks the voxels of any class but the background; ignored ones are of none."""
    return (label > 0) & (label != IGNORED)
