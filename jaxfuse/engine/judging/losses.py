"""The judge of phases that only prepare weights for another: it judges no case."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from jaxfuse.data.prepared import PreparedCase
from jaxfuse.engine.judging.assessment import Judged, Needs, PredictCase


@dataclass(frozen=True)
class LossAssessment:
    """Follows the validation loss alone; the last weights are the result."""

    def needs(self, cases: Sequence[PreparedCase], *, at_end: bool) -> Needs:
        """Needs nothing."""
        del cases, at_end
        return Needs()

    def quick(self, predict: PredictCase, cases: Sequence[PreparedCase]) -> dict[str, float]:
        """Gives no scores."""
        del predict, cases
        return {}

    def full(
        self, predict: PredictCase, cases: Sequence[PreparedCase], *, results: Path, figures_dir: Path, title: str
    ) -> None:
        """Judges nothing and writes nothing."""
        del predict, cases, results, figures_dir, title


def losses(judged: Judged) -> LossAssessment:
    """Judges phases that only prepare weights for another."""
    del judged
    return LossAssessment()
