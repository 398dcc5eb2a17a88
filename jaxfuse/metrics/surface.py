"""Distances in mm between the voxel surfaces of two masks, as MedPy and MONAI measure them.

The surface of a mask is the mask without its erosion by the cross of 4 (2D) or 6 (3D) face neighbors. All outside
of the array counts as background, so a mask that touches the edge has surface voxels there.
D1 holds the distance of every surface voxel of the prediction to the nearest one of the truth, D2 the
reverse. Both masks empty: every distance is 0. Exactly one empty: no distance exists and the caller's
`one_empty` is returned; it has no default because challenges disagree (373.13, 374, nan, infinity).

`spacing_mm` is the side of a voxel in mm per array axis, in the order of the axes; or the step in the world of each
axis, where they are not at right angles (`metrics.distances.Spacing`). A single slice is measured in its plane.

Raises:
    UserError: different shapes, a spacing that does not fit, or an unknown method.
"""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np

from jaxfuse.errors import UserError
from jaxfuse.metrics.distances import BoolMask, Spacing, Statistic, measured_mm
from jaxfuse.metrics.overlap import Mask

_HD95: Mapping[str, Statistic] = {
    "pooled": lambda d1, d2: np.percentile(np.concatenate([d1, d2]), 95),
    "directed": lambda d1, d2: max(np.percentile(d1, 95), np.percentile(d2, 95)),
}
_ASSD: Mapping[str, Statistic] = {
    "pooled": lambda d1, d2: np.concatenate([d1, d2]).mean(),
    "mean_of_means": lambda d1, d2: (d1.mean() + d2.mean()) / 2,
}
# By the names of the functions below; a function of two methods stands for the first.
_STATISTICS: Mapping[str, Statistic] = {
    "hd_mm": lambda d1, d2: max(d1.max(), d2.max()),
    "hd95_mm": _HD95["pooled"],
    "mhd_mm": lambda d1, d2: max(d1.mean(), d2.mean()),
    "asd_mm": lambda d1, d2: d1.mean(),
    "assd_mm": _ASSD["pooled"],
}


def surface_distances_mm(pred: Mask, truth: Mask, *, spacing_mm: Spacing, one_empty: float) -> dict[str, float]:
    """All distances of this module at the price of one: hd_mm, hd95_mm, mhd_mm, asd_mm and assd_mm, pooled."""
    return measured_mm(pred, truth, _STATISTICS, chosen=_surface, spacing_mm=spacing_mm, one_empty=one_empty)


def hausdorff_mm(pred: Mask, truth: Mask, *, spacing_mm: Spacing, one_empty: float) -> float:
    """Largest of all distances D1 and D2 in mm."""
    return _measure(pred, truth, spacing_mm, one_empty, _STATISTICS["hd_mm"])


def hd95_mm(
    pred: Mask,
    truth: Mask,
    *,
    spacing_mm: Spacing,
    one_empty: float,
    method: str = "pooled",
) -> float:
    """95th percentile of the surface distances, linearly interpolated, in mm.

    "pooled" takes the percentile of D1 and D2 together (MedPy); "directed" takes it of each and returns the
    larger (MONAI). The two differ: name the one used in every table.
    """
    return _measure(pred, truth, spacing_mm, one_empty, _named(_HD95, method))


def mhd_mm(pred: Mask, truth: Mask, *, spacing_mm: Spacing, one_empty: float) -> float:
    """The larger of the means of D1 and D2 in mm: one of several "modified Hausdorff distances".

    `metrics.voxel_sets.mhd_dubuisson_mm` takes whole masks in place of surfaces.
    """
    return _measure(pred, truth, spacing_mm, one_empty, _STATISTICS["mhd_mm"])


def asd_mm(pred: Mask, truth: Mask, *, spacing_mm: Spacing, one_empty: float) -> float:
    """Mean of D1 in mm: directed, from the prediction to the truth, so swapping the masks changes it."""
    return _measure(pred, truth, spacing_mm, one_empty, _STATISTICS["asd_mm"])


def assd_mm(
    pred: Mask,
    truth: Mask,
    *,
    spacing_mm: Spacing,
    one_empty: float,
    method: str = "pooled",
) -> float:
    """Average symmetric surface distance in mm.

    "pooled" is the mean over D1 and D2 together (MedPy since 0.5); "mean_of_means" averages the two directed
    means, however many voxels each has (MedPy up to 0.4, panoptica).
    """
    return _measure(pred, truth, spacing_mm, one_empty, _named(_ASSD, method))


def _named(statistics: Mapping[str, Statistic], method: str) -> Statistic:
    if method not in statistics:
        raise UserError(f"{method!r} is not a method of this distance; choose one of {', '.join(statistics)}")
    return statistics[method]


def _measure(pred: Mask, truth: Mask, spacing_mm: Spacing, one_empty: float, statistic: Statistic) -> float:
    return measured_mm(pred, truth, {"it": statistic}, chosen=_surface, spacing_mm=spacing_mm, one_empty=one_empty)[
        "it"
    ]


def _surface(mask: BoolMask) -> BoolMask:
    """Voxels of the mask with a face neighbor in the background; the array's outermost voxels are background."""
    inner = mask.copy()
    for axis in range(mask.ndim):
        # The mask lies inside one voxel of background, so nothing wraps around.
        inner &= np.roll(mask, 1, axis) & np.roll(mask, -1, axis)
    return mask & ~inner
