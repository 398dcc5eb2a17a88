"""Heads with a small lesion, predictions whose scores are known by hand, and what judging them draws and writes."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np

from jaxfuse.data.cache import prepare_with
from jaxfuse.data.cases import Case, CaseFiles
from jaxfuse.data.prepared import PreparedCase
from jaxfuse.data.preprocess import prepare_case
from jaxfuse.engine.judging.assessment import Assessment, PredictCase
from jaxfuse.labels import SCHEMES

MODALITIES = ("t1", "t1ce", "t2", "flair")
LESION = SCHEMES["lesion"]
# Truth: four voxels. Found of them: dice 2 k / (k + 4).
FOUND = {"a": 4, "b": 2, "c": 1, "d": 3}
OUTPUTS = ("S_A", "S_F")
DICE = {case: 2 * k / (k + 4) for case, k in FOUND.items()}


def prepared(cache: Path, ids: str = "abcd", *, labeled: bool = True) -> tuple[PreparedCase, ...]:
    """Heads of 6 x 6 x 6 voxels in volumes of 8 x 8 x 8, with a lesion of four voxels in a row."""

    def make(files: CaseFiles):
        image = np.zeros((8, 8, 8, 4), np.float32)
        image[1:7, 1:7, 1:7] = np.random.default_rng(ord(files.id)).uniform(1, 2, (6, 6, 6, 4))
        label = np.zeros((8, 8, 8), np.uint8)
        label[3, 3, 2:6] = 1
        case = Case(files.id, MODALITIES, image, label if labeled else None, np.diag([2.0, 1, 1, 1]), (2.0, 1.0, 1.0))
        return prepare_case(case, classes=2)

    files = [CaseFiles(id_, {}) for id_ in ids]
    return prepare_with(make, files, {"labeled": labeled}, images=(), label=False, cache=cache)


def probabilities(labels: np.ndarray) -> np.ndarray:
    return np.eye(2, dtype=np.float32)[labels]


def predict(case: PreparedCase) -> dict[str, np.ndarray]:
    """S_F finds the first voxels of the lesion, S_A nothing at all; the others are no segmentations."""
    nothing, found = np.zeros((6, 6, 6), int), np.zeros((6, 6, 6), int)
    found[2, 2, 1 : 1 + FOUND[case.id]] = 1
    return {
        "S_A": probabilities(nothing),
        "S_F": probabilities(found),
        "S_features": np.zeros((6, 6, 6, 5), np.float32),
        "attention": probabilities(found),
    }


def full(judge: Assessment, predict: PredictCase, cases: Any, folder: Path) -> Any:
    """The summary of the full judgment, whose files lie below `folder`."""
    return judge.full(predict, cases, results=folder / "results", figures_dir=folder / "figures", title="fusion")
