"""Distances in mm between the voxel surfaces of two masks, as MedPy and MONAI measure them.

The surface of a mask is the mask without its erosion by the cross of 4 (2D) or 6 (3D) face neighbors; what
lies outside the array counts as background, so a mask that touches the edge has surface voxels there.
D1 holds the distance of every surface voxel of the prediction to the nearest one of the truth, D2 the
reverse. Both masks empty: every distance is 0. Exactly one empty: no distance exists and the caller's
`one_empty` is returned; it has no default because challenges disagree (373.13, 374, nan, infinity).

`spacing_mm` is the side of a voxel in mm per array axis, in the order of the axes. Different shapes, a spacing
that does not fit and an unknown method raise `UserError`.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence

import numpy as np
from jaxtyping import Bool, Float64
from scipy.ndimage import distance_transform_edt
from scipy.spatial import KDTree

from jaxfuse.errors import UserError
from jaxfuse.metrics.overlap import Mask, require_same_shape

BoolMask = Bool[np.ndarray, "..."]
Distances = Float64[np.ndarray, " _"]
Statistic = Callable[[Distances, Distances], float]

# A search tree costs about this many times more per surface voxel than a distance transform per voxel of
# the box, so it is the faster way where small surfaces lie far apart (one stray voxel is enough).
_TREE_COST = 40


def hausdorff_mm(pred: Mask, truth: Mask, *, spacing_mm: Sequence[float], one_empty: float) -> float:
    """Largest of all distances D1 and D2 in mm."""
    return _measure(pred, truth, spacing_mm, one_empty, lambda d1, d2: max(d1.max(), d2.max()))


def hd95_mm(
    pred: Mask,
    truth: Mask,
    *,
    spacing_mm: Sequence[float],
    one_empty: float,
    method: str = "pooled",
) -> float:
    """95th percentile of the surface distances, linearly interpolated, in mm.

    "pooled" takes the percentile of D1 and D2 together (MedPy); "directed" takes it of each and returns the
    larger (MONAI). The two differ: name the one used in every table.
    """
    statistics: dict[str, Statistic] = {
        "pooled": lambda d1, d2: np.percentile(np.concatenate([d1, d2]), 95),
        "directed": lambda d1, d2: max(np.percentile(d1, 95), np.percentile(d2, 95)),
    }
    return _measure(pred, truth, spacing_mm, one_empty, _named(statistics, method))


def asd_mm(pred: Mask, truth: Mask, *, spacing_mm: Sequence[float], one_empty: float) -> float:
    """Mean of D1 in mm: directed, from the prediction to the truth, so swapping the masks changes it."""
    return _measure(pred, truth, spacing_mm, one_empty, lambda d1, _: d1.mean())


def assd_mm(
    pred: Mask,
    truth: Mask,
    *,
    spacing_mm: Sequence[float],
    one_empty: float,
    method: str = "pooled",
) -> float:
    """Average symmetric surface distance in mm.

    "pooled" is the mean over D1 and D2 together (MedPy since 0.5); "mean_of_means" averages the two directed
    means, however many voxels each has (MedPy up to 0.4, panoptica).
    """
    statistics: dict[str, Statistic] = {
        "pooled": lambda d1, d2: np.concatenate([d1, d2]).mean(),
        "mean_of_means": lambda d1, d2: (d1.mean() + d2.mean()) / 2,
    }
    return _measure(pred, truth, spacing_mm, one_empty, _named(statistics, method))


def _named(statistics: dict[str, Statistic], method: str) -> Statistic:
    if method not in statistics:
        raise UserError(f"{method!r} is not a method of this distance; choose one of {', '.join(statistics)}")
    return statistics[method]


def _measure(pred: Mask, truth: Mask, spacing_mm: Sequence[float], one_empty: float, statistic: Statistic) -> float:
    """The statistic of D1 and D2, or what stands for every statistic where a mask is empty."""
    require_same_shape(pred, truth)
    spacing = np.asarray(spacing_mm, dtype=np.float64)
    if spacing.shape != (pred.ndim,) or not np.all(np.isfinite(spacing) & (spacing > 0)):
        raise UserError(
            f"spacing_mm is {tuple(spacing_mm)}; give one positive number of mm for each of the {pred.ndim} array axes"
        )
    pred, truth = pred.astype(bool, copy=False), truth.astype(bool, copy=False)
    if not pred.any() and not truth.any():
        return 0.0
    if not pred.any() or not truth.any():
        return float(one_empty)
    cropped_pred, cropped_truth = _crop(pred, truth)
    return float(statistic(*_distances(_surface(cropped_pred), _surface(cropped_truth), spacing)))


def _crop(pred: BoolMask, truth: BoolMask) -> tuple[BoolMask, BoolMask]:
    """Both masks in the bounding box of their union, inside one voxel of background: changes no distance."""
    union = pred | truth
    box = []
    for axis in range(union.ndim):
        occupied = np.flatnonzero(union.any(axis=tuple(a for a in range(union.ndim) if a != axis)))
        box.append(slice(occupied[0], occupied[-1] + 1))
    return np.pad(pred[tuple(box)], 1), np.pad(truth[tuple(box)], 1)


def _surface(mask: BoolMask) -> BoolMask:
    """Voxels of the mask with a face neighbor in the background; the array's outermost voxels are background."""
    inner = mask.copy()
    for axis in range(mask.ndim):
        # What rolls in at the other end is background too, so nothing wraps around.
        inner &= np.roll(mask, 1, axis) & np.roll(mask, -1, axis)
    return mask & ~inner


def _distances(pred: BoolMask, truth: BoolMask, spacing: Float64[np.ndarray, " axes"]) -> tuple[Distances, Distances]:
    """D1 and D2 of two surfaces, exact either way."""
    if _TREE_COST * (np.count_nonzero(pred) + np.count_nonzero(truth)) < pred.size:
        return _by_tree(pred, truth, spacing)
    return _by_transform(pred, truth, spacing)


def _by_tree(pred: BoolMask, truth: BoolMask, spacing: Float64[np.ndarray, " axes"]) -> tuple[Distances, Distances]:
    pred_mm, truth_mm = np.argwhere(pred) * spacing, np.argwhere(truth) * spacing
    return np.asarray(KDTree(truth_mm).query(pred_mm)[0]), np.asarray(KDTree(pred_mm).query(truth_mm)[0])


def _by_transform(
    pred: BoolMask, truth: BoolMask, spacing: Float64[np.ndarray, " axes"]
) -> tuple[Distances, Distances]:
    to_truth = np.asarray(distance_transform_edt(~truth, sampling=spacing))
    to_pred = np.asarray(distance_transform_edt(~pred, sampling=spacing))
    return to_truth[pred], to_pred[truth]
