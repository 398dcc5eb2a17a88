"""Cases on voxels of other sides than they were acquired with, and label maps back on the acquired grid.

Both grids fill one box: a side of n voxels becomes one of the nearest whole number for the sides that are asked for.
Images are interpolated by cubic splines within the brain; along an axis whose voxels are more than three times as thick
as the thinnest, which splines would blur, the nearest slice is taken, as nnU-Net does. Labels take the nearest voxel,
so that a label map that was brought to a finer grid comes back as it was, voxel by voxel. Probabilities come back by
straight lines between voxels.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from typing import Any

import numpy as np
from jaxtyping import Float, Shaped
from scipy import ndimage

from jaxfuse.data.brain import TOLD, BackgroundRule, find_brain
from jaxfuse.data.cases import Case
from jaxfuse.data.facts import CaseFacts
from jaxfuse.data.prepared import Prepared, brain_mask
from jaxfuse.data.preprocess import Cropped, crop_case, flat_indices, uncrop
from jaxfuse.errors import UserError

# Voxels are thick where a side is so many times the least.
_THICK = 3.0
_CUBIC = 3
# Most voxels of a resampled image: 4 GB for each modality in float32.
_MOST_VOXELS = 2**30

Spacing = tuple[float, ...]


def prepare_resampled(case: Case, spacing_mm: Spacing, **options: Any) -> Prepared:
    """Prepares a case as `crop_resampled` does, with the same options, and lists its voxels."""
    return crop_resampled(case, spacing_mm, **options).listed()


def crop_resampled(case: Case, spacing_mm: Spacing, *, background: BackgroundRule = TOLD, **options: Any) -> Cropped:
    """Crops and normalizes a case as `crop_case` does, on voxels of these sides; on its own without any.

    Raises:
        UserError: that of `crop_case`, and for sides that make more voxels than memory holds.
    """
    if not spacing_mm:
        return crop_case(case, background=background, **options)
    found = find_brain(case.channels, case.modalities, background)
    shape = resampled_shape(case.id, found.mask.shape, case.spacing_mm, spacing_mm)
    mask = nearest(found.mask, shape)
    thick = thick_axis(case.spacing_mm, spacing_mm)
    channels = []
    for stored, value in zip(case.channels, found.backgrounds, strict=True):
        around = np.float32(value.value if value else 0)
        there = interpolated(stored.astype(np.float32, copy=False), shape, thick)
        channels.append(np.where(mask, there, around))
    scale = np.array(found.mask.shape) / np.array(shape)
    to_acquired = np.diag([*scale, 1.0])
    to_acquired[:3, 3] = scale / 2 - 0.5
    sides = tuple(float(side) for side in np.array(case.spacing_mm) * scale)
    label = None if case.label is None else nearest(case.label, shape)
    there = replace(case, channels=channels, label=label, affine=case.affine @ to_acquired, spacing_mm=sides)
    cropped = crop_case(there, background=background, brain=mask, **options)
    return replace(cropped, facts=replace(cropped.facts, acquired_shape=found.mask.shape))


def on_acquired_grid(labels: Shaped[np.ndarray, "d h w"], facts: CaseFacts) -> Shaped[np.ndarray, "_ _ _"]:
    """Puts a label map on a case's whole grid back on that of its files; the same where it was not resampled."""
    if not facts.acquired_shape:
        return labels
    if labels.shape != facts.original_shape:
        raise UserError(
            f"case {facts.id}: labels of shape {labels.shape} were given for a grid of {facts.original_shape}"
        )
    return nearest(labels, facts.acquired_shape)


def on_networks_grid(labels: Shaped[np.ndarray, "d h w"], prepared: Prepared) -> Shaped[np.ndarray, "_ _ _"]:
    """Brings a label map on the whole grid of a case's files to the crop of the grid that it was resampled to."""
    facts = prepared.facts
    box = tuple(slice(first, first + n) for first, n in zip(facts.crop_start, facts.shape, strict=True))
    return nearest(labels, facts.original_shape)[box]


