"""Scores of synthesized images by case: as pictures, inside the tumor and outside, and in a segmentation's place."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from experiments.hinet_rows.images import MODALITIES, TARGET, Make, image, made_of
from experiments.shared import scored_whole
from experiments.subsets.run import SIDE_BY_SIDE, STEPS, workdir_of
from experiments.subsets.run import train as train_form
from jaxfuse.data.cache import prepare
from jaxfuse.data.prepared import Prepared, PreparedCase
from jaxfuse.data.sources.brats import SOURCE
from jaxfuse.engine.trained.phases import TrainedPhase, load
from jaxfuse.engine.trained.segmenter import ensemble_of
from jaxfuse.inference.label_map import masked_labels
from jaxfuse.labels import label_scheme
from jaxfuse.metrics.protocols import DICE
from jaxfuse.metrics.synthesis import score_synthesized
from jaxfuse.prediction.ensemble import Ensemble

JUDGE, JUDGE_SEED = "CMFF, complete cases", 0
# Metric -> (title, digits, larger is better).
METRICS = {
    "psnr_db": ("PSNR (dB)", 2, True),
    "ssim": ("SSIM", 4, True),
    "rmse_tumor": ("RMSE, tumor", 4, False),
    "rmse_rest": ("RMSE, rest of the brain", 4, False),
    "dice": ("Dice with it as FLAIR", 3, True),
}


@dataclass(frozen=True)
class HeldOut:
    """A phantom as the synthesis sees it, in [0, 1], and as the segmentation does."""

    image: PreparedCase
    segmented: PreparedCase


@dataclass(frozen=True)
class Judge:
    """A segmentation network that was trained on complete cases, and labels what it is given for FLAIR."""

    member: TrainedPhase
    ensemble: Ensemble

    def dice(self, case: PreparedCase, flair: np.ndarray | None) -> float:
        """Mean Dice over the regions with this FLAIR (d h w, of any linear scale), or with the real one."""
        given = case if flair is None else self._with(case, flair)
        labels = masked_labels(self.ensemble.labels(given), given.brain)
        rows = scored_whole(labels, given, case, self.member.scheme, "labels")
        return float(np.mean([row[DICE.name] for row in rows]))

    def _with(self, case: PreparedCase, flair: np.ndarray) -> Prepared:
        inside = np.zeros(case.facts.shape, bool)
        inside.flat[case.brain] = True
        values = flair[inside]
        shown = np.array(case.image)
        deviation = values.std()
        shown[inside, MODALITIES.index(TARGET)] = (values - values.mean()) / (deviation if deviation > 0 else 1)
        return Prepared(case.facts, shown, None, np.asarray(case.tumor), np.asarray(case.brain))


def judge(folder: Path) -> Judge:
    """Trains the segmentation network once, and loads it."""
    train_form(JUDGE, JUDGE_SEED, STEPS, folder)
    (member,) = load([str(workdir_of(JUDGE, JUDGE_SEED, folder))])
    return Judge(member, ensemble_of([member], passes=SIDE_BY_SIDE))


def segmented(root: Path, folder: Path) -> tuple[PreparedCase, ...]:
    """Returns the phantoms below `root`, prepared as the segmentation sees them."""
    files = SOURCE.find(root, MODALITIES, labels_required=True)
    return prepare(files, MODALITIES, label_scheme("brats"), cache=folder / "cases")


def score(make: Make | None, cases: Sequence[HeldOut], by: Judge) -> list[dict[str, Any]]:
    """Scores what `make` synthesizes of each case; None is the real image, which has a Dice only."""
    rows = []
    for case in cases:
        row: dict[str, Any] = {"case": case.image.id}
        if make is None:
            rows.append(row | {"dice": by.dice(case.segmented, None)})
            continue
        truth, made = image(case.image, TARGET), made_of(make, case.image)
        found = score_synthesized(truth, made)
        tumor, brain = np.asarray(case.segmented.label) > 0, np.any(np.asarray(case.image.image) != 0, axis=-1)
        row |= {name: found[name] for name in ("psnr_db", "ssim")}
        row |= {"rmse_tumor": _rmse(truth, made, tumor), "rmse_rest": _rmse(truth, made, brain & ~tumor)}
        rows.append(row | {"dice": by.dice(case.segmented, made)})
    return rows


def _rmse(truth: np.ndarray, made: np.ndarray, where: np.ndarray) -> float:
    return float(np.sqrt(np.mean((truth[where] - made[where]) ** 2)))
