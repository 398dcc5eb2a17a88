"""The judge of fused images beside the segmentation that reads them.

Fused images are scored by `jaxfuse.engine.judging.fused_images`, picture by picture; the segmentation is judged on the
volumes.

Where the system tells what its sources attend to ("attention", over the modalities of the case), panels show it.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np

from jaxfuse.data.prepared import PreparedCase, brain_mask
from jaxfuse.data.subjects import subjects_of
from jaxfuse.engine.judging.assessment import Judged, Needs, PredictCase
from jaxfuse.engine.judging.fused_images import FusedImages, Levels, noting, with_image
from jaxfuse.engine.judging.segmentation import SegmentationAssessment, segmentation
from jaxfuse.errors import UserError
from jaxfuse.inference.tiling import Asked
from jaxfuse.io.tables import write_rows
from jaxfuse.learning.system import ATTENTION, FUSED
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
        images: scores the fused images.
    """

    segmentation: SegmentationAssessment
    images: FusedImages

    def needs(self, cases: Sequence[PreparedCase], *, at_end: bool) -> Needs:
        """The needs of its segmentation, with fused images."""
        needs = self.segmentation.needs(cases, at_end=at_end)
        return replace(needs, asked=with_image(needs.asked))

    def quick(self, predict: PredictCase, cases: Sequence[PreparedCase]) -> dict[str, float]:
        """The scores of the segmentation, and the mean Qabf of the fused images."""
        levels: Levels = {}
        scores = self.segmentation.quick(noting(predict, levels), cases)
        return {**scores, f"{FUSED}/qabf": self.images.mean_qabf(cases, levels)} if levels else scores

    def full(
        self, predict: PredictCase, cases: Sequence[PreparedCase], *, results: Path, figures_dir: Path, title: str
    ) -> dict[str, Any]:
        """Writes what a segmentation does, and fusion.csv, one row per picture and image.

        The summary gets "fusion": {"sources", "pictures", "outputs"}; the outputs are statistics over subjects.
        """
        levels: Levels = {}
        subjects = subjects_of(cases)
        rows, maps, document = self.segmentation.judge(noting(predict, levels), subjects)
        fusion = self.images.rows(cases, levels)
        document["fusion"] = self.images.summary(cases, fusion)
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
            received = outputs[ATTENTION][..., self.images.numbers(case)]
            inside.append(received[brain_mask(case)])
            by_source = zip(self.images.sources(case), np.moveaxis(received, -1, 0), strict=True)
            maps[case.id] = {name: values for name, values in by_source if values.any()}
        scale = ratio_scale(inside)
        return {case: figures.Ratios(ATTENTION, each, scale, RECEIVED) for case, each in maps.items() if each}

    def _pictures(self, case: PreparedCase, fused: np.ndarray | None) -> tuple[np.ndarray, tuple[str, ...]]:
        """The channels of a panel with their names: the sources and, last, the fused image."""
        sources, names = self.images.channels(case), self.images.sources(case)
        if fused is None:
            return sources, names
        picture = fused.astype(np.float32) / 255
        return np.concatenate([sources, picture[..., None]], axis=-1), (*names, FUSED)


def fusion(judged: Judged) -> FusionAssessment:
    """Judges systems that fuse the first of `pairs`, such as "t1+t2", and label the fused image."""
    if not judged.pairs:
        raise UserError("fused images are judged against their sources; name them as the first of the config's pairs")
    return FusionAssessment(segmentation(judged), FusedImages(tuple(judged.pairs[0].split("+"))))
