"""Strata of a data set: what the sides of a split are to hold alike many of."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from pathlib import Path

import numpy as np

from jaxfuse.data.cases import CaseFiles, Image, whole_values
from jaxfuse.data.digests import Digests
from jaxfuse.data.folds import ranks
from jaxfuse.errors import UserError
from jaxfuse.io.whole_file import write_whole

NONE, VOLUME = "none", "volume"


def strata_of(files: Sequence[CaseFiles], by: str, *, size: int, cache: Path | None = None) -> dict[str, str]:
    """Case -> its stratum.

    Args:
        files: the cases.
        by: "": the group that the layout tells, such as the grade; "none": all are alike; "volume": by the volume of
            all labels, `size` cases in each stratum; else a column that the data set tells of its cases.
        size: see `by`.
        cache: the folder in which label volumes are remembered; None: nowhere.

    Raises:
        UserError: a case has no label, or is told nothing in that column.
    """
    if by == NONE:
        return dict.fromkeys((one.id for one in files), "")
    if by == VOLUME:
        return ranks(_label_volumes(files, cache), size)
    if not by:
        return {one.id: one.group for one in files}
    for one in files:
        if by not in one.told:
            told = ", ".join(one.told) or "nothing"
            raise UserError(
                f"data.stratify is {by!r}, and the data set tells {told} of case {one.id}; choose none, volume or a "
                "column of all cases"
            )
    return {one.id: one.told[by] for one in files}


def _label_volumes(files: Sequence[CaseFiles], cache: Path | None) -> dict[str, float]:
    """Case -> the volume of all labels in mm3, read once and remembered by the content of the file."""
    labels = {one.id: one.label for one in files if one.label}
    for one in files:
        if one.id not in labels:
            raise UserError(f"data.stratify is {VOLUME!r}, and case {one.id} has no label; choose none, or a column")
    if cache is None:
        return {case: _label_volume(path) for case, path in labels.items()}
    remembered, digests = cache / "label_volumes.json", Digests(cache / "digests.json")
    known = _remembered(remembered)
    keys = {case: digests.of(path) for case, path in labels.items()}
    digests.save()
    new = {key: _label_volume(labels[case]) for case, key in keys.items() if key not in known}
    if new:
        write_whole(remembered, json.dumps({**_remembered(remembered), **new}).encode())
    return {case: {**known, **new}[key] for case, key in keys.items()}


def _label_volume(path: Path) -> float:
    label = Image(path).read()
    return float(np.count_nonzero(whole_values(label)) * abs(np.linalg.det(label.affine[:3, :3])))


def _remembered(path: Path) -> dict[str, float]:
    try:
        found: Mapping[str, float] = json.loads(path.read_text())
        return {str(key): float(value) for key, value in found.items()}
    except (OSError, ValueError, AttributeError, TypeError):
        return {}  # not yet there, or damaged: read again
