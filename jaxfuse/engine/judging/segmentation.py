"""How predictions are judged: quickly while a phase trains, and in full at its end.

A config names one of the functions at the end of this file for each phase; it makes an Assessment.
"""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any, Protocol, runtime_checkable

import numpy as np

from jaxfuse.data.prepared import PreparedCase
from jaxfuse.data.preprocess import uncrop
from jaxfuse.data.subjects import subjects_of
from jaxfuse.engine.judging.other_runs import KEPT, LABELS
from jaxfuse.errors import UserError
from jaxfuse.inference.label_map import label_map
from jaxfuse.inference.tiling import Alongside
from jaxfuse.io.npz import write_npz
from jaxfuse.io.tables import write_json, write_rows
from jaxfuse.labels import LabelScheme
from jaxfuse.metrics.overlap import dice
from jaxfuse.metrics.protocols import default_one_empty_mm
from jaxfuse.metrics.regions import score_case, statistics, summary_document
from jaxfuse.report import figures
from jaxfuse.report.contours import overlay_of

# A prepared case -> its outputs by name, (*space k) on the cropped grid.
PredictCase = Callable[[PreparedCase], Mapping[str, np.ndarray]]
# The cases of a data set -> what the lines of a table are about.
Units = Callable[[Sequence[PreparedCase]], Sequence[PreparedCase]]
FIGURES_AT_MOST = 6
WORST = 3


@runtime_checkable
class Assessment(Protocol):
    """Scores of cases, volumes or slices.

    `quick` must hold the name "score", larger is better, which chooses the best checkpoint.
    """

    @property
    def alongside(self) -> Alongside | None:
        """What `full` needs of single patches, beside the outputs that are put together from them."""
        ...

    def quick(self, predict: PredictCase, cases: Sequence[PreparedCase]) -> dict[str, float]: ...

    def full(
        self, predict: PredictCase, cases: Sequence[PreparedCase], *, results: Path, figures_dir: Path, title: str
    ) -> dict[str, Any] | None:
        """Writes cases.csv, summary.json and figures; returns the summary, or None if there is nothing to judge."""
        ...


class SegmentationAssessment:
    """Regions of a label scheme: Dice while training; at the end all metrics of the scheme's protocol.

    The protocol is that of `jaxfuse.metrics.protocols`: tumors, infant tissues and strokes each have their own. Judged
    are the outputs named by `probabilities`, `primary` among them.

    Attributes:
        units: what is judged in full; as a rule subjects, so that slices of one volume are judged as that volume. While
            training, each case is a unit.
    """

    alongside = None

    def __init__(
        self, scheme: LabelScheme, primary: str, probabilities: Sequence[str], units: Units = subjects_of
    ) -> None:
        self.scheme, self.primary, self.probabilities, self.units = scheme, primary, tuple(probabilities), units

    def quick(self, predict: PredictCase, cases: Sequence[PreparedCase]) -> dict[str, float]:
        scores: dict[str, list[float]] = {}
        for case in cases:
            truth = _truth(case)
            for output, labels in label_maps(predict(case), case.brain, self.probabilities).items():
                for region, members in self.scheme.regions.items():
                    value = dice(np.isin(labels, members), np.isin(truth, members))
                    scores.setdefault(f"{output}/{region}/dice", []).append(value)
        means = {name: float(np.mean(values)) for name, values in scores.items()}
        primary = [value for name, value in means.items() if name.startswith(f"{self.primary}/")]
        return {**means, "score": float(np.mean(primary))}

    def full(
        self, predict: PredictCase, cases: Sequence[PreparedCase], *, results: Path, figures_dir: Path, title: str
    ) -> dict[str, Any]:
        units = self.units(cases)
        rows, maps, document = self.judge(predict, units)
        for case in self.shown(rows, units):
            image, names = np.asarray(case.image), case.facts.modalities
            self.draw(case, image, names, maps[case.id], figures_dir / f"{case.id}.png", f"{title}: {case.id}")
        self.write(results, units, rows, maps, document)
        return document

    def judge(
        self, predict: PredictCase, cases: Sequence[PreparedCase]
    ) -> tuple[list[dict[str, Any]], dict[str, dict[str, np.ndarray]], dict[str, Any]]:
        """Scores by case, output and region; label maps by case and output; the summary."""
        # A challenge's penalty is the diagonal of a volume: none is set for slices.
        one_empty = math.nan if _are_slices(cases) else default_one_empty_mm(self.scheme)
        rows, maps, seconds = [], {}, []
        for case in cases:
            started = time.perf_counter()
            maps[case.id] = label_maps(predict(case), case.brain, self.probabilities)
            seconds.append(time.perf_counter() - started)
            # On the whole grid, not the crop: specificity counts every voxel of background.
            truth = uncrop(_truth(case), case, 0)
            for output, labels in maps[case.id].items():
                rows += score_case(
                    uncrop(labels, case, 0),
                    truth,
                    self.scheme,
                    spacing_mm=case.facts.spacing_mm,
                    one_empty=one_empty,
                    case=case.id,
                    output=output,
                )
        document = summary_document(rows, primary=self.primary, one_empty=one_empty)
        # The median: the first case may pay for a compilation.
        document[speed_name(cases)] = float(np.median(seconds))
        return rows, maps, document

    def write(
        self,
        results: Path,
        cases: Sequence[PreparedCase],
        rows: Sequence[Mapping[str, Any]],
        maps: Mapping[str, Mapping[str, np.ndarray]],
        document: Mapping[str, Any],
    ) -> None:
        write_rows(results / "cases.csv", rows)
        # To set the rows of a table side by side.
        write_npz(results / LABELS, **{case.id: maps[case.id][self.primary] for case in cases[:KEPT]})
        write_json(results / "summary.json", document)  # last: its presence says that the rest is there

    def draw(
        self,
        case: PreparedCase,
        image: np.ndarray,
        names: Sequence[str],
        maps: Mapping[str, np.ndarray],
        path: Path,
        title: str,
    ) -> None:
        """The panel of a case: the channels of `image` by these names, the truth, label maps over the last channel."""
        figures.segmentation_panel(
            path,
            image=image,
            modalities=names,
            truth=_truth(case),
            predictions=maps,
            classes=self.scheme.classes,
            title=title,
            spacing_mm=case.facts.spacing_mm,
            overlay=overlay_of(self.scheme),
        )

    def shown(self, rows: Sequence[Mapping[str, Any]], cases: Sequence[PreparedCase]) -> list[PreparedCase]:
        """The worst three by mean Dice of the primary output, then others in order."""
        mean = {
            case.id: float(np.mean([r["dice"] for r in rows if r["case"] == case.id and r["output"] == self.primary]))
            for case in cases
        }
        return worst_first(cases, mean)


