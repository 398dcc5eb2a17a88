"""Judging a phase while it trains: its validation, the rows of its scores, and the best weights so far."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any, Protocol, runtime_checkable

from jaxfuse.engine.run_folder.checkpoints import Checkpoints
from jaxfuse.engine.run_folder.metric_writer import MetricWriter
from jaxfuse.learning.state import State


@runtime_checkable
class Validate(Protocol):
    def __call__(self, state: State) -> dict[str, float]: ...


@runtime_checkable
class Judge(Protocol):
    """What a training loop asks when a validation is due."""

    def __call__(self, step: int, state: State) -> None:
        """Validates, writes the scores, and keeps the weights where they are the best so far."""
        ...

    def document(self) -> dict[str, Any]:
        """What of the judging decides the future, as JSON for a checkpoint."""
        ...

    def recall(self, document: dict[str, Any]) -> None:
        """Goes on from such a document."""
        ...


@dataclass
class Progress:
    """What decides the future of a phase beside its state."""

    best_score: float | None = None
    best_step: int | None = None

    def document(self) -> dict[str, Any]:
        return {"best_score": self.best_score, "best_step": self.best_step}


@dataclass
class PhaseJudge:
    """The judge of one phase, whose best weights go to its own checkpoints."""

    phase: str
    validate: Validate
    writer: MetricWriter
    checkpoints: Checkpoints
    progress: Progress

    def __call__(self, step: int, state: State) -> None:
        scores = self.validate(state)
        self.writer.write(step, self.phase, "val", scores)
        score = scores.get("score")
        # A score of NaN would never be beaten.
        if score is None or not math.isfinite(score):
            return
        if self.progress.best_score is None or score > self.progress.best_score:
            self.progress.best_score, self.progress.best_step = score, step
            self.checkpoints.save_best(step, state)

    def document(self) -> dict[str, Any]:
        return self.progress.document()

    def recall(self, document: dict[str, Any]) -> None:
        self.progress = Progress(**document)
