"""Heads with a small lesion, predictions whose scores are known by hand, and what judging them draws and writes."""

from pathlib import Path
from typing import Any

import numpy as np

from jaxfuse.data.cache import prepare_with
from jaxfuse.data.cases import Case, CaseFiles
from jaxfuse.data.facts import CaseFacts
from jaxfuse.data.prepared import Prepared, PreparedCase
from jaxfuse.data.preprocess import count_classes, flat_indices, prepare_case
from jaxfuse.engine.judging.assessment import Assessment, PredictCase
from jaxfuse.inference.tiling import Asked
from jaxfuse.io.tables import read_json, read_rows
from jaxfuse.labels import SCHEMES
from tests.made_cases import channels_of

MODALITIES = ("t1", "t1ce", "t2", "flair")
LESION = SCHEMES["lesion"]
# Truth: four voxels. Found of them: dice 2 k / (k + 4).
FOUND = {"a": 4, "b": 2, "c": 1, "d": 3}
OUTPUTS = ("S_A", "S_F")
DICE = {case: 2 * k / (k + 4) for case, k in FOUND.items()}


def prepared_volumes(
    cache: Path,
    ids: str,
    image: np.ndarray,
    label: np.ndarray | None,
    modalities: tuple[str, ...] = MODALITIES,
    *,
    spacing_mm: tuple[float, float, float] = (1.0, 1.0, 1.0),
    classes: int = 0,
) -> tuple[PreparedCase, ...]:
    """Cases of one image (d h w m) and one label."""

    def make(files: CaseFiles):
        case = Case(files.id, modalities, channels_of(image), label, np.diag([*spacing_mm, 1.0]), spacing_mm)
        return prepare_case(case, classes=classes)

    return prepare_with(make, [CaseFiles(name, {}) for name in ids], {}, images=(), label=False, cache=cache)


def prepared(cache: Path, ids: str = "abcd", *, labeled: bool = True) -> tuple[PreparedCase, ...]:
    """Heads of 6 x 6 x 6 voxels in volumes of 8 x 8 x 8, with a lesion of four voxels in a row."""
    image = np.zeros((8, 8, 8, 4), np.float32)
    image[1:7, 1:7, 1:7] = np.random.default_rng(0).uniform(1, 2, (6, 6, 6, 4))
    label = np.zeros((8, 8, 8), np.uint8)
    label[3, 3, 2:6] = 1
    return prepared_volumes(cache, ids, image, label if labeled else None, spacing_mm=(2.0, 1.0, 1.0), classes=2)


def predict(case: PreparedCase, asked: Asked) -> dict[str, np.ndarray]:
    """S_F finds the first voxels of the lesion, S_A nothing at all; the others are no segmentations."""
    nothing, found = np.zeros((2, 6, 6, 6), np.uint8)
    found[2, 2, 1 : 1 + FOUND[case.id]] = 1
    made = {"S_A": nothing, "S_F": found}
    return {name: made[name] for name in asked.labels}


def full(judge: Assessment, predict: PredictCase, cases: Any, folder: Path) -> Any:
    """The summary of the full judgment, whose files lie below `folder`."""
    return judge.full(predict, cases, results=folder / "results", figures_dir=folder / "figures", title="fusion")


def prepared_slices(
    cache: Path,
    labels: dict[str, np.ndarray],
    image: np.ndarray,
    modalities: tuple[str, ...],
    *,
    whole: tuple[int, int],
    start: tuple[int, int],
    spacing_mm: tuple[float, float],
    classes: int,
) -> tuple[PreparedCase, ...]:
    """Slices (h w) with these labels and one image (h w m), cut at `start` from pictures of the sides `whole`."""

    def make(files: CaseFiles):
        label, count = labels[files.id], len(modalities)
        where = {"original_shape": whole, "crop_start": start, "shape": label.shape, "spacing_mm": spacing_mm}
        values = {"mean": (0.0,) * count, "std": (1.0,) * count, "voxels_per_class": count_classes(label, classes)}
        facts = CaseFacts(id=files.id, group="", modalities=modalities, affine=(), **where, **values)
        return Prepared(facts, image, label, flat_indices(label > 0), flat_indices(label >= 0))

    files = [CaseFiles(name, {}) for name in labels]
    return prepare_with(make, files, {"classes": classes}, images=(), label=False, cache=cache)


def rows_of(folder: Path, *keys: str, table: str = "cases.csv") -> dict[Any, dict[str, Any]]:
    """The rows of a judgment below `folder`, by one or several of their columns."""
    rows = read_rows(folder / "results" / table)
    return {row[keys[0]] if len(keys) == 1 else tuple(row[key] for key in keys): row for row in rows}


def summary_of(folder: Path) -> dict[str, Any]:
    """The summary of a judgment below `folder`."""
    return read_json(folder / "results" / "summary.json")


def begins_as_it_says(judge: Assessment, predict: PredictCase, cases: Any, folder: Path, *, skips: int = 0) -> bool:
    """Whether both judgments ask first, in order, for what `needs` says; `skips`: cases that `quick` leaves out."""
    found = []
    for at_end in (False, True):
        asked_for = []

        def noting(case: PreparedCase, asked: Asked, into: list = asked_for) -> Any:
            into.append((case.id, asked))
            return predict(case, asked)

        if at_end:
            full(judge, noting, cases, folder)
        else:
            judge.quick(noting, cases)
        needs = judge.needs(cases, at_end=at_end)
        wanted = [(case.id, needs.asked) for case in needs.cases]
        left = [one for one in wanted if one in asked_for]
        found.append(bool(left) and asked_for[: len(left)] == left and len(wanted) - len(left) == skips * (not at_end))
    return all(found)
