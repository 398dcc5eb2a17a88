"""The judge of networks that make any modality from any others: each that a case has, made from all others it has.

Metrics are those of one synthesized modality (`jaxfuse.engine.judging.synthesis`); what the public code of Hi-Net
computes beside them is left out. The row `completed` of a case is the mean over its modalities; what one of them lacks
is left out of it. Beside each stands the mean image of its sources in its place, which needs no network.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from jaxfuse.data.prepared import PreparedCase
from jaxfuse.data.subjects import subjects_of
from jaxfuse.engine.judging.assessment import Judged, Needs, PredictCase, speed, timed, worst_first
from jaxfuse.engine.judging.synthesis import SynthesisAssessment, grids
from jaxfuse.errors import UserError
from jaxfuse.inference.tiling import Asked
from jaxfuse.io.tables import write_json, write_rows
from jaxfuse.learning.system import synthesized
from jaxfuse.metrics.synthesis import DEFINITIONS, METRICS, psnr_db, score_synthesized, summarize_synthesized

Row = dict[str, Any]


@dataclass(frozen=True)
class CompletionAssessment:
    """All modalities, each from the others: mean PSNR of the watched cases while training; every metric at the end.

    Attributes:
        primary: the output that has all of them.
        sources, targets: modality names.
    """

    primary: str
    sources: tuple[str, ...]
    targets: tuple[str, ...]

    @property
    def asked(self) -> Asked:
        """Every target by itself."""
        return Asked(values=tuple(map(synthesized, self.targets)))

    def of_case(self, case: PreparedCase) -> list[SynthesisAssessment]:
        """The judges of those modalities that a case has, each from all others that it has; none where it has one."""
        there = [name for name in case.facts.modalities if name not in case.facts.lacks]
        found = []
        for target in filter(there.__contains__, self.targets):
            others = tuple(name for name in self.sources if name in there and name != target)
            if others:
                found.append(SynthesisAssessment(synthesized(target), others, target))
        return found

    def needs(self, cases: Sequence[PreparedCase], *, at_end: bool) -> Needs:
        """Every case; at the end every subject that has two modalities of which one could be made from the other."""
        return Needs([case for case in subjects_of(cases) if self.of_case(case)] if at_end else cases, self.asked)

    def quick(self, predict: PredictCase, cases: Sequence[PreparedCase]) -> dict[str, float]:
        """The mean PSNR in dB, of each target and over all. Blank ones have none and are left out."""
        found: dict[str, list[float]] = {name: [] for name in self.targets}
        for case in cases:
            outputs = predict(case, self.asked)
            for one in self.of_case(case):
                if (real := one.real(case)).any():
                    found[one.target].append(psnr_db(real, one.made(outputs, case)))
        means = {name: float(np.mean(values)) for name, values in found.items() if values}
        if not means:
            raise UserError(
                f"none of the {len(cases)} cases that are watched while training has two modalities that show "
                "something; raise validation.cases"
            )
        score = float(np.mean(list(means.values())))
        each = {f"{synthesized(name)}/psnr_db": value for name, value in means.items()}
        return {**each, f"{self.primary}/psnr_db": score, "score": score}

    def full(
        self, predict: PredictCase, cases: Sequence[PreparedCase], *, results: Path, figures_dir: Path, title: str
    ) -> dict[str, Any]:
        """Writes cases.csv, one row per subject and image, summary.json and panels; returns the summary."""
        subjects = self.needs(cases, at_end=True).cases
        if not subjects:
            raise UserError("no case to be judged has two modalities, of which one could be made from the other")
        predicted, seconds = timed(predict)
        rows = [row for case in subjects for row in self._rows(case, predicted(case, self.asked))]
        document = {
            "kind": "synthesis",
            "primary": self.primary,
            "cases": len(subjects),
            "sources": list(self.sources),
            "target": "any of " + ", ".join(self.targets),
            "definitions": {**DEFINITIONS, "Sources": "all others that a case has", "Grids": grids(subjects)},
            "outputs": summarize_synthesized(rows),
            **speed(subjects, seconds),
        }
        whole = {row["case"]: row["psnr_db"] for row in rows if row["output"] == self.primary}
        for case in worst_first(subjects, whole):
            self._draw_worst(predict, case, rows, figures_dir / f"{case.id}.png", title)
        write_rows(results / "cases.csv", rows)
        write_json(results / "summary.json", document)  # last: its presence says that the rest is there
        return document

    def _rows(self, case: PreparedCase, outputs: Any) -> list[Row]:
        made, plain = list[Row](), list[Row]()
        for one in self.of_case(case):
            real, mean = one.real(case), np.mean(one.shown_sources(case), axis=0)
            for rows, name, image in ((made, "", one.made(outputs, case)), (plain, "mean of the others as ", mean)):
                rows.append({"case": case.id, "output": name + one.target, **score_synthesized(real, image)})
        means = [self._over(case, name, of) for name, of in ((self.primary, made), ("mean of the others", plain))]
        return [*means, *made, *plain]

    def _over(self, case: PreparedCase, name: str, rows: Sequence[Row]) -> Row:
        """The means over the modalities of one case that have a score each; where none has, there is none."""
        means = {}
        for metric in METRICS:
            values = np.array([row[metric.name] for row in rows])
            defined = values[np.isfinite(values)]
            means[metric.name] = float(np.mean(defined if defined.size else values))
        return {"case": case.id, "output": name, **means}

    def _draw_worst(
        self, predict: PredictCase, case: PreparedCase, rows: Sequence[Row], path: Path, title: str
    ) -> None:
        """Draws the modality of a case that is made worst by PSNR."""
        found = {row["output"]: row["psnr_db"] for row in rows if row["case"] == case.id}
        one = min(self.of_case(case), key=lambda one: found[one.target])
        # Predicted once more: the volumes of all subjects would be as large as the data set.
        outputs = predict(case, Asked(values=(one.primary,)))
        one.draw(case, one.made(outputs, case), path, f"{title}: {case.id}, {one.target} from {', '.join(one.sources)}")


def completion(judged: Judged) -> CompletionAssessment:
    """Judges systems that make the second of `pairs` from the first, such as ("t1+t2+flair", "t1+t2+flair")."""
    if len(judged.pairs) != 2:
        raise UserError(
            f"pairs is {tuple(judged.pairs)}; a synthesis from any sources is judged with these and its targets named, "
            "such as ('t1+t2+flair', 't1+t2+flair')"
        )
    sources, targets = (tuple(one.split("+")) for one in judged.pairs)
    return CompletionAssessment(judged.primary, sources, targets)
