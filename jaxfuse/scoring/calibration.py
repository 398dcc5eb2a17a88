"""Calibration of label maps that have maps of class probabilities beside them, case by case.

`jaxfuse.predict --save_probabilities` writes them into the folder `probabilities` among its label maps: one file for
each case, the classes along its fourth axis in the order of the label scheme.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from jaxtyping import Float, UInt8

from jaxfuse.data.brain import find_brain
from jaxfuse.data.cases import Image
from jaxfuse.errors import UserError
from jaxfuse.io.nifti import Volume, geometry_mismatch, read_channels
from jaxfuse.labels import IGNORED, LabelScheme
from jaxfuse.metrics.calibration import METRICS, brier, reliability
from jaxfuse.metrics.statistics import statistics
from jaxfuse.scoring.pairing import find_beneath, find_images, listing
from jaxfuse.scoring.protocol import Row

FOLDER = "probabilities"
CALIBRATION, BINS = "calibration.csv", "reliability.csv"
CALIBRATION_COLUMNS = ("case", "output", *(metric.name for metric in METRICS), "voxels")
BINS_COLUMNS = ("case", "output", "bin", "confidence", "accuracy", "share")
_BRAIN = "voxels of the brain, as the images of each case show it"
_ALL = "all voxels, for there is not an image of each case; most are background, and easily right"


@dataclass(frozen=True)
class Maps:
    """Where the probabilities of each case lie, and the images that show its brain; none: all voxels count."""

    files: Mapping[str, Path]
    images: Mapping[str, Sequence[Image]]

    @property
    def within(self) -> str:
        """The voxels that count, in words."""
        return _BRAIN if self.images else _ALL


def find_maps(pred: Path, ref: Path, cases: Sequence[str]) -> Maps:
    """Finds the maps of these cases beside the label maps in `pred`, and images where `ref` has one of every case.

    Raises:
        UserError: a case has no map.
    """
    folder = pred / FOLDER
    if not folder.is_dir():
        raise UserError(
            f"{pred} holds no folder {FOLDER}, which --calibration reads; predict with --save_probabilities, or leave "
            "--calibration out"
        )
    files = find_images(folder)
    if lacking := [case for case in cases if case not in files]:
        raise UserError(
            f"{folder} holds no probabilities of {listing(lacking)}; predict these cases with --save_probabilities, or "
            "leave --calibration out"
        )
    try:
        beneath = {case: tuple(images.values()) for case, images in find_beneath(ref).items()}
    except UserError:  # what is scored is scored without images
        beneath = {}
    whole = all(case in beneath for case in cases)
    return Maps({case: files[case] for case in cases}, {case: beneath[case] for case in cases} if whole else {})


def calibration_rows(
    case: str,
    output: str,
    path: Path,
    images: Sequence[Image],
    truth: Volume,
    labels: UInt8[np.ndarray, "d h w"],
    scheme: LabelScheme,
) -> tuple[Row, list[Row]]:
    """Returns the row of a case, and one for each bin of its confidences that holds voxels.

    Args:
        images: the brain that any of them shows counts; none: all voxels do.
        truth, labels: the reference as read, and its class indices.

    Raises:
        UserError: the file is no map of probabilities of this scheme on the reference's grid.
    """
    chances = _probabilities(case, path, truth, scheme)
    within = labels != IGNORED
    volumes = [image.read() for image in images]
    for volume in volumes:
        if mismatch := geometry_mismatch(volume, truth):
            raise UserError(f"image and reference of case {case} do not fit: {mismatch}")
    if volumes:
        within &= find_brain([volume.array for volume in volumes]).mask
    try:
        given = chances[within], labels[within].astype(np.int64)
        widths, counts = reliability(*given), reliability(*given, adaptive=True)
        values = widths.error, counts.error, widths.greatest_error, brier(*given)
    except UserError as error:
        raise UserError(f"{path} of case {case}: {error}") from error
    bins = zip(widths.numbers, widths.confidence, widths.accuracy, widths.share, strict=True)
    return (
        dict(zip(CALIBRATION_COLUMNS, (case, output, *values, int(within.sum())), strict=True)),
        [dict(zip(BINS_COLUMNS, (case, output, *map(float, one)), strict=True)) for one in bins],
    )


def calibration_summary(rows: Sequence[Row], maps: Maps) -> dict[str, Any]:
    """The entry "calibration" of summary.json: statistics over cases by metric, definitions, and what counts."""
    return {
        "within": maps.within,
        "definitions": {metric.title: metric.definition for metric in METRICS},
        "metrics": {metric.name: statistics(np.array([row[metric.name] for row in rows])) for metric in METRICS},
    }


def render_calibration(summary: Mapping[str, Any]) -> str:
    """The entry "calibration" of a summary in words."""
    found = ", ".join(f"{metric.title} {metric.mean_std(summary['metrics'][metric.name])}" for metric in METRICS)
    return f"Calibration: {found}; {summary['within']}."


def _probabilities(case: str, path: Path, truth: Volume, scheme: LabelScheme) -> Float[np.ndarray, "d h w k"]:
    (first, *more) = read_channels(path, range(len(scheme.classes)))
    if (held := first.stored_shape[3]) != len(scheme.classes):
        raise UserError(
            f"{path} of case {case} holds {held} volumes, and the scheme {scheme.name} has {len(scheme.classes)} "
            "classes; give probabilities of these classes"
        )
    if mismatch := geometry_mismatch(first, truth):
        raise UserError(f"probabilities and reference of case {case} do not fit: {mismatch}")
    return np.stack([one.array for one in (first, *more)], axis=-1)
