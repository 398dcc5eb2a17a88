"""What label maps are scored by, per region: for BraTS, iSeg and stroke the metrics and the rule for empty masks.

Overlap is in [0, 1]. Names of distances end in their unit; `DEFINITIONS` says in words what each one is, because the
field uses the same names for different numbers.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Protocol, runtime_checkable

from jaxfuse.errors import UserError
from jaxfuse.labels import LabelScheme
from jaxfuse.metrics.overlap import Mask, dice, iou, sensitivity, specificity
from jaxfuse.metrics.surface import hausdorff_mm, hd95_mm, surface_distances_mm
from jaxfuse.metrics.voxel_sets import voxel_set_distances_mm

_SURFACE = "surface = mask minus its erosion by the 6-neighbor cross"
_WHOLE = "over all voxels of both masks, not their surfaces"
# Metric -> its printed name, and what it is.
DEFINITIONS: Mapping[str, tuple[str, str]] = {
    "hd_mm": ("HD", f"largest of the surface distances of both directions, in mm; {_SURFACE}"),
    "hd_voxels": (
        "HD (voxels)",
        "the same with voxels of side 1, whatever their shape; never a penalty: nan where exactly one mask is empty",
    ),
    "hd95_mm": (
        "HD95",
        "95th percentile, linearly interpolated, of the surface distances of both directions pooled, in mm; "
        f"{_SURFACE}",
    ),
    "mhd_mm": ("MHD", f"the larger of the mean surface distances of the two directions, in mm; {_SURFACE}"),
    "asd_mm": ("ASD", f"mean distance of the prediction's surface to that of the truth, in mm; {_SURFACE}"),
    "assd_mm": ("ASSD", f"mean of the surface distances of both directions pooled, in mm; {_SURFACE}"),
    "iseg_mhd_mm": (
        "iSeg MHD",
        f"largest distance in either direction, in mm, {_WHOLE}; an upper bound of the challenge's own figure, which a "
        "random order of voxels changes",
    ),
    "iseg_asd_mm": ("iSeg ASD", f"mean of the mean distances of the two directions, in mm, {_WHOLE}"),
    "mhd_dubuisson_mm": (
        "Dubuisson MHD",
        f"the larger of the mean distances of the two directions, in mm, {_WHOLE}",
    ),
}


@runtime_checkable
class Measure(Protocol):
    """Metrics of one region by name, in the order of tables."""

    def __call__(
        self, pred: Mask, truth: Mask, *, spacing_mm: Sequence[float], one_empty: float
    ) -> dict[str, float]: ...


@dataclass(frozen=True)
class LabelProtocol:
    """How label maps of one kind of data are scored.

    Attributes:
        scheme: name of the label scheme of its files; empty where several years have their own.
        one_empty: what holds where a user names no rule, as in `one_empty_mm`.
    """

    name: str
    scheme: str
    measure: Measure
    one_empty: str


def _brats(pred: Mask, truth: Mask, *, spacing_mm: Sequence[float], one_empty: float) -> dict[str, float]:
    return {
        "dice": dice(pred, truth),
        "iou": iou(pred, truth),
        "sensitivity": sensitivity(pred, truth),
        "specificity": specificity(pred, truth),
        "hd95_mm": hd95_mm(pred, truth, spacing_mm=spacing_mm, one_empty=one_empty),
    }


def _iseg(pred: Mask, truth: Mask, *, spacing_mm: Sequence[float], one_empty: float) -> dict[str, float]:
    return {
        "dice": dice(pred, truth),
        **surface_distances_mm(pred, truth, spacing_mm=spacing_mm, one_empty=one_empty),
        **voxel_set_distances_mm(pred, truth, spacing_mm=spacing_mm, one_empty=one_empty),
    }


def _stroke(pred: Mask, truth: Mask, *, spacing_mm: Sequence[float], one_empty: float) -> dict[str, float]:
    return {
        "dice": dice(pred, truth),
        "hd_mm": hausdorff_mm(pred, truth, spacing_mm=spacing_mm, one_empty=one_empty),
        # A penalty is a number of mm.
        "hd_voxels": hausdorff_mm(pred, truth, spacing_mm=(1.0,) * pred.ndim, one_empty=math.nan),
    }


BRATS = LabelProtocol("brats", "", _brats, "penalty")
ISEG = LabelProtocol("iseg", "iseg", _iseg, "nan")
STROKE = LabelProtocol("stroke", "stroke", _stroke, "nan")
_OF_SCHEME = {protocol.scheme: protocol for protocol in (ISEG, STROKE)}

# Distances in mm where exactly one mask is empty. Up to 2021: the diagonal of the 240 x 240 x 155 mm volume.
BRATS_PENALTY_MM = math.sqrt(240**2 + 240**2 + 155**2)
BRATS2023_PENALTY_MM = 374.0
_PENALTY_MM: Mapping[str, float] = {
    "brats2015": BRATS_PENALTY_MM,
    "decathlon": BRATS_PENALTY_MM,
    "brats": BRATS_PENALTY_MM,
    "brats2023": BRATS2023_PENALTY_MM,
    "brats2024": BRATS2023_PENALTY_MM,
}


def protocol_of(scheme: LabelScheme) -> LabelProtocol:
    """The protocol by which data of a label scheme are scored: its own where it has one, else that of BraTS."""
    return _OF_SCHEME.get(scheme.name, BRATS)


def one_empty_mm(rule: str, scheme: LabelScheme) -> float:
    """Distances where exactly one mask is empty: "penalty" (that of the scheme's challenge year), "nan" or a number."""
    if rule == "penalty":
        if scheme.name not in _PENALTY_MM:
            raise UserError(
                f"no challenge sets an HD95 penalty for the label scheme {scheme.name!r}; "
                "set one_empty to nan or to a number of mm"
            )
        return _PENALTY_MM[scheme.name]
    try:
        value = float(rule)
    except ValueError:
        value = -1.0
    if value < 0:
        raise UserError(f"one_empty is {rule!r}; give penalty, nan or a number of mm that is not negative")
    return value


def default_one_empty_mm(scheme: LabelScheme) -> float:
    """The penalty of the scheme's challenge year; nan (left out and counted) where no challenge sets one."""
    return _PENALTY_MM.get(scheme.name, math.nan)