class TranslationAssessment:
    """Fakes against the real images of the same subject, and cycles against their source, inside the brain.

    Errors are in the z-scores of the prepared images.
    """

    alongside = None

    def __init__(self, groups: Mapping[str, Sequence[str]]) -> None:
        self.groups = groups  # side -> modality names

    def _errors(self, outputs: Mapping[str, np.ndarray], case: PreparedCase) -> dict[str, dict[str, float]]:
        real, modalities = np.asarray(case.image), list(case.facts.modalities)
        brain = np.any(real != 0, axis=-1)
        errors = {}
        for side, names in self.groups.items():
            for kind in ("fake", "cycle"):
                for channel, name in enumerate(names):
                    made, want = (
                        outputs[f"{kind}_{side}"][..., channel][brain],
                        real[..., modalities.index(name)][brain],
                    )
                    errors[f"{kind} {name}"] = {"mae": float(np.abs(made - want).mean(dtype=np.float64))}
        return errors

    def quick(self, predict: PredictCase, cases: Sequence[PreparedCase]) -> dict[str, float]:
        per_case = [self._errors(predict(case), case) for case in cases]
        means = {
            f"{output.replace(' ', '_')}/mae": float(np.mean([e[output]["mae"] for e in per_case]))
            for output in per_case[0]
        }
        return {**means, "score": -float(np.mean([v for name, v in means.items() if name.startswith("cycle")]))}

    def full(
        self, predict: PredictCase, cases: Sequence[PreparedCase], *, results: Path, figures_dir: Path, title: str
    ) -> dict[str, Any]:
        rows, seconds = [], []
        for number, case in enumerate(cases):
            started = time.perf_counter()
            outputs = predict(case)
            seconds.append(time.perf_counter() - started)
            rows += [
                {"case": case.id, "output": name, **errors} for name, errors in self._errors(outputs, case).items()
            ]
            if number < FIGURES_AT_MOST:
                self._figure(outputs, case, figures_dir / f"{case.id}.png", f"{title}: {case.id}")
        outputs = {
            name: _statistics([r for r in rows if r["output"] == name])
            for name in dict.fromkeys(r["output"] for r in rows)
        }
        document = {
            "kind": "translation",
            "primary": rows[0]["output"],
            "cases": len(cases),
            "outputs": outputs,
            speed_name(cases): float(np.median(seconds)),
        }
        write_rows(results / "cases.csv", rows)
        write_json(results / "summary.json", document)
        return document

    def _figure(self, outputs: Mapping[str, np.ndarray], case: PreparedCase, path: Path, title: str) -> None:
        if len(self.groups["a"]) != len(self.groups["b"]):
            return  # the panel pairs modalities one to one
        brain = np.any(np.asarray(case.image) != 0, axis=-1, keepdims=True)
        order = [*self.groups["a"], *self.groups["b"]]
        stacked = {k: np.concatenate([outputs[f"{k}_a"], outputs[f"{k}_b"]], -1) * brain for k in ("fake", "cycle")}
        channels = [list(case.facts.modalities).index(name) for name in order]
        figures.translation_panel(
            path,
            real=np.asarray(case.image)[..., channels],
            fake=stacked["fake"],
            cycle=stacked["cycle"],
            modalities=order,
            pairs=(self.groups["a"], self.groups["b"]),
            title=title,
            spacing_mm=case.facts.spacing_mm,
            label=None if case.label is None else _truth(case),
        )


