"""The judge of fused images, beside the segmentation that reads them.

A fused image is scored as in papers on fusion (`jaxfuse.metrics.fusion`): on the whole picture, in gray levels, its
background 0 as in files, against the sources that it was made of. Of volumes that were cut into slices the pictures are
scored one by one, and tables have their means over subjects; the segmentation is judged on the volumes. Three images
stand beside the fused one. The mean and the maximum of the sources need no network; the fused image with its levels
stretched to the whole range is what some papers score in its place.

Where the system tells what its sources attend to ("attention", over the modalities of the case), panels show it.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np

from jaxfuse.data.brain import within
from jaxfuse.data.prepared import PreparedCase, brain_mask
from jaxfuse.data.preprocess import uncrop
from jaxfuse.data.slices import gray_levels
from jaxfuse.data.subjects import shown_by, subjects_of
from jaxfuse.engine.judging.assessment import Judged, Needs, PredictCase
from jaxfuse.engine.judging.segmentation import SegmentationAssessment, segmentation
from jaxfuse.errors import UserError
from jaxfuse.inference.tiling import Asked
from jaxfuse.io.tables import write_rows
from jaxfuse.learning.system import ATTENTION, FUSED
from jaxfuse.metrics.fusion import qabf, score_fused, stretch, summarize_fused
from jaxfuse.report import figures
from jaxfuse.report.planes import ratio_scale

RECEIVED = "attention received (1 = mean over the source)"


@dataclass(frozen=True)
class FusionAssessment:
    """Fused images and the segmentation of slices: Qabf and Dice while training; every metric at the end.

    The image is the output named "fused". A system without one is judged by its segmentation, and the mean and the
    maximum of the sources are scored alone.

    Attributes:
        segmentation: judges the label maps.
        sources: the modalities that are fused.
    """

    segmentation: SegmentationAssessment
    sources: tuple[str, ...]

    def needs(self, cases: Sequence[PreparedCase], *, at_end: bool) -> Needs:
        """The needs of its segmentation, with fused images."""
        needs = self.segmentation.needs(cases, at_end=at_end)
        return replace(needs, asked=_with_image(needs.asked))

    def quick(self, predict: PredictCase, cases: Sequence[PreparedCase]) -> dict[str, float]:
        """The scores of the segmentation, and the mean Qabf of the fused images."""
        levels: dict[str, np.ndarray] = {}
        scores = self.segmentation.quick(_noting(predict, levels), cases)
        if levels:
            values = [qabf(_whole(levels[case.id], case), self._sources(case)) for case in cases]
            scores[f"{FUSED}/qabf"] = float(np.mean(values))
        return scores

    def full(
        self, predict: PredictCase, cases: Sequence[PreparedCase], *, results: Path, figures_dir: Path, title: str
    ) -> dict[str, Any]:
        """Writes what a segmentation does, and fusion.csv, one row per picture and image.

        The summary gets "fusion": {"sources", "pictures", "outputs"}; the outputs are statistics over subjects.
        """
        levels: dict[str, np.ndarray] = {}
        subjects = subjects_of(cases)
        rows, maps, document = self.segmentation.judge(_noting(predict, levels), subjects)
        of = {subject.folder: subject.id for subject in subjects}
        fusion = [row for case in cases for row in self._rows(case, of[case.folder], levels.get(of[case.folder]))]
        document["fusion"] = {
            "sources": list(self.sources),
            "pictures": len(cases),
            "outputs": summarize_fused(fusion),
        }
        shown = self.segmentation.shown(rows, subjects)
        # Predicted once more: maps of all cases would be as large as the data set.
        attention = self._attention(predict, shown)
        for case in shown:
            self.segmentation.draw(
                case,
                maps[case.id],
                figures_dir / f"{case.id}.png",
                f"{title}: {case.id}",
                pictures=self._pictures(case, levels.get(case.id)),
                below=attention.get(case.id),
            )
        write_rows(results / "fusion.csv", fusion)
        self.segmentation.write(results, subjects, rows, maps, document)
        return document

    def _attention(self, predict: PredictCase, cases: Sequence[PreparedCase]) -> dict[str, figures.Ratios]:
        """The attention that each source receives, by case, all in one scale; empty where the system does not tell.

        A source that no other reads is left out: it is 0 everywhere, which says nothing of places.
        """
        maps: dict[str, dict[str, np.ndarray]] = {}
        inside: list[np.ndarray] = []
        for case in cases:
            if ATTENTION not in (outputs := predict(case, Asked(values=(ATTENTION,)))):
                return {}
            received = outputs[ATTENTION][..., self._numbers(case)]
            inside.append(received[brain_mask(case)])
            by_source = zip(self.sources, np.moveaxis(received, -1, 0), strict=True)
            maps[case.id] = {name: values for name, values in by_source if values.any()}
        scale = ratio_scale(inside)
        return {case: figures.Ratios(ATTENTION, each, scale, RECEIVED) for case, each in maps.items() if each}

    def _numbers(self, case: PreparedCase) -> list[int]:
        """The channels of the sources."""
        return [list(case.facts.modalities).index(name) for name in self.sources]

    def _rows(self, case: PreparedCase, subject: str, fused: np.ndarray | None) -> list[dict[str, Any]]:
        """One row per image of a picture: scores by the names of `metrics.fusion.METRICS`; `fused` is its subject's."""
        sources = self._sources(case)
        images = {"mean": np.mean(sources, axis=0), "maximum": np.max(sources, axis=0)}
        if fused is not None:
            whole = _whole(shown_by(case, fused), case)
            images = {FUSED: whole, f"{FUSED}, stretched": stretch(whole), **images}
        rows = []
        for name, image in images.items():
            rows.append({"case": case.id, "subject": subject, "output": name, **score_fused(image, sources)})
        return rows

    def _channels(self, case: PreparedCase) -> np.ndarray:
        return np.asarray(case.image)[..., self._numbers(case)]

    def _sources(self, case: PreparedCase) -> list[np.ndarray]:
        """Gray levels of each source on the whole picture."""
        return list(np.moveaxis(_whole(gray_levels(self._channels(case)), case), -1, 0))

    def _pictures(self, case: PreparedCase, fused: np.ndarray | None) -> tuple[np.ndarray, tuple[str, ...]]:
        """The channels of a panel with their names: the sources and, last, the fused image."""
        sources = self._channels(case)
        if fused is None:
            return sources, self.sources
        picture = fused.astype(np.float32) / 255
        return np.concatenate([sources, picture[..., None]], axis=-1), (*self.sources, FUSED)


