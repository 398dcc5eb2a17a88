"""The contract of judging: quick scores while a phase trains, every metric at its end.

A config names a factory for each phase, such as "engine.judging.segmentation:segmentation". It takes a `Judged` and
returns an `Assessment`.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Protocol, runtime_checkable

import numpy as np

from jaxfuse.data.prepared import Prepared, PreparedCase
from jaxfuse.data.preprocess import uncrop
from jaxfuse.errors import UserError
from jaxfuse.inference.tiling import Asked
from jaxfuse.labels import LabelScheme

# A prepared case, and what is asked for -> outputs by name on the cropped grid: values (*space k), labels (*space).
PredictCase = Callable[[PreparedCase, Asked], Mapping[str, np.ndarray]]
FIGURES_AT_MOST = 6
WORST = 3


@dataclass(frozen=True)
class Judged:
    """A phase as its judge sees it: the one argument of every factory of assessments.

    Attributes:
        scheme: what the labels of its data mean; None where they have none.
        primary: the name of the output that is the result.
        probabilities: the names of the outputs that are class probabilities.
        pairs: the config's pairs of modalities, such as ("t1+t2", "flair").
        mask_to_brain: whether its label maps are background outside the brain.
    """

    scheme: LabelScheme | None
    primary: str
    probabilities: tuple[str, ...] = ()
    pairs: tuple[str, ...] = ()
    mask_to_brain: bool = True


@dataclass(frozen=True)
class Needs:
    """The predictions that a judgment begins with: its cases in order, and what it asks of each."""

    cases: Sequence[PreparedCase] = ()
    asked: Asked = field(default_factory=Asked)


class MadeElsewhere(dict[str, np.ndarray]):
    """Outputs by name that another process has made, and the seconds that it took."""

    seconds: float = 0.0


@runtime_checkable
class Assessment(Protocol):
    """Scores of cases, volumes or slices."""

    def needs(self, cases: Sequence[PreparedCase], *, at_end: bool) -> Needs:
        """The predictions that `quick`, or `full` at the end, begins with. Processes that divide it all ask this."""
        ...

    def quick(self, predict: PredictCase, cases: Sequence[PreparedCase]) -> dict[str, float]:
        """Scores by name. Among them "score", larger is better, chooses the best checkpoint; without it none is."""
        ...

    def full(
        self, predict: PredictCase, cases: Sequence[PreparedCase], *, results: Path, figures_dir: Path, title: str
    ) -> dict[str, Any] | None:
        """Writes cases.csv, summary.json and figures; returns the summary, or None if there is nothing to judge."""
        ...


def timed(predict: PredictCase) -> tuple[PredictCase, list[float]]:
    """The prediction, and the seconds that each of its calls will have taken, wherever it was made."""
    seconds: list[float] = []

    def measured(case: PreparedCase, asked: Asked) -> Mapping[str, np.ndarray]:
        started = time.perf_counter()
        found = predict(case, asked)
        elsewhere = isinstance(found, MadeElsewhere)
        seconds.append(found.seconds if elsewhere else time.perf_counter() - started)
        return found

    return measured, seconds


def speed(cases: Sequence[PreparedCase], seconds: Sequence[float]) -> dict[str, float]:
    """The entry of a summary for the median of these seconds; the first case may pay for a compilation."""
    return {"seconds_per_slice" if are_slices(cases) else "seconds_per_subject": float(np.median(seconds))}


def worst_first(cases: Sequence[PreparedCase], scores: Mapping[str, float]) -> list[PreparedCase]:
    """Cases to draw: the three with the lowest score, then the first others, at most six.

    `scores` maps case id to score.
    """
    worst = sorted(cases, key=lambda case: scores[case.id])[:WORST]
    return [*worst, *(case for case in cases if case not in worst)][:FIGURES_AT_MOST]


def are_slices(cases: Sequence[PreparedCase]) -> bool:
    """Whether any case is a slice that is judged by itself."""
    return any(len(case.facts.shape) == 2 for case in cases)


def whole_truth(case: Prepared | PreparedCase) -> np.ndarray:
    """The label map of a case before cropping, with what lies outside the crop; refuses a case without one."""
    truth, beyond = uncrop(truth_of(case), case, 0), case.beyond
    truth[tuple(beyond[:, : truth.ndim].T)] = beyond[:, truth.ndim]
    return truth


def truth_of(case: Prepared | PreparedCase) -> np.ndarray:
    """The label map of a case on its crop (*space); refuses a case without one."""
    if case.label is None:
        raise UserError(f"case {case.facts.id} has no label to be judged against; leave it out of the validation split")
    return np.asarray(case.label)
