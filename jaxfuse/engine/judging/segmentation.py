"""The judge of segmentations: label maps against the truth, by the regions of the data's label scheme."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np

from jaxfuse.data.prepared import PreparedCase
from jaxfuse.data.preprocess import uncrop
from jaxfuse.data.subjects import subjects_of
from jaxfuse.engine.judging.assessment import (
    Judged,
    Needs,
    PredictCase,
    are_slices,
    speed,
    timed,
    truth_of,
    whole_truth,
    worst_first,
)
from jaxfuse.engine.judging.other_runs import KEPT, LABELS_FILE
from jaxfuse.errors import UserError
from jaxfuse.inference.label_map import masked_labels
from jaxfuse.inference.tiling import Asked
from jaxfuse.io.npz import write_npz
from jaxfuse.io.tables import write_json, write_rows
from jaxfuse.labels import IGNORED, LabelScheme
from jaxfuse.metrics.overlap import dice
from jaxfuse.metrics.protocols import default_one_empty_mm
from jaxfuse.metrics.regions import score_case, summary_document
from jaxfuse.report import figures
from jaxfuse.report.contours import overlay_of

Rows = list[dict[str, Any]]
# Endings of the primary output's name where its label maps are judged in the other way as well.
UNMASKED, MASKED = ", outside the brain as well", ", masked to the brain"
# Case id -> output -> class indices (*space).
Maps = dict[str, dict[str, np.ndarray]]


@dataclass(frozen=True)
class SegmentationAssessment:
    """Regions of a label scheme: Dice while training; at the end all metrics of the scheme's protocol.

    The protocol is that of `jaxfuse.metrics.protocols`: tumors, infant tissues and strokes each have their own. At the
    end subjects are judged, as slices of one volume make up that volume; `quick` takes each case by itself.

    Attributes:
        primary: the output that is the result, one of `probabilities`.
        probabilities: the outputs that are judged.
        mask_to_brain: whether label maps are background outside the brain.
        both: whether `full` judges the primary output in the other way, too.
    """

    scheme: LabelScheme
    primary: str
    probabilities: tuple[str, ...]
    mask_to_brain: bool = True
    both: bool = False

    @property
    def asked(self) -> Asked:
        """The outputs that are judged."""
        return Asked(labels=self.probabilities)

    def needs(self, cases: Sequence[PreparedCase], *, at_end: bool) -> Needs:
        """Every case; at the end every subject."""
        return Needs(subjects_of(cases) if at_end else cases, self.asked)

    def quick(self, predict: PredictCase, cases: Sequence[PreparedCase]) -> dict[str, float]:
        """Mean Dice by output and region; the score is the mean over the regions of the primary output."""
        scores: dict[str, list[float]] = {}
        for case in cases:
            truth = whole_truth(case)
            for output, labels in self._maps(predict(case, self.asked), case).items():
                whole = np.where(truth == IGNORED, 0, uncrop(labels, case, 0))
                for region, members in self.scheme.regions.items():
                    value = dice(np.isin(whole, members), np.isin(truth, members))
                    scores.setdefault(f"{output}/{region}/dice", []).append(value)
        means = {name: float(np.mean(values)) for name, values in scores.items()}
        primary = [value for name, value in means.items() if name.startswith(f"{self.primary}/")]
        return {**means, "score": float(np.mean(primary))}

    def full(
        self, predict: PredictCase, cases: Sequence[PreparedCase], *, results: Path, figures_dir: Path, title: str
    ) -> dict[str, Any]:
        """Writes cases.csv, one row per subject, output and region, summary.json, label maps and panels."""
        subjects = subjects_of(cases)
        rows, maps, document = self.judge(predict, subjects)
        for case in self.shown(rows, subjects):
            self.draw(case, maps[case.id], figures_dir / f"{case.id}.png", f"{title}: {case.id}")
        self.write(results, subjects, rows, maps, document)
        return document

    def judge(self, predict: PredictCase, cases: Sequence[PreparedCase]) -> tuple[Rows, Maps, dict[str, Any]]:
        """Scores by case, output and region; label maps by case and output; the summary."""
        one_empty = self._one_empty_mm(cases)
        predicted, seconds = timed(predict)
        rows, maps = [], {}
        for case in cases:
            maps[case.id] = self._maps(predicted(case, self.asked), case, both=self.both)
            # On the whole grid, not the crop: labels outside of it are missed, and specificity counts all background.
            truth = whole_truth(case)
            for output, labels in maps[case.id].items():
                rows += score_case(
                    uncrop(labels, case, 0),
                    truth,
                    self.scheme,
                    spacing_mm=case.facts.steps_mm,
                    one_empty=one_empty,
                    case=case.id,
                    output=output,
                )
        document = summary_document(rows, primary=self.primary, one_empty=one_empty)
        return rows, maps, document | {"mask_to_brain": self.mask_to_brain} | speed(cases, seconds)

    def _maps(
        self, outputs: Mapping[str, np.ndarray], case: PreparedCase, *, both: bool = False
    ) -> dict[str, np.ndarray]:
        """Class indices by output; with `both` also of the primary output, masked if the others are not."""
        maps = label_maps(outputs, case.brain, self.probabilities, mask_to_brain=self.mask_to_brain)
        if both:
            name = self.primary + (UNMASKED if self.mask_to_brain else MASKED)
            (maps[name],) = label_maps(
                outputs, case.brain, (self.primary,), mask_to_brain=not self.mask_to_brain
            ).values()
        return maps

    def _one_empty_mm(self, cases: Sequence[PreparedCase]) -> float:
        """The distance of a region that one of truth and prediction lacks.

        A challenge's penalty is the diagonal of its volumes; of single slices it is that of the largest picture.
        """
        penalty = default_one_empty_mm(self.scheme)
        if math.isnan(penalty) or not are_slices(cases):
            return penalty
        return max(math.hypot(*np.multiply(case.facts.original_shape, case.facts.steps_mm)) for case in cases)

    def write(
        self, results: Path, cases: Sequence[PreparedCase], rows: Rows, maps: Maps, document: Mapping[str, Any]
    ) -> None:
        """Writes cases.csv, the label maps of the first cases, and summary.json."""
        write_rows(results / "cases.csv", rows)
        # To set the rows of a table side by side.
        write_npz(results / LABELS_FILE, **{case.id: maps[case.id][self.primary] for case in cases[:KEPT]})
        write_json(results / "summary.json", document)  # last: its presence says that the rest is there

    def draw(
        self,
        case: PreparedCase,
        maps: Mapping[str, np.ndarray],
        path: Path,
        title: str,
        *,
        pictures: tuple[np.ndarray, Sequence[str]] | None = None,
        below: figures.Ratios | None = None,
    ) -> None:
        """The panel of a case: its channels, the truth, and label maps over the last channel.

        `pictures` are other channels (*space m) with their names, in place of those of the case.
        """
        image, names = pictures or (np.asarray(case.image), case.facts.modalities)
        figures.segmentation_panel(
            path,
            image=image,
            modalities=names,
            truth=np.where(truth_of(case) == IGNORED, 0, truth_of(case)),
            predictions={name: labels for name, labels in maps.items() if not name.endswith((UNMASKED, MASKED))},
            classes=self.scheme.classes,
            title=title,
            spacing_mm=case.facts.spacing_mm,
            below=below,
            overlay=overlay_of(self.scheme),
        )

    def shown(self, rows: Rows, cases: Sequence[PreparedCase]) -> list[PreparedCase]:
        """Cases to draw: the worst by mean Dice of the primary output, then others."""
        mean = {
            case.id: float(np.mean([r["dice"] for r in rows if r["case"] == case.id and r["output"] == self.primary]))
            for case in cases
        }
        return worst_first(cases, mean)


def segmentation(judged: Judged) -> SegmentationAssessment:
    """Judges systems whose result is class probabilities; slices of one volume are judged as that volume."""
    if judged.scheme is None:
        raise UserError(
            "whole volumes can be judged only with a label scheme; set assess to engine.judging.losses:losses"
        )
    if judged.primary not in judged.probabilities:
        raise UserError(
            f"the result {judged.primary} is no class probabilities, so that it cannot be judged as a segmentation; "
            "set assess to engine.judging.losses:losses"
        )
    return SegmentationAssessment(
        judged.scheme, judged.primary, judged.probabilities, mask_to_brain=judged.mask_to_brain
    )


def segmentation_both_ways(judged: Judged) -> SegmentationAssessment:
    """Judges as `segmentation` does, and the result's label maps both masked to the brain and not."""
    return replace(segmentation(judged), both=True)


def label_maps(
    outputs: Mapping[str, np.ndarray], brain: np.ndarray, names: Sequence[str], *, mask_to_brain: bool = True
) -> dict[str, np.ndarray]:
    """Class indices of the outputs of these names, within the brain or everywhere."""
    return {name: masked_labels(outputs[name], brain) if mask_to_brain else outputs[name] for name in names}