def probabilities_on_acquired_grid(
    probs: Float[np.ndarray, "d h w k"], prepared: Prepared
) -> Float[np.ndarray, "_ _ _ k"]:
    """Puts class probabilities on a case's crop back on the whole grid of its files; outside the crop is background.

    Of a case that was resampled they are interpolated linearly, and divided by their sum.

    Returns:
        float32 (d h w k), a view of an array whose classes lie one after the other.
    """
    facts = prepared.facts
    shape, classes = facts.acquired_shape or facts.original_shape, probs.shape[-1]
    whole = np.empty((classes, *shape), np.float32)
    for index in range(classes):
        one = uncrop(probs[..., index], prepared, float(index == 0))
        whole[index] = linear(one, shape) if facts.acquired_shape else one
    if facts.acquired_shape:
        whole /= whole.sum(0)
    return np.moveaxis(whole, 0, -1)


def as_acquired(prepared: Prepared) -> Prepared:
    """Returns a case that was resampled as it lies on the grid of its files, whole, with its brain and no channels.

    Label maps of that grid belong to it.
    """
    facts = prepared.facts
    shape = facts.acquired_shape
    mask = uncrop(brain_mask(prepared), prepared, False)
    scale = np.array(facts.original_shape) / np.array(shape)
    to_network = np.diag([*scale, 1.0])
    to_network[:3, 3] = scale / 2 - 0.5
    affine = np.array(facts.affine) @ to_network
    there = replace(
        facts,
        affine=tuple(map(tuple, affine.tolist())),
        spacing_mm=tuple(float(side) for side in np.array(facts.spacing_mm) * scale),
        original_shape=shape,
        crop_start=(0,) * len(shape),
        shape=shape,
        acquired_shape=(),
    )
    brain = flat_indices(nearest(mask, shape))
    nothing = np.zeros((*shape, 0), np.float32)
    return Prepared(there, nothing, None, np.zeros(0, np.int32), brain)


def resampled_shape(
    case: str, shape: Sequence[int], spacing_mm: Sequence[float], wanted_mm: Sequence[float]
) -> tuple[int, ...]:
    """The shape of a grid of the wanted sides in the same box; refuses one that memory does not hold."""
    sides = zip(shape, spacing_mm, wanted_mm, strict=True)
    found = tuple(max(1, round(voxels * side / wanted)) for voxels, side, wanted in sides)
    if np.prod(np.array(found, np.float64)) > _MOST_VOXELS:
        raise UserError(
            f"case {case} has {tuple(shape)} voxels of {_told(spacing_mm)} mm; on sides of {_told(wanted_mm)} mm these "
            f"would be {found}, more than memory holds: choose larger sides for data.resample_mm"
        )
    return found


def thick_axis(spacing_mm: Sequence[float], wanted_mm: Sequence[float]) -> int | None:
    """The axis of thick voxels, on the acquired grid or else on the wanted one; None where there is none."""
    for sides in (spacing_mm, wanted_mm):
        if max(sides) > _THICK * min(sides):
            return int(np.argmax(sides))
    return None


def interpolated(
    image: Float[np.ndarray, "d h w"], shape: Sequence[int], thick: int | None
) -> Float[np.ndarray, "_ _ _"]:
    """Interpolates an image by cubic splines, and takes the nearest slice along the thick axis."""
    smooth = tuple(image.shape[axis] if axis == thick else n for axis, n in enumerate(shape))
    factors = [new / old for new, old in zip(smooth, image.shape, strict=True)]
    if smooth != image.shape:
        image = np.asarray(ndimage.zoom(image, factors, order=_CUBIC, mode="nearest", grid_mode=True))
    return nearest(image, shape)


def linear(array: Float[np.ndarray, "d h w"], shape: Sequence[int]) -> Float[np.ndarray, "_ _ _"]:
    """Interpolates linearly at the middles of the new voxels; beyond the middles of the outermost they go on."""
    factors = [new / old for new, old in zip(shape, array.shape, strict=True)]
    return np.asarray(ndimage.zoom(array, factors, order=1, mode="nearest", grid_mode=True))


def nearest(array: Shaped[np.ndarray, "d h w"], shape: Sequence[int]) -> Shaped[np.ndarray, "_ _ _"]:
    """Takes the voxel in which the middle of each new voxel lies."""
    # Whole numbers: the middle of new voxel i lies at (2 i + 1) old / (2 new) of the old ones.
    places = [(2 * np.arange(new) + 1) * old // (2 * new) for new, old in zip(shape, array.shape, strict=True)]
    return np.ascontiguousarray(array[np.ix_(*places)])


def _told(sides: Sequence[float]) -> str:
    return " x ".join(f"{side:g}" for side in sides)