class LossAssessment:
    """No cases are judged: the validation loss alone is followed, and the last weights are the result."""

    alongside = None

    def quick(self, predict: PredictCase, cases: Sequence[PreparedCase]) -> dict[str, float]:
        del predict, cases
        return {}

    def full(
        self, predict: PredictCase, cases: Sequence[PreparedCase], *, results: Path, figures_dir: Path, title: str
    ) -> None:
        del predict, cases, results, figures_dir, title


def segmentation(
    *, scheme: LabelScheme | None, primary: str, probabilities: Sequence[str], pairs: Sequence[str]
) -> SegmentationAssessment:
    """For systems whose result is class probabilities; slices of one volume are judged as that volume."""
    del pairs
    if scheme is None:
        raise UserError(
            "whole volumes can be judged only with a label scheme; set assess to engine.judging.segmentation:losses"
        )
    if primary not in probabilities:
        raise UserError(
            f"the result {primary} is no class probabilities, so that it cannot be judged as a segmentation; "
            "set assess to engine.judging.segmentation:losses"
        )
    return SegmentationAssessment(scheme, primary, probabilities)


def segmentation_of_slices(
    *, scheme: LabelScheme | None, primary: str, probabilities: Sequence[str], pairs: Sequence[str]
) -> SegmentationAssessment:
    """The same with every slice a case of its own, as papers on 2D methods score them."""
    judged = segmentation(scheme=scheme, primary=primary, probabilities=probabilities, pairs=pairs)
    return SegmentationAssessment(judged.scheme, primary, probabilities, units=tuple)


def translation(
    *, scheme: LabelScheme | None, primary: str, probabilities: Sequence[str], pairs: Sequence[str]
) -> TranslationAssessment:
    """For cycle translations between the two groups of `pairs`."""
    del scheme, primary, probabilities
    return TranslationAssessment({"a": pairs[0].split("+"), "b": pairs[1].split("+")})


def losses(
    *, scheme: LabelScheme | None, primary: str, probabilities: Sequence[str], pairs: Sequence[str]
) -> LossAssessment:
    """For phases that only prepare weights for another."""
    del scheme, primary, probabilities, pairs
    return LossAssessment()


def label_maps(
    outputs: Mapping[str, np.ndarray], brain: np.ndarray, probabilities: Sequence[str]
) -> dict[str, np.ndarray]:
    """Class indices of the outputs that are class probabilities, by these names."""
    return {name: label_map(outputs[name], brain) for name in probabilities}


def _are_slices(cases: Sequence[PreparedCase]) -> bool:
    return any(len(case.facts.shape) == 2 for case in cases)


def worst_first(cases: Sequence[PreparedCase], scores: Mapping[str, float]) -> list[PreparedCase]:
    """Those that get a figure: the three of the lowest score, which is given by case id, then others in order."""
    worst = sorted(cases, key=lambda case: scores[case.id])[:WORST]
    return [*worst, *(case for case in cases if case not in worst)][:FIGURES_AT_MOST]


def speed_name(cases: Sequence[PreparedCase]) -> str:
    return "seconds_per_slice" if _are_slices(cases) else "seconds_per_subject"


def _truth(case: PreparedCase) -> np.ndarray:
    if case.label is None:
        raise UserError(f"case {case.id} has no label to be judged against; leave it out of the validation split")
    return np.asarray(case.label)


def _statistics(rows: Sequence[Mapping[str, Any]]) -> dict[str, dict[str, float]]:
    return {"mae": statistics(np.array([row["mae"] for row in rows], np.float64))}