def fusion(judged: Judged) -> FusionAssessment:
    """Judges systems that fuse the first of `pairs`, such as "t1+t2", and label the fused image."""
    if not judged.pairs:
        raise UserError("fused images are judged against their sources; name them as the first of the config's pairs")
    return FusionAssessment(segmentation(judged), tuple(judged.pairs[0].split("+")))


def _noting(predict: PredictCase, levels: dict[str, np.ndarray]) -> PredictCase:
    """Predicts as `predict` does, and leaves the gray levels (*space) of each fused image in `levels`.

    They are 0 beyond the brain.
    """

    def noting(case: PreparedCase, asked: Asked) -> Mapping[str, np.ndarray]:
        outputs = predict(case, _with_image(asked))
        if FUSED in outputs:
            # Means of overlapping tiles can leave [0, 1] by a rounding.
            levels[case.id] = gray_levels(within(np.clip(outputs[FUSED][..., 0], 0, 1), brain_mask(case)))
        return outputs

    return noting


def _with_image(asked: Asked) -> Asked:
    return replace(asked, values=(*asked.values, FUSED))


def _whole(levels: np.ndarray, case: PreparedCase) -> np.ndarray:
    """The levels on the whole picture; the background outside the crop is 0."""
    return uncrop(levels, case, 0)
