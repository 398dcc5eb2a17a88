"""The judge of fused images: alone, for phases that learn to fuse without labels, and as a part of other judges.

A fused image is scored as in papers on fusion (`jaxfuse.metrics.fusion`): on the whole picture, in gray levels, its
background 0 as in files, against the sources that it was made of. Of volumes that were cut into slices the pictures are
scored one by one, and tables have their means over subjects. Three images stand beside the fused one. The mean and the
maximum of the sources need no network; the fused image with its levels stretched to the whole range is what some papers
score in its place.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np

from jaxfuse.data.brain import within
from jaxfuse.data.color import seen_in_gray
from jaxfuse.data.prepared import PreparedCase, brain_mask
from jaxfuse.data.preprocess import uncrop
from jaxfuse.data.slices import gray_levels
from jaxfuse.data.subjects import shown_by, subjects_of
from jaxfuse.engine.judging.assessment import Judged, Needs, PredictCase, speed, timed, worst_first
from jaxfuse.errors import UserError
from jaxfuse.inference.tiling import Asked
from jaxfuse.io.tables import write_json, write_rows
from jaxfuse.learning.system import FUSED
from jaxfuse.metrics.fusion import qabf, score_fused, stretch, summarize_fused
from jaxfuse.report.fusion import fusion_panel

# Gray levels (*space) of fused images, by the cases that were predicted.
Levels = dict[str, np.ndarray]


@dataclass(frozen=True)
class FusedImages:
    """Images fused of some modalities of their cases.

    Attributes:
        named: the modalities that are fused; (): all that a case has.
    """

    named: tuple[str, ...]

    def sources(self, case: PreparedCase) -> tuple[str, ...]:
        """Returns the modalities that are fused of a case."""
        return self.named or tuple(case.facts.modalities)

    def numbers(self, case: PreparedCase) -> list[int]:
        """Returns the channels of the sources."""
        return [list(case.facts.modalities).index(name) for name in self.sources(case)]

    def channels(self, case: PreparedCase) -> np.ndarray:
        """Returns the sources (*space m) in [0, 1] on the cropped grid."""
        return np.asarray(case.image)[..., self.numbers(case)]

    def mean_qabf(self, cases: Sequence[PreparedCase], levels: Levels) -> float:
        """Returns the mean Qabf of the fused images of these pictures."""
        return float(np.mean([qabf(_whole(levels[case.id], case), self._grays(case)) for case in cases]))

    def rows(self, cases: Iterable[PreparedCase], levels: Levels) -> list[dict[str, Any]]:
        """Returns one row per picture and image: scores by the names of `metrics.fusion.METRICS`.

        Args:
            levels: fused images by subject; a subject without any is scored by the mean and the maximum alone.
        """
        cases = list(cases)
        of = {subject.folder: subject.id for subject in subjects_of(cases)}
        return [row for case in cases for row in self._rows(case, of[case.folder], levels.get(of[case.folder]))]

    def summary(self, cases: Sequence[PreparedCase], rows: Sequence[Mapping[str, Any]]) -> dict[str, Any]:
        """Returns {"sources", "pictures", "outputs"}; the outputs are statistics over subjects."""
        sources = list(self.sources(cases[0]))
        return {"sources": sources, "pictures": len(cases), "outputs": summarize_fused(rows)}

    def _rows(self, case: PreparedCase, subject: str, fused: np.ndarray | None) -> list[dict[str, Any]]:
        grays = self._grays(case)
        images = {"mean": np.mean(grays, axis=0), "maximum": np.max(grays, axis=0)}
        if fused is not None:
            whole = _whole(shown_by(case, fused), case)
            images = {FUSED: whole, f"{FUSED}, stretched": stretch(whole), **images}
        return [
            {"case": case.id, "subject": subject, "output": name, **score_fused(image, grays)}
            for name, image in images.items()
        ]

    def _grays(self, case: PreparedCase) -> list[np.ndarray]:
        """Gray levels of each source on the whole picture."""
        return list(np.moveaxis(_whole(gray_levels(self.channels(case)), case), -1, 0))


@dataclass(frozen=True)
class FusedImageAssessment:
    """Fused images alone: Qabf while training, which is their score; every metric at the end."""

    images: FusedImages

    def needs(self, cases: Sequence[PreparedCase], *, at_end: bool) -> Needs:
        """Every case; at the end every subject."""
        return Needs(subjects_of(cases) if at_end else cases, Asked(values=(FUSED,)))

    def quick(self, predict: PredictCase, cases: Sequence[PreparedCase]) -> dict[str, float]:
        """Mean Qabf."""
        found = self.images.mean_qabf(cases, _fused(predict, cases))
        return {f"{FUSED}/qabf": found, "score": found}

    def full(
        self, predict: PredictCase, cases: Sequence[PreparedCase], *, results: Path, figures_dir: Path, title: str
    ) -> dict[str, Any]:
        """Writes cases.csv, one row per picture and image, summary.json and panels."""
        subjects = subjects_of(cases)
        predicted, seconds = timed(predict)
        levels = _fused(predicted, subjects)
        rows = self.images.rows(cases, levels)
        known = {row["subject"]: row["qabf"] for row in rows if row["output"] == FUSED}
        for case in worst_first(subjects, known):
            self._draw(case, levels[case.id], figures_dir / f"{case.id}.png", f"{title}: {case.id}")
        document = {
            "kind": "fusion",
            "primary": FUSED,
            "cases": len(subjects),
            **self.images.summary(cases, rows),
            **speed(subjects, seconds),
        }
        write_rows(results / "cases.csv", rows)
        write_json(results / "summary.json", document)  # last: its presence says that the rest is there
        return document

    def _draw(self, case: PreparedCase, fused: np.ndarray, path: Path, title: str) -> None:
        sources = np.moveaxis(gray_levels(self.images.channels(case)), -1, 0)
        fusion_panel(
            path,
            images=[*sources, fused],
            headers=[*self.images.sources(case), FUSED],
            shown=brain_mask(case),
            title=title,
            spacing_mm=case.facts.spacing_mm,
        )


def fused_images(judged: Judged) -> FusedImageAssessment:
    """Judges systems whose result is an image fused of the first of `pairs`, or of all modalities without any."""
    if judged.primary != FUSED:
        raise UserError(
            f"the result {judged.primary} is no fused image, so that it cannot be judged as one; set assess to "
            "engine.judging.losses:losses"
        )
    return FusedImageAssessment(FusedImages(tuple(judged.pairs[0].split("+")) if judged.pairs else ()))


def noting(predict: PredictCase, levels: Levels) -> PredictCase:
    """Predicts as `predict` does, and leaves the gray levels (*space) of each fused image in `levels`.

    They are 0 beyond the brain.
    """

    def noted(case: PreparedCase, asked: Asked) -> Mapping[str, np.ndarray]:
        outputs = predict(case, with_image(asked))
        if FUSED in outputs:
            # Means of overlapping tiles can leave [0, 1] by a rounding.
            levels[case.id] = gray_levels(within(np.clip(seen_in_gray(outputs[FUSED]), 0, 1), brain_mask(case)))
        return outputs

    return noted


def with_image(asked: Asked) -> Asked:
    """Returns what is asked for, with the fused image."""
    return replace(asked, values=tuple(dict.fromkeys((*asked.values, FUSED))))


def _fused(predict: PredictCase, cases: Sequence[PreparedCase]) -> Levels:
    levels: Levels = {}
    noted = noting(predict, levels)
    for case in cases:
        noted(case, Asked())
    return levels


def _whole(levels: np.ndarray, case: PreparedCase) -> np.ndarray:
    """The levels on the whole picture; the background outside the crop is 0."""
    return uncrop(levels, case, 0)
