"""Distances in mm between all voxels of two masks, not their surfaces only, as the iSeg challenge measures them.

D1 holds the distance of every voxel of the prediction to the nearest voxel of the truth, D2 the reverse; where the
masks overlap it is 0. A filled prediction of a hollow truth is far off inside, which surfaces hardly show.

The challenge's own program takes, for its "modified" Hausdorff distance, a quantile of distances that a random order of
the voxels leaves unfinished, so that its values cannot be repeated. They lie just under the maximum, which is
`iseg_mhd_mm`. Other code calls a mean, `mhd_dubuisson_mm`, by the same name. Say which one a table holds.

Empty masks and `spacing_mm` as in `metrics.surface`.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from jaxfuse.metrics.distances import Spacing, Statistic, measured_mm
from jaxfuse.metrics.overlap import Mask

_STATISTICS: Mapping[str, Statistic] = {
    "iseg_mhd_mm": lambda d1, d2: max(d1.max(), d2.max()),
    "iseg_asd_mm": lambda d1, d2: (d1.mean() + d2.mean()) / 2,
    "mhd_dubuisson_mm": lambda d1, d2: max(d1.mean(), d2.mean()),
}


def voxel_set_distances_mm(pred: Mask, truth: Mask, *, spacing_mm: Spacing, one_empty: float) -> dict[str, float]:
    """All distances of this module by the names of its functions, at the price of one."""
    return _measure(pred, truth, spacing_mm, one_empty, tuple(_STATISTICS))


def iseg_mhd_mm(pred: Mask, truth: Mask, *, spacing_mm: Spacing, one_empty: float) -> float:
    """The largest of D1 and D2 in mm: the reproducible upper bound of what iSeg calls MHD."""
    return _measure(pred, truth, spacing_mm, one_empty, ("iseg_mhd_mm",))["iseg_mhd_mm"]


def iseg_asd_mm(pred: Mask, truth: Mask, *, spacing_mm: Spacing, one_empty: float) -> float:
    """The mean of the means of D1 and D2 in mm: what iSeg calls ASD."""
    return _measure(pred, truth, spacing_mm, one_empty, ("iseg_asd_mm",))["iseg_asd_mm"]


def mhd_dubuisson_mm(pred: Mask, truth: Mask, *, spacing_mm: Spacing, one_empty: float) -> float:
    """The larger of the means of D1 and D2 in mm (Dubuisson and Jain 1994)."""
    return _measure(pred, truth, spacing_mm, one_empty, ("mhd_dubuisson_mm",))["mhd_dubuisson_mm"]


def _measure(pred: Mask, truth: Mask, spacing_mm: Spacing, one_empty: float, names: Sequence[str]) -> dict[str, float]:
    statistics = {name: _STATISTICS[name] for name in names}
    return measured_mm(pred, truth, statistics, chosen=lambda mask: mask, spacing_mm=spacing_mm, one_empty=one_empty)
