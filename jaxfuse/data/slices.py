"""Slices of volumes as 2D cases: for networks that see images, and for image files.

A slice is turned as a radiologist looks at it, upright: rows from the front backwards (axial) or from the crown
downwards, columns from the patient's right to the left (sagittal: from the front backwards). Images of the public
PNG collections lie the same way.

Volumes are prepared and cached as stacks, slices first, so that reading one slice touches one slice; a
`PreparedSlice` is a view on such a stack. Intensities are those of the whole volume: what two slices of one patient
show alike has one value in both.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Iterable, Mapping, Sequence
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
from jaxtyping import Float, Shaped, UInt8

from jaxfuse.data.brain import TOLD, BackgroundRule
from jaxfuse.data.cache import prepare_with, volume_recipe
from jaxfuse.data.cases import CaseFiles, load_case
from jaxfuse.data.facts import CaseFacts
from jaxfuse.data.intensities import NORMALIZATIONS, Landmarks, Normalization
from jaxfuse.data.memory import Forecast, volume_forecast
from jaxfuse.data.prepared import Beyond, Prepared, PreparedCase, PreparedSlice, with_absent
from jaxfuse.data.preprocess import Cropped, Extent, count_classes, crop_case
from jaxfuse.data.shelf import Shelf
from jaxfuse.errors import UserError
from jaxfuse.io.geometry import is_sheared
from jaxfuse.labels import LabelScheme

AXIAL, CORONAL, SAGITTAL = 2, 1, 0  # the array axis of a canonical volume that is cut
AXES: Mapping[str, int] = {"axial": AXIAL, "coronal": CORONAL, "sagittal": SAGITTAL}
LEAST_BRAIN = 0.01  # share of a slice's pixels

# Along the canonical axes that are not cut, in their order: first voxel and one past the last. Empty: the brain's box.
Window = tuple[tuple[int, int], ...]


@dataclasses.dataclass(frozen=True)
class View:
    """The slices of a volume, and the part of it that their pictures show.

    Attributes:
        axis: array axis of the canonical volume that is cut.
        window: what pictures show along the other two; (): the box of the volume's brain.
        blank: True for all slices of the volume; False for those from the brain's first to its last.
        one_per_case: True where one slice, which `one_slice` picks, stands for its volume.
    """

    axis: int = AXIAL
    window: Window = ()
    blank: bool = False
    one_per_case: bool = False

    @property
    def extent(self) -> Extent:
        """The crop of a volume for these pictures; refuses an axis that volumes have not."""
        _check_axis(self.axis)
        extent: list[slice | None] = [slice(*one) for one in self.window] or [None, None]
        extent.insert(self.axis, slice(None) if self.blank else None)
        return tuple(extent)


# Axial slices of the box of the brain.
WHOLE_BRAIN = View()


def prepare_slices(
    files: Iterable[CaseFiles],
    modalities: Sequence[str],
    scheme: LabelScheme | None,
    *,
    view: View = WHOLE_BRAIN,
    keep: Callable[[CaseFacts], tuple[int, ...]] | None = None,
    normalize: Normalization = NORMALIZATIONS["percentiles"],
    landmarks: Landmarks | None = None,
    background: BackgroundRule = TOLD,
    cache: str | Path | Shelf,
    on_case: Callable[[PreparedCase, bool], None] | None = None,
) -> dict[str, tuple[PreparedSlice, ...]]:
    """Prepares volumes once below the folder `cache`; returns the slices of each case by its id, in ascending order.

    Kept are the slices that `keep` chooses by the facts of their stack, else those of which at least 1 % is brain
    (`kept_slices`); of a view of one slice the one of them that `one_slice` picks. A slice is named after its case and
    its place along the axis of the canonical volume, such as CASE_z077. Of a view with blank slices, `every_slice`
    keeps all. Of a case that lacks some of the modalities their image is 0; who finds the cases may refuse it.

    Raises:
        UserError: that of `load_case` and `prepare_case`, and one for a case without a slice to keep.
    """
    modalities = tuple(modalities)
    make = StackPreparation(modalities, scheme, view, normalize, landmarks, background)
    recipe = stack_recipe(modalities, scheme, normalize, view, landmarks, background)
    given: dict[str, Any] = {"label": scheme is not None, "cache": cache, "on_case": on_case}
    stacks = prepare_with(make, files, recipe, images=modalities, incomplete=True, **given)
    slices = {}
    for stack in stacks:
        kept = (keep or kept_slices)(stack.facts)
        chosen = (one_slice(stack.facts, kept),) if view.one_per_case else kept
        slices[stack.id] = tuple(_slice(stack, index, view.axis, view.one_per_case) for index in chosen)
    return slices


@dataclasses.dataclass(frozen=True)
class StackPreparation:
    """The preparation of one case of volumes as a stack of slices, with the settings of `prepare_slices`."""

    modalities: tuple[str, ...]
    scheme: LabelScheme | None
    view: View
    normalize: Normalization
    landmarks: Landmarks | None
    background: BackgroundRule

    def __call__(self, one: CaseFiles) -> Prepared:
        there = [name for name in self.modalities if name in one.images]
        # The arrays of the files are given back before voxels are listed.
        cropped = crop_case(
            load_case(one, there, self.scheme),
            normalize=self.normalize,
            landmarks=self.landmarks,
            extent=self.view.extent,
            group=one.group,
            classes=len(self.scheme.classes) if self.scheme else 0,
            background=self.background,
            room=partial(_laid_in_slices, axis=self.view.axis),
        )
        return with_absent(as_stack(cropped, self.view.axis), self.modalities)

    def forecast(self, one: CaseFiles, precision: str) -> Forecast:
        """Predicts what the preparation of a case takes."""
        return volume_forecast(one, self.modalities, self.scheme is not None, precision)


def stack_recipe(
    modalities: Sequence[str],
    scheme: LabelScheme | None,
    normalize: Normalization,
    view: View,
    landmarks: Landmarks | None = None,
    background: BackgroundRule = TOLD,
) -> dict[str, Any]:
    """Returns the settings of `prepare_slices` as JSON; part of the cache key."""
    recipe = {**volume_recipe(modalities, scheme, normalize, landmarks, background), "stack": view.axis}
    # Named where they change something only, so that a stack is found whether or not they were asked for.
    return recipe | ({"window": view.window} if view.window else {}) | ({"blank": True} if view.blank else {})


def pictures(volume: Shaped[np.ndarray, "d h w *m"], axis: int) -> Shaped[np.ndarray, "s r c *m"]:
    """Returns the slices across `axis` of a canonical volume, upright, as a view (slices, rows, columns, ...)."""
    _check_axis(axis)
    return np.moveaxis(volume, axis, 0).swapaxes(1, 2)[:, ::-1, ::-1]


def volume_of(stack: Shaped[np.ndarray, "s r c *m"], axis: int) -> Shaped[np.ndarray, "d h w *m"]:
    """The inverse of `pictures`: the canonical volume of a stack, as a view."""
    _check_axis(axis)
    return np.moveaxis(stack[:, ::-1, ::-1].swapaxes(1, 2), 0, axis)


def _laid_in_slices(shape: tuple[int, ...], axis: int) -> Float[np.ndarray, "d h w m"]:
    """Makes the memory of a volume whose slices lie one after the other: it becomes a stack without being copied."""
    return volume_of(np.zeros([*(shape[place] for place in order_of(axis)), *shape[3:]], np.float32), axis)


def as_stack(cropped: Cropped, axis: int) -> Prepared:
    """Lists a cropped volume as a stack of pictures; its facts count brain and classes in each slice."""
    facts = cropped.facts
    mask = pictures(cropped.inside, axis)
    label = None if cropped.label is None else np.ascontiguousarray(pictures(cropped.label, axis))
    per_slice = [
        (
            int(np.count_nonzero(mask[k])),
            *(() if label is None else count_classes(label[k], len(facts.voxels_per_class))),
        )
        for k in range(len(mask))
    ]
    order = order_of(axis)
    end = [n - a - b for n, a, b in zip(facts.original_shape, facts.crop_start, facts.shape, strict=True)]
    stacked = dataclasses.replace(
        facts,
        affine=tuple(map(tuple, (np.array(facts.affine) @ _to_canonical(facts.original_shape, axis)).tolist())),
        spacing_mm=tuple(facts.spacing_mm[i] for i in order),
        original_shape=tuple(facts.original_shape[i] for i in order),
        crop_start=(facts.crop_start[axis], end[order[1]], end[order[2]]),
        shape=mask.shape,
        slices=tuple(per_slice),
    )
    image = np.ascontiguousarray(pictures(cropped.image, axis))
    beyond = turned(cropped.beyond, facts.original_shape, axis)
    beyond[:, 0] -= facts.crop_start[axis]
    return Cropped(stacked, image, label, np.ascontiguousarray(mask), beyond).listed()


def turned(beyond: Beyond, shape: Sequence[int], axis: int) -> Beyond:
    """Voxels of a canonical volume of this shape by their place in its stack of whole pictures."""
    place, rows, columns = order_of(axis)
    turned = beyond[:, [place, rows, columns, 3]].copy()
    turned[:, 1], turned[:, 2] = shape[rows] - 1 - turned[:, 1], shape[columns] - 1 - turned[:, 2]
    return turned


def turned_back(beyond: Beyond, shape: Sequence[int], axis: int) -> Beyond:
    """The inverse of `turned`; `shape` is that of the canonical volume."""
    back = beyond.copy()
    place, rows, columns = order_of(axis)
    back[:, [place, rows, columns]] = beyond[:, :3]
    back[:, rows], back[:, columns] = shape[rows] - 1 - beyond[:, 1], shape[columns] - 1 - beyond[:, 2]
    return back


def volume_facts(facts: CaseFacts, axis: int) -> CaseFacts:
    """The inverse of `as_stack` for facts: those of the volume in canonical axis order."""
    back = np.argsort(order_of(axis))
    # Rows and columns of a picture run from the far ends of the volume's axes.
    turned = [n - a - b for n, a, b in zip(facts.original_shape, facts.crop_start, facts.shape, strict=True)]
    start = (facts.crop_start[0], *turned[1:])
    original = tuple(facts.original_shape[i] for i in back)
    affine = np.array(facts.affine) @ np.linalg.inv(_to_canonical(original, axis))
    return dataclasses.replace(
        facts,
        affine=tuple(map(tuple, affine.tolist())),
        spacing_mm=tuple(facts.spacing_mm[i] for i in back),
        original_shape=original,
        crop_start=tuple(start[i] for i in back),
        shape=tuple(facts.shape[i] for i in back),
        slices=(),
    )


def kept_slices(facts: CaseFacts) -> tuple[int, ...]:
    """Indices of the slices of a stack that show brain on at least 1 % of the whole picture."""
    pixels = facts.original_shape[1] * facts.original_shape[2]
    kept = tuple(i for i, (brain, *_) in enumerate(facts.slices) if brain >= LEAST_BRAIN * pixels)
    if not kept:
        raise UserError(f"case {facts.id} has no slice with at least {LEAST_BRAIN:.0%} brain; leave the case out")
    return kept


def every_slice(facts: CaseFacts) -> tuple[int, ...]:
    """Indices of all slices of a stack, whatever they show."""
    return tuple(range(len(facts.slices)))


def labeled_slices(facts: CaseFacts) -> tuple[int, ...]:
    """Indices of the slices of a labeled stack that hold a voxel which is not background."""
    kept = tuple(i for i, row in enumerate(facts.slices) if any(row[2:]))  # after the brain and the background
    if not kept:
        raise UserError(f"case {facts.id} has no slice with a labeled voxel; leave the case out of the training split")
    return kept


def one_slice(facts: CaseFacts, kept: Sequence[int]) -> int:
    """Picks from the `kept` slices the first with the largest tumor, or without any the one nearest the middle."""
    tumor = {i: sum(facts.slices[i][2:]) for i in kept}  # after the brain and the background
    if any(tumor.values()):
        return max(kept, key=tumor.__getitem__)
    middle = facts.original_shape[0] // 2 - facts.crop_start[0]
    return min(kept, key=lambda i: abs(i - middle))


def gray_levels(image: Float[np.ndarray, "*space"]) -> UInt8[np.ndarray, "*space"]:
    """Intensities in [0, 1] as levels 0 to 255; the brain of a volume scaled by percentiles takes 1 to 255."""
    low, high = float(image.min()), float(image.max())
    if not (low >= 0 and high <= 1):
        raise UserError(f"an image runs from {low:g} to {high:g}; prepare its volume with normalize='percentiles'")
    return np.rint(image * 255).astype(np.uint8)


def slice_name(case: str, axis: int, place: int) -> str:
    """The name of a slice: its case, the letter of the axis that is cut, and its place along it, such as CASE_z077."""
    return f"{case}_{'xyz'[axis]}{place:03d}"


def _slice(stack: PreparedCase, index: int, axis: int, is_whole_case: bool) -> PreparedSlice:
    facts = stack.facts
    place, plane = facts.crop_start[0] + index, tuple(row[1:] for row in facts.affine)
    own = dataclasses.replace(
        facts,
        id=slice_name(facts.id, axis, place),
        affine=plane if plane and is_sheared(np.array(plane)) else (),
        spacing_mm=facts.spacing_mm[1:],
        original_shape=facts.original_shape[1:],
        crop_start=facts.crop_start[1:],
        shape=facts.shape[1:],
        voxels_per_class=facts.slices[index][1:],
        slices=(),
    )
    return PreparedSlice(stack.folder, stack.key, own, index, axis, is_whole_case)


def order_of(axis: int) -> tuple[int, int, int]:
    """The canonical axes of a stack's slices, rows and columns."""
    columns, rows = (i for i in range(3) if i != axis)
    return axis, rows, columns


def _to_canonical(shape: Sequence[int], axis: int) -> Float[np.ndarray, "4 4"]:
    """4 x 4, index into a stack of whole pictures -> index into the canonical volume of this shape."""
    place, rows, columns = order_of(axis)
    matrix = np.zeros((4, 4))
    matrix[place, 0] = matrix[3, 3] = 1
    for canonical, along in ((rows, 1), (columns, 2)):
        matrix[canonical, along], matrix[canonical, 3] = -1, shape[canonical] - 1
    return matrix


def _check_axis(axis: int) -> None:
    if axis not in AXES.values():
        raise UserError(f"slices across axis {axis} were asked for; choose 0 (sagittal), 1 (coronal) or 2 (axial)")
