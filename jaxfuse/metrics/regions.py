"""Label maps scored by region: one case -> one row per region, rows -> a summary over cases.

Every metric is taken per case and region and then averaged over cases; voxels of different cases are never
pooled. The protocol decides the metrics (`jaxfuse.metrics.protocols`). Empty masks follow the ranking rules of the
BraTS challenges everywhere: Dice, IoU and sensitivity are 1 if prediction and truth are both empty and 0 if only one
is; distances are then 0 and a penalty (or nan, to leave the case out).
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from jaxtyping import Float64

from jaxfuse.errors import UserError
from jaxfuse.labels import IGNORED, LabelScheme
from jaxfuse.metrics.distances import Spacing, voxel_size
from jaxfuse.metrics.lesions import LesionScores
from jaxfuse.metrics.names import metric_of
from jaxfuse.metrics.overlap import Labels, require_same_shape, specificity
from jaxfuse.metrics.protocols import DICE, DICE_NONEMPTY, METRICS, SPECIFICITY, LabelProtocol, protocol_of
from jaxfuse.metrics.statistics import statistics

_NAMES, _VOLUMES = ("case", "output", "region"), ("pred_mm3", "truth_mm3")


def score_case(pred: Labels, truth: Labels, scheme: LabelScheme, **settings: Any) -> list[dict[str, Any]]:
    """Returns the rows of `score_regions`, which takes the same."""
    return score_regions(pred, truth, scheme, **settings)[0]


def score_regions(
    pred: Labels,
    truth: Labels,
    scheme: LabelScheme,
    *,
    spacing_mm: Spacing,
    one_empty: float,
    case: str,
    output: str,
    protocol: LabelProtocol | None = None,
) -> tuple[list[dict[str, Any]], dict[str, LesionScores]]:
    """Scores one prediction against its truth: one row per region of the scheme, in the scheme's order.

    Args:
        pred, truth: class indices 0..K-1 (not file values) of one shape, 2D or 3D. Voxels whose truth is `IGNORED` are
            left out: distances are measured as if nothing were there.
        spacing_mm: the side of a voxel, or the step in the world, per array axis.
        one_empty: distances in mm where exactly one mask of a region is empty; see `protocols.one_empty_mm`.
        case, output: written into the rows; `output` names the prediction, such as S_F.
        protocol: the metrics; None: those by which data of this scheme are scored.

    Returns:
        Rows with case, output, region, the protocol's metrics, and the region's volumes pred_mm3 and truth_mm3; of a
        2D case these are those of a slice 1 mm thick. And the lesions by region, of a protocol that tells them apart.
    """
    require_same_shape(pred, truth)
    known = truth != IGNORED
    if not known.all():
        pred, truth = np.where(known, pred, 0), np.where(known, truth, 0)
    for name, array in (("prediction", pred), ("truth", truth)):
        if array.min() < 0 or array.max() >= len(scheme.classes):
            raise UserError(
                f"the {name} of case {case} holds values from {array.min()} to {array.max()}; "
                f"class indices of the scheme {scheme.name!r} run from 0 to {len(scheme.classes) - 1}"
            )
    measure = (protocol or protocol_of(scheme)).measure
    voxel_mm3 = voxel_size(spacing_mm)
    rows, lesions = [], dict[str, LesionScores]()
    for region, classes in scheme.regions.items():
        inside = np.zeros(len(scheme.classes), dtype=bool)
        inside[list(classes)] = True
        p, t = inside[pred], inside[truth]
        measured, found = measure(p, t, spacing_mm=spacing_mm, one_empty=one_empty)
        if found is not None:
            lesions[region] = found
        if SPECIFICITY.name in measured and not known.all():
            measured[SPECIFICITY.name] = specificity(p[known], t[known])
        rows.append(
            {
                "case": case,
                "output": output,
                "region": region,
                **measured,
                "pred_mm3": float(np.count_nonzero(p) * voxel_mm3),
                "truth_mm3": float(np.count_nonzero(t) * voxel_mm3),
            }
        )
    return rows, lesions


def summarize(rows: Sequence[Mapping[str, Any]]) -> dict[str, dict[str, dict[str, dict[str, float]]]]:
    """{output: {region: {metric: statistics, "counts": counts}}} over cases, with "mean" beside the regions.

    Statistics are `mean`, `std` (over n - 1; nan below two cases), `median` and `n` of the defined (finite)
    values, and `undefined`, the number of cases that are nan or infinite and therefore not in them. The metrics
    are those of the rows and `dice_nonempty`, the Dice over cases with a non-empty truth only: its `undefined` counts
    the rest. Counts are `cases`, `truth_empty`, `pred_empty` and `one_empty` (exactly one mask empty: distances have no
    value of their own there).

    "mean" is the plain mean over regions, as papers print it: its `mean` is the mean of the regions' means. Its
    `std`, `median` and `n` are over the per-case means of those cases in which every region is defined; its
    counts are of cases with at least one such region.
    """
    if not rows:
        raise UserError("there are no scores to summarize; give the rows of at least one case")
    return {output: _summarize_output(output, rows) for output in dict.fromkeys(r["output"] for r in rows)}


def summary_document(rows: Sequence[Mapping[str, Any]], *, primary: str, one_empty: float) -> dict[str, Any]:
    """The `summary.json` of a segmentation: the summary of every output and the definitions behind it.

    "distances" defines metrics in words, by their printed names.
    """
    outputs = summarize(rows)
    if primary not in outputs:
        raise UserError(f"there are no scores of the output {primary!r}; the outputs are {', '.join(outputs)}")
    measured = [metric_of(name, METRICS) for name in metrics_of(rows)]
    return {
        "kind": "segmentation",
        "primary": primary,
        "cases": len({row["case"] for row in rows}),
        "distances": {metric.short: metric.definition for metric in measured if metric.definition},
        "one_empty": describe_one_empty(one_empty),
        "outputs": outputs,
    }


def describe_one_empty(one_empty: float) -> str:
    """The rule for distances with exactly one mask empty, in words."""
    if math.isfinite(one_empty):
        return f"distances are {one_empty:.7g} mm where exactly one of prediction and truth is empty, 0 where both are"
    return (
        f"distances are {one_empty} where exactly one of prediction and truth is empty "
        "(left out of the mean and counted as undefined), 0 where both are"
    )


def metrics_of(rows: Sequence[Mapping[str, Any]]) -> tuple[str, ...]:
    """The names of the metrics that rows hold, in their order."""
    return tuple(name for name in rows[0] if name not in (*_NAMES, *_VOLUMES))


def _summarize_output(output: str, rows: Sequence[Mapping[str, Any]]) -> dict[str, dict[str, dict[str, float]]]:
    by_key = {(row["case"], row["region"]): row for row in rows if row["output"] == output}
    cases = list(dict.fromkeys(case for case, _ in by_key))
    regions = list(dict.fromkeys(region for _, region in by_key))
    if len(by_key) != sum(row["output"] == output for row in rows):
        raise UserError(f"the scores of {output} hold a case and region twice; give each pair one row")
    for case in cases:
        missing = [region for region in regions if (case, region) not in by_key]
        if missing:
            raise UserError(f"the scores of {output} lack {', '.join(missing)} for case {case}; score every region")

    def table(column: str) -> Float64[np.ndarray, "cases regions"]:
        return np.array([[by_key[c, r][column] for r in regions] for c in cases], dtype=np.float64)

    truth_empty, pred_empty = table("truth_mm3") == 0, table("pred_mm3") == 0
    values = {metric: table(metric) for metric in metrics_of(rows)}
    values[DICE_NONEMPTY.name] = np.where(truth_empty, np.nan, values[DICE.name])
    empties = {"truth_empty": truth_empty, "pred_empty": pred_empty, "one_empty": truth_empty ^ pred_empty}

    summary: dict[str, dict[str, dict[str, float]]] = {}
    for column, region in enumerate(regions):
        summary[region] = {metric: statistics(v[:, column]) for metric, v in values.items()}
        counted = {name: int(flags[:, column].sum()) for name, flags in empties.items()}
        summary[region]["counts"] = {"cases": len(cases), **counted}
    summary["mean"] = {}
    for metric, v in values.items():
        of_regions = [summary[region][metric]["mean"] for region in regions]
        summary["mean"][metric] = {**statistics(_row_means(v)), "mean": float(np.mean(of_regions))}
    counted = {name: int(flags.any(axis=1).sum()) for name, flags in empties.items()}
    summary["mean"]["counts"] = {"cases": len(cases), **counted}
    return summary


def _row_means(values: Float64[np.ndarray, "cases regions"]) -> Float64[np.ndarray, " cases"]:
    """Mean over regions of every case, nan where a region is undefined."""
    return np.where(np.isfinite(values), values, np.nan).mean(axis=1)
