"""Distances between the voxels of two masks, in both directions: the ground of every distance metric.

A metric is a statistic of D1, the distance of every chosen voxel of the prediction to the nearest chosen one of the
truth, and of D2, the reverse. Metrics differ in the choice of voxels (surfaces, whole masks) and in the statistic.
Distances run between voxel centers, in mm. Of a single slice, a volume with one axis of one voxel, they run in its
plane: its surface is its contour there.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

import numpy as np
from jaxtyping import Bool, Float, Float64
from scipy.ndimage import distance_transform_edt
from scipy.spatial import KDTree

from jaxfuse.errors import UserError
from jaxfuse.metrics.overlap import Mask, require_same_shape

BoolMask = Bool[np.ndarray, "..."]
Distances = Float64[np.ndarray, " _"]
Statistic = Callable[[Distances, Distances], float]
# The side of a voxel in mm per array axis, in their order; or, where axes are not at right angles, the step of each
# array axis in the world as a row.
Spacing = Sequence[float] | Float[np.ndarray, " axes"] | Float[np.ndarray, "axes world"]

# A search tree costs about this many times more per chosen voxel than a distance transform per voxel of
# the box, so it is the faster way where small surfaces lie far apart (one stray voxel is enough).
_TREE_COST = 40


def measured_mm(
    pred: Mask,
    truth: Mask,
    statistics: Mapping[str, Statistic],
    *,
    chosen: Callable[[BoolMask], BoolMask],
    spacing_mm: Spacing,
    one_empty: float,
) -> dict[str, float]:
    """Statistics of D1 and D2 by their names; the distances are computed once for all.

    Args:
        chosen: the voxels of a mask that count; it sees the mask inside one voxel of background.
        spacing_mm: the side of a voxel, or the step in the world, per array axis.
        one_empty: every statistic where exactly one mask is empty. Where both are, each is 0.

    Raises:
        UserError: masks of different shapes, or a spacing that does not fit them.
    """
    pair = paired(pred, truth, spacing_mm)
    if isinstance(pair, str):
        return dict.fromkeys(statistics, 0.0 if pair == BOTH else float(one_empty))
    d1, d2 = between(chosen(pair.pred), chosen(pair.truth), pair.spacing)
    return {name: float(statistic(d1, d2)) for name, statistic in statistics.items()}


# Which masks of a pair are empty.
BOTH, ONE = "both", "one"


@dataclass(frozen=True)
class Pair:
    """Two masks, none of them empty, in the bounding box of their union, inside one voxel of background.

    Attributes:
        spacing: sides (axes,) or steps (axes, world) in mm; a single slice has two axes.
    """

    pred: BoolMask
    truth: BoolMask
    spacing: Float64[np.ndarray, "axes ..."]


def paired(pred: Mask, truth: Mask, spacing_mm: Spacing) -> Pair | str:
    """Returns two masks as distances are measured between them; BOTH or ONE where so many are empty.

    Raises:
        UserError: masks of different shapes, or a spacing that does not fit them.
    """
    pred, truth, spacing = in_plane(pred, truth, spacing_mm)
    if not pred.any() or not truth.any():
        return ONE if pred.any() or truth.any() else BOTH
    return Pair(*_crop(pred, truth), spacing)


def in_plane(
    pred: Mask, truth: Mask, spacing_mm: Spacing
) -> tuple[BoolMask, BoolMask, Float64[np.ndarray, "axes ..."]]:
    """Returns two masks and their spacing; those of a single slice with the two axes of its plane.

    Raises:
        UserError: masks of different shapes, or a spacing that does not fit them.
    """
    require_same_shape(pred, truth)
    spacing = _checked(spacing_mm, pred.ndim)
    pred, truth = pred.astype(bool, copy=False), truth.astype(bool, copy=False)
    if pred.ndim == 3 and pred.shape.count(1) == 1:
        thin = pred.shape.index(1)
        pred, truth, spacing = pred.squeeze(thin), truth.squeeze(thin), np.delete(spacing, thin, axis=0)
    return pred, truth, spacing


def voxel_size(spacing_mm: Spacing) -> float:
    """Returns the volume of a voxel in mm3, or the area of a pixel in mm2."""
    spacing = np.asarray(spacing_mm, np.float64)
    if spacing.ndim == 1:
        return float(np.prod(spacing))
    return float(np.sqrt(np.linalg.det(spacing @ spacing.T)))


def _checked(spacing_mm: Spacing, ndim: int) -> Float64[np.ndarray, "axes ..."]:
    """Sides or steps as an array; refuses those that do not fit a mask of so many axes."""
    spacing = np.asarray(spacing_mm, dtype=np.float64)
    fits = len(spacing) == ndim if spacing.ndim else False
    if fits and np.isfinite(spacing).all():
        if spacing.ndim == 1 and (spacing > 0).all():
            return spacing
        if spacing.ndim == 2 and np.linalg.matrix_rank(spacing) == ndim:
            return spacing
    raise UserError(
        f"spacing_mm is {tuple(spacing_mm)}; give one positive number of mm for each of the {ndim} array axes"
    )


def _crop(pred: BoolMask, truth: BoolMask) -> tuple[BoolMask, BoolMask]:
    """Both masks in the bounding box of their union, inside one voxel of background: changes no distance."""
    box = box_of(pred | truth)
    return np.pad(pred[box], 1), np.pad(truth[box], 1)


def box_of(mask: BoolMask, margin: int = 0) -> tuple[slice, ...]:
    """Returns the smallest box that holds a mask that is not empty, and a margin of voxels where the array has them."""
    box = []
    for axis, side in enumerate(mask.shape):
        occupied = np.flatnonzero(mask.any(axis=tuple(a for a in range(mask.ndim) if a != axis)))
        box.append(slice(max(occupied[0] - margin, 0), min(occupied[-1] + 1 + margin, side)))
    return tuple(box)


def between(pred: BoolMask, truth: BoolMask, spacing: Float64[np.ndarray, "axes ..."]) -> tuple[Distances, Distances]:
    """Returns D1 and D2 of two sets of voxels, each in the order of its array; exact by either way."""
    if spacing.ndim == 2:  # a transform knows right angles only
        return _by_tree(np.argwhere(pred) @ spacing, np.argwhere(truth) @ spacing)
    if _TREE_COST * (np.count_nonzero(pred) + np.count_nonzero(truth)) < pred.size:
        return _by_tree(np.argwhere(pred) * spacing, np.argwhere(truth) * spacing)
    return _by_transform(pred, truth, spacing)


def _by_tree(pred_mm: Float64[np.ndarray, "n _"], truth_mm: Float64[np.ndarray, "m _"]) -> tuple[Distances, Distances]:
    return np.asarray(KDTree(truth_mm).query(pred_mm)[0]), np.asarray(KDTree(pred_mm).query(truth_mm)[0])


def _by_transform(
    pred: BoolMask, truth: BoolMask, spacing: Float64[np.ndarray, " axes"]
) -> tuple[Distances, Distances]:
    to_truth = np.asarray(distance_transform_edt(~truth, sampling=spacing))
    to_pred = np.asarray(distance_transform_edt(~pred, sampling=spacing))
    return to_truth[pred], to_pred[truth]
