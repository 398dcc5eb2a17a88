"""The metrics that label maps are scored by, per region, and the rule for empty masks: for BraTS, iSeg and stroke.

A new metric is a function in a module of its own, a `Metric` here, and a line in the protocols that it belongs to.
Overlap is in [0, 1]. Names of distances end in their unit; their definitions say in words what each one is, because the
field uses the same names for different numbers.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Protocol, runtime_checkable

from jaxfuse.errors import UserError
from jaxfuse.labels import LabelScheme
from jaxfuse.metrics.distances import Spacing
from jaxfuse.metrics.lesions import (
    GLIOMA,
    MENINGIOMA,
    METASTASES,
    STROKES,
    LesionScores,
    Matching,
    lesion_scores,
    volume_ml,
)
from jaxfuse.metrics.names import Metric
from jaxfuse.metrics.overlap import Mask, dice, iou, sensitivity, specificity
from jaxfuse.metrics.surface import hausdorff_mm, hd95_mm, surface_distances_mm
from jaxfuse.metrics.surfels import surfels
from jaxfuse.metrics.voxel_sets import voxel_set_distances_mm

_SURFACE = "surface = mask minus its erosion by the 6-neighbor cross (4-neighbor in a single slice)"
_WHOLE = "over all voxels of both masks, not their surfaces"

DICE = Metric("dice", "Dice", 3, True)
IOU = Metric("iou", "IoU", 3, True, in_console=False)
SENSITIVITY = Metric("sensitivity", "Sensitivity", 3, True)
SPECIFICITY = Metric("specificity", "Specificity", 4, True)
HD = Metric("hd_mm", "HD (mm)", 2, False, f"largest of the surface distances of both directions, in mm; {_SURFACE}")
HD_VOXELS = Metric(
    "hd_voxels",
    "HD (voxels)",
    2,
    False,
    "the same with voxels of side 1, whatever their shape; never a penalty: nan where exactly one mask is empty",
)
HD95 = Metric(
    "hd95_mm",
    "HD95 (mm)",
    2,
    False,
    f"95th percentile, linearly interpolated, of the surface distances of both directions pooled, in mm; {_SURFACE}",
)
MHD = Metric(
    "mhd_mm",
    "MHD (mm)",
    2,
    False,
    f"the larger of the mean surface distances of the two directions, in mm; {_SURFACE}",
)
ASD = Metric(
    "asd_mm",
    "ASD (mm)",
    2,
    False,
    f"mean distance of the prediction's surface to that of the truth, in mm; {_SURFACE}",
)
ASSD = Metric(
    "assd_mm",
    "ASSD (mm)",
    2,
    False,
    f"mean of the surface distances of both directions pooled, in mm; {_SURFACE}",
)
ISEG_MHD = Metric(
    "iseg_mhd_mm",
    "iSeg MHD (mm)",
    2,
    False,
    f"largest distance in either direction, in mm, {_WHOLE}; an upper bound of the challenge's own figure, which a "
    "random order of voxels changes",
)
ISEG_ASD = Metric(
    "iseg_asd_mm",
    "iSeg ASD (mm)",
    2,
    False,
    f"mean of the mean distances of the two directions, in mm, {_WHOLE}",
)
MHD_DUBUISSON = Metric(
    "mhd_dubuisson_mm",
    "Dubuisson MHD (mm)",
    2,
    False,
    f"the larger of the mean distances of the two directions, in mm, {_WHOLE}",
)
_SURFELS = "surface elements of marching cubes, weighted by their areas"
_LESIONWISE = "mean over the lesions of the truth that count and the false alarms"
HD95_SURFELS = Metric(
    "hd95_surfels_mm",
    "HD95, surfels (mm)",
    2,
    False,
    f"the larger of the 95th percentiles of the distances of both directions, in mm, between {_SURFELS}",
)
ASD_SURFELS = Metric(
    "asd_surfels_mm",
    "ASD, surfels (mm)",
    2,
    False,
    f"mean distance of the prediction's surface to that of the truth, in mm, between {_SURFELS}",
)
_TOLERANCES_MM = (1, 2)
NSD = tuple(
    Metric(
        f"nsd_{mm}mm",
        f"NSD at {mm} mm",
        3,
        True,
        f"share of both surfaces at most {mm} mm from the other, of {_SURFELS}",
        in_console=mm == 1,
    )
    for mm in _TOLERANCES_MM
)
LESION_DICE = Metric("lesion_dice", "Dice by lesion", 3, True, f"{_LESIONWISE}, which count 0, as does a missed lesion")
LESION_HD95 = Metric(
    "lesion_hd95_mm",
    "HD95 by lesion (mm)",
    2,
    False,
    f"{_LESIONWISE}, which count 374 mm, as does a missed lesion; between {_SURFELS}",
)
LESION_F1 = Metric(
    "lesion_f1", "F1 of lesions", 3, True, "2 TP / (2 TP + FP + FN) of lesions; one that is touched is found"
)
LESIONS_MORE = Metric(
    "lesion_difference",
    "Lesion difference",
    2,
    False,
    "lesions of the prediction more or fewer than of the truth, connected by faces, edges and corners",
)
VOLUME_DIFFERENCE = Metric(
    "volume_difference_ml",
    "Volume difference (ml)",
    2,
    False,
    "difference of the volumes of prediction and truth",
)
VOLUME_ERROR = Metric(
    "volume_error_ml",
    "Volume error (ml)",
    2,
    None,
    "volume of the prediction less that of the truth, with its sign",
    in_console=False,
)
VOLUME_SHARE = Metric(
    "volume_error_share",
    "Volume error, share",
    3,
    None,
    "volume error over the volume of the truth, with its sign; undefined where the truth alone is empty",
    in_console=False,
)
LESIONS_FOUND = Metric("lesions_found", "Lesions found", 1, None, in_console=False)
LESIONS_MISSED = Metric("lesions_missed", "Lesions missed", 1, False, in_console=False)
LESIONS_FALSE = Metric("lesions_false", "False alarms", 1, False, in_console=False)
# Taken by `metrics.regions` from the Dice of all cases.
DICE_NONEMPTY = Metric("dice_nonempty", "Dice, truth not empty", 3, True)


# Distances in mm where exactly one mask is empty. Up to 2021: the diagonal of the 240 x 240 x 155 mm volume.
BRATS_PENALTY_MM = math.sqrt(240**2 + 240**2 + 155**2)
BRATS2023_PENALTY_MM = 374.0


@runtime_checkable
class Measure(Protocol):
    """Values of one region by the names of metrics."""

    def __call__(self, pred: Mask, truth: Mask, *, spacing_mm: Spacing, one_empty: float) -> dict[str, float]: ...


@dataclass(frozen=True)
class Measured:
    """Metrics that one computation gives.

    Attributes:
        metrics: in the order of tables.
        measure: gives their values.
    """

    metrics: tuple[Metric, ...]
    measure: Measure


@dataclass(frozen=True)
class MeasuredLesions:
    """Metrics that are taken of the lesions of a region.

    Attributes:
        metrics: in the order of tables, where they follow all others.
        matching: how lesions are told apart.
        values: gives the values of the metrics, in their order.
    """

    metrics: tuple[Metric, ...]
    matching: Matching
    values: Callable[[LesionScores], tuple[float, ...]]


@dataclass(frozen=True)
class LabelProtocol:
    """The scoring of label maps of one kind of data.

    Attributes:
        scheme: name of the label scheme of its files; empty where several years have their own.
        measured: its metrics, in the order of tables.
        one_empty: the rule of `one_empty_mm` where a user names none.
        ranked: the metrics that methods are ranked by.
        lesions: those of lesions; None: the protocol tells none apart.
    """

    name: str
    scheme: str
    measured: tuple[Measured, ...]
    one_empty: str
    ranked: tuple[Metric, ...]
    lesions: MeasuredLesions | None = None

    @property
    def metrics(self) -> tuple[Metric, ...]:
        """All metrics, in the order of tables."""
        all_of_them = (*self.measured, *((self.lesions,) if self.lesions else ()))
        return tuple(metric for measured in all_of_them for metric in measured.metrics)

    def measure(
        self, pred: Mask, truth: Mask, *, spacing_mm: Spacing, one_empty: float
    ) -> tuple[dict[str, float], LesionScores | None]:
        """All values of one region by the names of the metrics, in the order of tables, and its lesions."""
        values: dict[str, float] = {}
        for measured in self.measured:
            values |= measured.measure(pred, truth, spacing_mm=spacing_mm, one_empty=one_empty)
        if self.lesions is None:
            return values, None
        found = lesion_scores(pred, truth, spacing_mm=spacing_mm, matching=self.lesions.matching)
        names = (metric.name for metric in self.lesions.metrics)
        return values | dict(zip(names, self.lesions.values(found), strict=True)), found


def _overlap(metric: Metric, function: Callable[[Mask, Mask], float]) -> Measured:
    """A metric of masks alone."""

    def measure(pred: Mask, truth: Mask, *, spacing_mm: Spacing, one_empty: float) -> dict[str, float]:
        del spacing_mm, one_empty
        return {metric.name: function(pred, truth)}

    return Measured((metric,), measure)


def _distance(metric: Metric, function: Callable[..., float]) -> Measured:
    """A metric in mm, by the sides of voxels."""

    def measure(pred: Mask, truth: Mask, *, spacing_mm: Spacing, one_empty: float) -> dict[str, float]:
        return {metric.name: function(pred, truth, spacing_mm=spacing_mm, one_empty=one_empty)}

    return Measured((metric,), measure)


def _hausdorff_voxels(pred: Mask, truth: Mask) -> float:
    # A penalty is a number of mm.
    return hausdorff_mm(pred, truth, spacing_mm=(1.0,) * pred.ndim, one_empty=math.nan)


def _by_surfels(pred: Mask, truth: Mask, *, spacing_mm: Spacing, one_empty: float) -> dict[str, float]:
    found = surfels(pred, truth, spacing_mm=spacing_mm)
    return {
        HD95_SURFELS.name: found.hd95_mm(one_empty=one_empty),
        ASD_SURFELS.name: found.asd_mm(one_empty=one_empty),
        **{metric.name: found.nsd(mm) for metric, mm in zip(NSD, _TOLERANCES_MM, strict=True)},
    }


def _volumes(pred: Mask, truth: Mask, *, spacing_mm: Spacing, one_empty: float) -> dict[str, float]:
    del one_empty  # no distance is among them
    made, real = volume_ml(pred, spacing_mm=spacing_mm), volume_ml(truth, spacing_mm=spacing_mm)
    share = (made - real) / real if real else (math.nan if made else 0.0)
    return {
        VOLUME_DIFFERENCE.name: abs(made - real),
        VOLUME_ERROR.name: made - real,
        VOLUME_SHARE.name: share,
    }


def _of_lesions(found: LesionScores) -> tuple[float, ...]:
    counts = found.true_positives, found.false_negatives, found.false_positives
    return found.dice, found.hd95_mm, found.f1, *map(float, counts)


def _of_strokes(found: LesionScores) -> tuple[float, ...]:
    # No lesion is too small to count.
    return found.f1, float(abs(found.components - len(found.lesions)))


_DICE = _overlap(DICE, dice)
_SURFACES = Measured((HD, HD95, MHD, ASD, ASSD), surface_distances_mm)
_VOLUMES = Measured((VOLUME_DIFFERENCE, VOLUME_ERROR, VOLUME_SHARE), _volumes)
_VOXEL_SETS = Measured((ISEG_MHD, ISEG_ASD, MHD_DUBUISSON), voxel_set_distances_mm)
_OVERLAP = (_DICE, _overlap(IOU, iou), _overlap(SENSITIVITY, sensitivity), _overlap(SPECIFICITY, specificity))
BRATS = LabelProtocol("brats", "", (*_OVERLAP, _distance(HD95, hd95_mm)), "penalty", (DICE, HD95))


def _since_2023(name: str, matching: Matching) -> LabelProtocol:
    """The ranking of BraTS since 2023, by the rules of one of its tasks."""
    measured = (*_OVERLAP, Measured((HD95_SURFELS, ASD_SURFELS, *NSD), _by_surfels), _VOLUMES)
    counts = LESIONS_FOUND, LESIONS_MISSED, LESIONS_FALSE
    lesions = MeasuredLesions((LESION_DICE, LESION_HD95, LESION_F1, *counts), matching, _of_lesions)
    return LabelProtocol(name, "", measured, f"{BRATS2023_PENALTY_MM:g}", (LESION_DICE, LESION_HD95), lesions)


# Gliomas, those of children and of Sub-Saharan Africa too; meningiomas; metastases.
BRATS2023 = _since_2023("brats2023", GLIOMA)
BRATS2023_MEN = _since_2023("brats2023_men", MENINGIOMA)
BRATS2023_MET = _since_2023("brats2023_met", METASTASES)
ISEG = LabelProtocol("iseg", "iseg", (_DICE, _SURFACES, _VOXEL_SETS), "nan", (DICE, ISEG_MHD, ISEG_ASD))
STROKE = LabelProtocol(
    "stroke", "stroke", (_DICE, _distance(HD, hausdorff_mm), _overlap(HD_VOXELS, _hausdorff_voxels)), "nan", (DICE, HD)
)
# The four by which ISLES 2022 ranked.
ISLES2022 = LabelProtocol(
    "isles2022",
    "stroke",
    (_DICE, _VOLUMES),
    "nan",
    (DICE, VOLUME_DIFFERENCE, LESION_F1, LESIONS_MORE),
    MeasuredLesions((LESION_F1, LESIONS_MORE), STROKES, _of_strokes),
)
PROTOCOLS = (BRATS, BRATS2023, BRATS2023_MEN, BRATS2023_MET, ISEG, STROKE, ISLES2022)
# All metrics of label maps, each once.
METRICS = (*dict.fromkeys(metric for protocol in PROTOCOLS for metric in protocol.metrics), DICE_NONEMPTY)
_OF_SCHEME = {protocol.scheme: protocol for protocol in (ISEG, STROKE)}

_PENALTY_MM: Mapping[str, float] = {
    "brats2015": BRATS_PENALTY_MM,
    "decathlon": BRATS_PENALTY_MM,
    "brats": BRATS_PENALTY_MM,
    "brats2023": BRATS2023_PENALTY_MM,
    "brats2024": BRATS2023_PENALTY_MM,
    "brats2024_ped": BRATS2023_PENALTY_MM,
    "brats2024_men_rt": BRATS2023_PENALTY_MM,
}


def protocol_of(scheme: LabelScheme) -> LabelProtocol:
    """The protocol by which data of a label scheme are scored: its own where it has one, else that of BraTS."""
    return _OF_SCHEME.get(scheme.name, BRATS)


def one_empty_mm(rule: str, scheme: LabelScheme) -> float:
    """Distances where exactly one mask is empty, in mm.

    Args:
        rule: "penalty" (that of the scheme's challenge year), "nan" or a number of mm.

    Raises:
        UserError: another rule, or a scheme whose challenge sets no penalty.
    """
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
    """The penalty of the scheme's challenge year in mm; nan (left out and counted) where no challenge sets one."""
    return _PENALTY_MM.get(scheme.name, math.nan)
