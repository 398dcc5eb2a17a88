"""Label volumes against references, by region: the protocols of `jaxfuse.metrics.protocols`.

Distances are in mm, by the voxels of the reference.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
from jaxtyping import UInt8

from jaxfuse.errors import UserError
from jaxfuse.io.nifti import Volume, geometry_mismatch, read_volume
from jaxfuse.labels import IGNORED, SCHEMES, LabelScheme, label_scheme
from jaxfuse.metrics import protocols
from jaxfuse.metrics.protocols import LabelProtocol, one_empty_mm
from jaxfuse.metrics.regions import score_regions, summary_document
from jaxfuse.postprocessing.note import chosen_on_it
from jaxfuse.scoring.calibration import (
    BINS,
    BINS_COLUMNS,
    CALIBRATION,
    CALIBRATION_COLUMNS,
    Maps,
    calibration_rows,
    calibration_summary,
    find_maps,
)
from jaxfuse.scoring.groups import bounds_of, group_scores
from jaxfuse.scoring.label_maps import class_indices, label_pictures
from jaxfuse.scoring.lesions import COLUMNS, LESIONS, lesion_rows
from jaxfuse.scoring.pairing import find_predictions, find_references, pair
from jaxfuse.scoring.protocol import Call, Option, Protocol, Row, Table, open_scores, score_each, write_scores

OUTPUT = "prediction"


def score_labels(
    pred: Path,
    ref: Path,
    out: Path,
    call: Call,
    *,
    protocol: LabelProtocol,
    labels: str | None,
    one_empty: str | None,
    calibration: bool = False,
    sizes_mm3: Sequence[str] | None = None,
) -> dict[str, Any]:
    """Scores the folder `pred` against `ref`, writes cases.csv and summary.json to `out` and returns the summary.

    A protocol that tells lesions apart also writes lesions.csv, `calibration` calibration.csv and reliability.csv.

    Args:
        labels: name of the label scheme of both folders; None: that of the protocol, else the one that the references'
            layout implies.
        one_empty: "penalty", "nan" or a number of mm, see `metrics.protocols.one_empty_mm`; None: that of the protocol.
        calibration: score the maps of class probabilities in the folder `probabilities` of `pred`, too.
        sizes_mm3: bounds of the groups by volume; None: thirds.
    """
    predictions = find_predictions(pred)
    references, implied = find_references(ref)
    name = labels or protocol.scheme or implied
    if name is None:
        raise UserError(
            f"the label files in {ref} do not tell what their values mean; name it with --labels ({', '.join(SCHEMES)})"
        )
    scheme = label_scheme(name)
    penalty_mm = one_empty_mm(protocol.one_empty if one_empty is None else one_empty, scheme)
    paired = pair(predictions, references, allow_missing=call.allow_missing)
    call.groups.check(paired.cases)
    sizes = bounds_of(sizes_mm3)
    reads = (pred, predictions.values()), (ref, references.values())
    maps = find_maps(pred, ref, paired.cases) if calibration else None
    names = (*((LESIONS,) if protocol.lesions else ()), *((CALIBRATION, BINS) if maps else ()))
    outputs = open_scores(out, *reads, tables=names, overwrite=call.overwrite)

    rules = scheme, protocol.name, penalty_mm, maps
    jobs = {case: partial(_score_files, case, predictions[case], references[case], *rules) for case in paired.cases}
    found, refused = score_each(jobs, call.processes)
    rows = [row for one in found.values() for row in one.rows]
    lesions = [row for one in found.values() for row in one.lesions]
    summary = summary_document(rows, primary=OUTPUT, one_empty=penalty_mm) | {
        "protocol": protocol.name,
        "labels": scheme.name,
        "postprocessing_chosen_on": [case for case in found if chosen_on_it(predictions[case])],
        "groups": group_scores(rows, call.groups, bounds_mm3=sizes, lesions=lesions),
        **paired.left_out(),
    }
    if maps:
        summary["calibration"] = calibration_summary([one.calibration for one in found.values()], maps)
    tables = {
        LESIONS: Table(LESIONS, COLUMNS, lesions),
        CALIBRATION: Table(CALIBRATION, CALIBRATION_COLUMNS, [one.calibration for one in found.values()]),
        BINS: Table(BINS, BINS_COLUMNS, [row for one in found.values() for row in one.bins]),
    }
    return write_scores(outputs, rows, summary, refused, [tables[name] for name in names])


@dataclass(frozen=True)
class _Scored:
    """The rows of one case for each table."""

    rows: list[dict[str, Any]]
    lesions: list[Row]
    calibration: Row
    bins: list[Row]


def _score_files(
    case: str,
    prediction: Path,
    reference: Path,
    scheme: LabelScheme,
    protocol: str,
    penalty_mm: float,
    maps: Maps | None,
) -> _Scored:
    """Scores a case; `protocol` is a name, which other processes can be told, as its metrics cannot."""
    pred, truth = read_volume(prediction), read_volume(reference)
    mismatch = geometry_mismatch(pred, truth)
    if mismatch:
        raise UserError(f"prediction and reference of case {case} do not fit: {mismatch}")
    labels = class_indices("reference", truth, scheme)
    rows, lesions = score_regions(
        _predicted(pred, scheme),
        labels,
        scheme,
        spacing_mm=truth.steps_mm,
        one_empty=penalty_mm,
        case=case,
        output=OUTPUT,
        protocol=next(one for one in protocols.PROTOCOLS if one.name == protocol),
    )
    calibration, bins = {}, []
    if maps:
        calibration, bins = calibration_rows(
            case, OUTPUT, maps.files[case], maps.images.get(case, ()), truth, labels, scheme
        )
    return _Scored(rows, lesion_rows(case, OUTPUT, lesions, truth.affine), calibration, bins)


def _predicted(volume: Volume, scheme: LabelScheme) -> UInt8[np.ndarray, "d h w"]:
    """Class indices of a prediction, in which nothing is ignored."""
    labels = class_indices("prediction", volume, scheme)
    if (labels == IGNORED).any():
        raise UserError(
            f"prediction {volume.name} holds the value by which labels say ignore, and a prediction names a class for "
            "each voxel; give the label maps of a network"
        )
    return labels


_OPTIONS = (
    Option(
        "labels",
        f"Label volumes: what the values of both folders mean: {', '.join(SCHEMES)}, or written, such as "
        "edema=1,core=2. iseg and stroke have their own; for brats case folders imply it by their naming.",
    ),
    Option(
        "one_empty",
        "Label volumes: distances where exactly one of prediction and reference is empty: penalty (373.13 mm, from "
        "2023 on 374; the default of brats), nan (left out of the mean, and counted; that of iseg and stroke) or a "
        "number of mm.",
    ),
    Option(
        "calibration",
        "Label volumes: also score the class probabilities in the folder probabilities of each --pred, as "
        "`predict --save_probabilities` writes them.",
        switch=True,
    ),
    Option(
        "sizes_mm3",
        "Label volumes: bounds of the groups by volume of a region, and of a lesion, such as 1000,10000; thirds if not "
        "given.",
        several=True,
    ),
)
PROTOCOLS = tuple(
    Protocol(
        scored.name,
        "segmentation",
        partial(score_labels, protocol=scored),
        _OPTIONS,
        f"label volumes; {', '.join(metric.title for metric in scored.metrics)} of each region",
        OUTPUT,
        scored.metrics,
        scored.ranked,
        label_pictures,
        (LESIONS,) if scored.lesions else (),
    )
    for scored in protocols.PROTOCOLS
)
