"""The judge of translations: fakes against the real images of the same subject, cycles against their source."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from jaxfuse.data.prepared import PreparedCase, brain_mask
from jaxfuse.engine.judging.assessment import FIGURES_AT_MOST, Judged, Needs, PredictCase, speed, timed
from jaxfuse.inference.tiling import Asked
from jaxfuse.io.tables import write_json, write_rows
from jaxfuse.metrics.translation import mean_absolute_error, summarize_translated
from jaxfuse.report import figures


@dataclass(frozen=True)
class TranslationAssessment:
    """Errors of fakes and of cycles inside the brain, in the z-scores of the prepared images.

    Attributes:
        groups: side, "a", "b", ... -> modality names.
    """

    groups: Mapping[str, Sequence[str]]

    @property
    def asked(self) -> Asked:
        """The outputs that are judged."""
        return Asked(values=tuple(f"{kind}_{side}" for kind in ("fake", "cycle") for side in self.groups))

    def needs(self, cases: Sequence[PreparedCase], *, at_end: bool) -> Needs:
        """Every case."""
        del at_end
        return Needs(cases, self.asked)

    def quick(self, predict: PredictCase, cases: Sequence[PreparedCase]) -> dict[str, float]:
        """Mean errors by output; the score is minus the mean error of the cycles."""
        per_case = [self._errors(predict(case, self.asked), case) for case in cases]
        means = {
            f"{output.replace(' ', '_')}/mae": float(np.mean([errors[output] for errors in per_case]))
            for output in per_case[0]
        }
        return {**means, "score": -float(np.mean([v for name, v in means.items() if name.startswith("cycle")]))}

    def full(
        self, predict: PredictCase, cases: Sequence[PreparedCase], *, results: Path, figures_dir: Path, title: str
    ) -> dict[str, Any]:
        """Writes cases.csv, one row per case and output, summary.json and panels; returns the summary."""
        predicted, seconds = timed(predict)
        rows = []
        for number, case in enumerate(cases):
            outputs = predicted(case, self.asked)
            errors = self._errors(outputs, case)
            rows += [{"case": case.id, "output": name, "mae": error} for name, error in errors.items()]
            if number < FIGURES_AT_MOST:
                self._draw(outputs, case, figures_dir / f"{case.id}.png", f"{title}: {case.id}")
        document = {
            "kind": "translation",
            "primary": rows[0]["output"],
            "cases": len(cases),
            "outputs": summarize_translated(rows),
            **speed(cases, seconds),
        }
        write_rows(results / "cases.csv", rows)
        write_json(results / "summary.json", document)
        return document

    def _errors(self, outputs: Mapping[str, np.ndarray], case: PreparedCase) -> dict[str, float]:
        """Mean absolute errors inside the brain by output, such as "fake t1"."""
        real, modalities = np.asarray(case.image), list(case.facts.modalities)
        brain = brain_mask(case)
        return {
            f"{kind} {name}": mean_absolute_error(
                real[..., modalities.index(name)][brain], outputs[f"{kind}_{side}"][..., channel][brain]
            )
            for side, names in self.groups.items()
            for kind in ("fake", "cycle")
            for channel, name in enumerate(names)
        }

    def _draw(self, outputs: Mapping[str, np.ndarray], case: PreparedCase, path: Path, title: str) -> None:
        if len(self.groups) > 2 or len(self.groups["a"]) != len(self.groups["b"]):
            return  # the panel pairs modalities one to one
        image = np.asarray(case.image)
        brain = brain_mask(case)[..., None]
        order = [*self.groups["a"], *self.groups["b"]]
        stacked = {k: np.concatenate([outputs[f"{k}_a"], outputs[f"{k}_b"]], -1) * brain for k in ("fake", "cycle")}
        figures.translation_panel(
            path,
            real=image[..., [list(case.facts.modalities).index(name) for name in order]],
            fake=stacked["fake"],
            cycle=stacked["cycle"],
            modalities=order,
            pairs=(self.groups["a"], self.groups["b"]),
            title=title,
            spacing_mm=case.facts.spacing_mm,
            label=None if case.label is None else np.asarray(case.label),
        )


def translation(judged: Judged) -> TranslationAssessment:
    """Judges cycle translations between the groups of `pairs`."""
    return TranslationAssessment({side: group.split("+") for side, group in zip("abcd", judged.pairs, strict=False)})
