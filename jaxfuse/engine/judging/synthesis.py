"""The judge of synthesized images: a modality that was made from others, against the real one.

Papers on synthesis print PSNR, NMSE and SSIM over subjects (`jaxfuse.metrics.synthesis`). Slices are put together to
the volume that they were cut from, so that blank ones need no value of their own. Beside the clean metrics stand those
that the public code of Hi-Net computes, which stretches every patch before it puts patches together. The prediction is
0 where no source shows anything. Each source in place of the target is judged as well: that needs no network, and a
network must do better.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import jax.numpy as jnp
import numpy as np

from jaxfuse.arrays import Array
from jaxfuse.data.brain import shown
from jaxfuse.data.prepared import PreparedCase
from jaxfuse.data.subjects import subjects_of
from jaxfuse.engine.judging.assessment import Judged, Needs, PredictCase, speed, timed, worst_first
from jaxfuse.engine.judging.other_runs import KEPT, SYNTHESIZED_FILE
from jaxfuse.errors import UserError
from jaxfuse.inference.tiling import Asked
from jaxfuse.io.npz import write_npz
from jaxfuse.io.tables import write_json, write_rows
from jaxfuse.metrics.names import names_of
from jaxfuse.metrics.synthesis import (
    DEFINITIONS,
    OFFICIAL,
    OFFICIAL_DEFINITIONS,
    OFFICIAL_TAPS,
    official_scores,
    psnr_db,
    score_synthesized,
    summarize_synthesized,
)
from jaxfuse.report.synthesis import synthesis_panel

# The output that holds stretched patches: the channels of the image, then the primary output.
STRETCHED = "stretched"


@dataclass(frozen=True)
class SynthesisAssessment:
    """One modality made from others: PSNR of the watched cases while training; every metric of subjects at the end.

    Attributes:
        primary: the output that is judged, of one channel in [0, 1].
        sources, target: modality names.
    """

    primary: str
    sources: tuple[str, ...]
    target: str

    @property
    def asked(self) -> Asked:
        """The output that is judged."""
        return Asked(values=(self.primary,))

    @property
    def asked_in_full(self) -> Asked:
        """The output that is judged, and what the public code makes of patches."""
        return Asked(values=(self.primary, STRETCHED), alongside=self.stretched)

    def stretched(self, tiles: Mapping[str, Array], outputs: Mapping[str, Array]) -> Mapping[str, Array]:
        """Stretches each channel of every patch, and the primary output, as the public code does."""
        if self.primary not in outputs:
            return {}
        given = jnp.concatenate([tiles["image"], outputs[self.primary]], axis=-1)
        axes = tuple(range(1, given.ndim - 1))
        low, high = given.min(axes, keepdims=True), given.max(axes, keepdims=True)
        return {STRETCHED: (given - low) / jnp.where(high > low, high - low, 1.0)}

    def needs(self, cases: Sequence[PreparedCase], *, at_end: bool) -> Needs:
        """Every case; at the end every subject, in full."""
        return Needs(subjects_of(cases), self.asked_in_full) if at_end else Needs(cases, self.asked)

    def quick(self, predict: PredictCase, cases: Sequence[PreparedCase]) -> dict[str, float]:
        """The mean PSNR in dB. Cases whose target is blank have none and are left out."""
        shown = [case for case in cases if self.real(case).any()]
        if not shown:
            raise UserError(
                f"the {self.target} of all {len(cases)} cases that are watched while training is blank; raise "
                "validation.cases"
            )
        mean = float(np.mean([psnr_db(self.real(case), self.made(predict(case, self.asked), case)) for case in shown]))
        return {f"{self.primary}/psnr_db": mean, "score": mean}

    def full(
        self, predict: PredictCase, cases: Sequence[PreparedCase], *, results: Path, figures_dir: Path, title: str
    ) -> dict[str, Any]:
        """Writes cases.csv, one row per subject and image, summary.json and panels; returns the summary.

        The first volumes stay, to set the rows of a table side by side.
        """
        subjects = subjects_of(cases)
        predicted, seconds = timed(predict)
        rows, kept = [], {}
        for case in subjects:
            outputs = predicted(case, self.asked_in_full)
            rows += self._rows(case, outputs)
            if len(kept) < KEPT:
                kept[case.id] = self.made(outputs, case).astype(np.float16)  # enough for a figure
        document = {
            "kind": "synthesis",
            "primary": self.primary,
            "cases": len(subjects),
            "sources": list(self.sources),
            "target": self.target,
            "definitions": {**DEFINITIONS, **OFFICIAL_DEFINITIONS, "Grids": grids(subjects)},
            "outputs": summarize_synthesized(rows),
            **speed(subjects, seconds),
        }
        for case in self._shown(rows, subjects):
            # Predicted once more: the volumes of all subjects would be as large as the data set.
            self.draw(
                case, self.made(predict(case, self.asked), case), figures_dir / f"{case.id}.png", f"{title}: {case.id}"
            )
        write_rows(results / "cases.csv", rows)
        write_npz(results / SYNTHESIZED_FILE, **kept)
        write_json(results / "summary.json", document)  # last: its presence says that the rest is there
        return document

    def _rows(self, case: PreparedCase, outputs: Mapping[str, np.ndarray]) -> list[dict[str, Any]]:
        real, stretched = self.real(case), outputs[STRETCHED]
        images = {self.primary: self.made(outputs, case)}
        images |= {f"copy of {name}": image for name, image in zip(self.sources, self.shown_sources(case), strict=True)}
        places = [-1, *(case.facts.modalities.index(name) for name in self.sources)]
        truth = stretched[..., case.facts.modalities.index(self.target)]
        return [
            {
                "case": case.id,
                "output": name,
                **score_synthesized(real, image),
                **_official(truth, stretched[..., place]),
            }
            for (name, image), place in zip(images.items(), places, strict=True)
        ]

    def _shown(self, rows: Sequence[Mapping[str, Any]], cases: Sequence[PreparedCase]) -> list[PreparedCase]:
        """Cases to draw: the worst by PSNR of the primary output, then others."""
        found = {row["case"]: row["psnr_db"] for row in rows if row["output"] == self.primary}
        return worst_first(cases, found)

    def draw(self, case: PreparedCase, made: np.ndarray, path: Path, title: str) -> None:
        """Draws the sources, the target by the network with its error, and the truth."""
        synthesis_panel(
            path,
            sources=dict(zip(self.sources, self.shown_sources(case), strict=True)),
            made={self.primary: made},
            truth=self.real(case),
            target=self.target,
            title=title,
            spacing_mm=case.facts.spacing_mm,
            label=None if case.label is None else np.asarray(case.label),
        )

    def made(self, outputs: Mapping[str, np.ndarray], case: PreparedCase) -> np.ndarray:
        """The target by the network, within [0, 1], and exactly 0 where no source shows anything."""
        if self.primary not in outputs or outputs[self.primary].shape[-1] != 1:
            raise UserError(
                f"the output {self.primary} is not one image, so that it cannot be judged as a synthesis; set assess "
                "to engine.judging.losses:losses"
            )
        inside = shown(np.stack(self.shown_sources(case), axis=-1))
        return np.where(inside, np.clip(outputs[self.primary][..., 0], 0, 1), np.float32(0))

    def real(self, case: PreparedCase) -> np.ndarray:
        """The target as it was taken."""
        return self._channel(case, self.target)

    def shown_sources(self, case: PreparedCase) -> list[np.ndarray]:
        """The sources in their order."""
        return [self._channel(case, name) for name in self.sources]

    def _channel(self, case: PreparedCase, name: str) -> np.ndarray:
        if name not in case.facts.modalities:
            raise UserError(f"pairs names {name}, but the data has {', '.join(case.facts.modalities)}")
        image = np.asarray(case.image[..., case.facts.modalities.index(name)])
        if image.min() < 0 or image.max() > 1:
            raise UserError(
                f"case {case.id}: {name} runs from {image.min():g} to {image.max():g}; images are judged in [0, 1]: "
                "set data.normalize to minmax, histmatch or percentiles"
            )
        return image


def synthesis(judged: Judged) -> SynthesisAssessment:
    """Judges systems that make the second of `pairs`, such as "flair", from the first, such as "t1+t2"."""
    pairs = judged.pairs
    if len(pairs) != 2 or "+" in pairs[1]:
        raise UserError(
            f"pairs is {tuple(pairs)}; a synthesis is judged with its sources and its target named, such as "
            "('t1+t2', 'flair')"
        )
    return SynthesisAssessment(judged.primary, tuple(pairs[0].split("+")), pairs[1])


def _official(real: np.ndarray, made: np.ndarray) -> dict[str, float]:
    """Scores volumes of stretched patches as the public code does; nan where a side is shorter than its 3D window."""
    if real.ndim != 3 or min(real.shape) < OFFICIAL_TAPS:
        return dict.fromkeys(names_of(OFFICIAL), math.nan)
    return official_scores(real, made)


def grids(cases: Sequence[PreparedCase]) -> str:
    """The voxels that the metrics are taken over, in words: PSNR depends on them."""
    shapes = sorted({case.facts.shape for case in cases}, key=math.prod)
    least, most = (" x ".join(map(str, shape)) for shape in (shapes[0], shapes[-1]))
    return f"{least} voxels of each subject" if least == most else f"{least} to {most} voxels, one for each subject"
