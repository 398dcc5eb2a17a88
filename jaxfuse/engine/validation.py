"""Judging a phase while it trains: what it is validated on, its scores, and its best weights so far."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from functools import partial
from typing import Any, Protocol, runtime_checkable

import jax
import numpy as np

from jaxfuse.config import Phase
from jaxfuse.data.pipeline import PatchSampler
from jaxfuse.data.prepared import PreparedCase
from jaxfuse.engine.build import without_optimizers
from jaxfuse.engine.judging.assessment import Assessment, Needs, PredictCase
from jaxfuse.engine.run_folder.checkpoints import Checkpoints
from jaxfuse.engine.run_folder.metric_writer import MetricWriter
from jaxfuse.inference.mirrors import asked_axes
from jaxfuse.learning.state import State
from jaxfuse.patches import output_sides, tile_volume

_VALIDATION_SHARE = 0.1
# Of one case, at a time; larger batches of many cases would fill the memory of a device.
_MOST_EXAMPLES = 8

Evaluate = Callable[[State, Any], Mapping[str, Any]]
Scores = dict[str, float]


@runtime_checkable
class Validate(Protocol):
    def __call__(self, state: State) -> dict[str, float]:
        """Returns the scores of a state by name. Among them `score`, larger is better, chooses the best state."""
        ...


@runtime_checkable
class Judge(Protocol):
    """The judge that a training loop asks when a validation is due."""

    def __call__(self, step: int, state: State) -> None:
        """Validates, writes the scores, and keeps the weights where they are the best so far."""
        ...

    def document(self) -> dict[str, Any]:
        """Returns the state to checkpoint (best score so far), as JSON."""
        ...

    def recall(self, document: dict[str, Any]) -> None:
        """Goes on from such a document."""
        ...

    @property
    def ended(self) -> bool:
        """Whether so many validations brought no better score that the training ends here."""
        ...


@dataclass
class Progress:
    """The best score of a phase so far and its step, which decide its future beside its state.

    Attributes:
        since: validations that brought no better one since.
    """

    best_score: float | None = None
    best_step: int | None = None
    since: int = 0

    def document(self) -> dict[str, Any]:
        return {"best_score": self.best_score, "best_step": self.best_step, "since": self.since}

    def ended(self, patience: int) -> bool:
        """Tells whether a phase ends that waits for a better score in so many validations; 0: it never does."""
        return 0 < patience <= self.since


@dataclass
class PhaseJudge:
    """The judge of one phase, whose best weights go to its own checkpoints.

    The best weights that the last two checkpoints name are kept until later ones name others.

    Attributes:
        patience: validations without a better score after which the training ends; 0: never.
    """

    phase: str
    validate: Validate
    writer: MetricWriter
    checkpoints: Checkpoints
    progress: Progress
    patience: int = 0
    _named: list[int | None] = field(default_factory=list)

    def __call__(self, step: int, state: State) -> None:
        scores = self.validate(state)
        if not scores:
            return
        self.writer.write(step, self.phase, "val", scores)
        score = scores.get("score")
        if score is None:
            return
        # A score of NaN would never be beaten.
        best = self.progress.best_score
        if math.isfinite(score) and (best is None or score > best):
            self.progress = Progress(score, step)
            self.checkpoints.save_best(step, state, keep={named for named in self._named if named is not None})
        else:
            self.progress.since += 1

    @property
    def ended(self) -> bool:
        return self.progress.ended(self.patience)

    def document(self) -> dict[str, Any]:
        self._named = [*self._named[-1:], self.progress.best_step]
        return self.progress.document()

    def recall(self, document: dict[str, Any]) -> None:
        self.progress = Progress(**document)
        best = self.progress.best_step
        if best is not None and not self.checkpoints.has_best(best):
            self.progress = Progress()  # a score whose weights are lost would keep all lower ones from being saved
        self._named = [self.progress.best_step]


@dataclass(frozen=True)
class Validation:
    """The validation of one phase: mean losses of fixed batches, and the quick scores of the cases watched.

    Where no case validates there are no scores.

    Attributes:
        evaluate: (weights, batch) -> losses by name.
        predict: (weights, case, what is asked for) -> outputs by name.
        watched: the cases that are predicted.
        fixed: the batches, equal in every validation, which stay where they lie.
        local: a state of the training -> the same on the device that validates.
        judged: scores, in process 0, cases that all processes predict (`jaxfuse.engine.judging.division`).
    """

    evaluate: Evaluate
    predict: Callable[..., Mapping[str, np.ndarray]]
    assessment: Assessment
    watched: tuple[PreparedCase, ...]
    fixed: Sequence[Any]
    local: Callable[[State], State]
    judged: Callable[[Needs, PredictCase, Callable[[PredictCase], Scores]], Scores]

    def __call__(self, state: State) -> Scores:
        if not self.watched:
            return {}
        weights = self.local(without_optimizers(state))
        needs = self.assessment.needs(self.watched, at_end=False)
        return self.judged(needs, partial(self.predict, weights), partial(self._scores, weights))

    def _scores(self, weights: State, predict: PredictCase) -> Scores:
        losses = mean_losses(self.evaluate, weights, self.fixed)
        quick = self.assessment.quick(predict, self.watched)
        return {name: float(value) for name, value in {**losses, **quick}.items()}


def spread(cases: Sequence[PreparedCase], count: int) -> tuple[PreparedCase, ...]:
    """Returns at most `count` of the cases, evenly spread. Neighbors may be neighboring slices of one head."""
    count = min(count, len(cases))
    return tuple(cases[(2 * i + 1) * len(cases) // (2 * count)] for i in range(count))


def validation_interval(phase: Phase, cases: Sequence[PreparedCase], *, asked: int, margin: int) -> int:
    """Returns the steps between two validations; 0: at the end only, and where there is nothing to validate on.

    They are those that are asked for, or more where these cases would take over a tenth of the time.

    A tile forward costs about a third of a training step on one example (forward and twice that backward). The
    estimate counts tiles and no seconds, so that a run stays repeatable. It is too high for tiles that are larger than
    the training patch.
    """
    if asked == 0 or not cases:
        return 0
    tile, overlap = output_sides(phase.patch, margin), phase.validation.overlap
    tiles = sum(len(tile_volume(case.facts.shape, tile, overlap=overlap)) for case in cases)
    passes = 2 ** min(len(asked_axes("mirror", phase.validation.mirror)), len(tile))
    return max(asked, math.ceil(passes * tiles / (3 * phase.batch) / _VALIDATION_SHARE))


def mean_losses(evaluate: Evaluate, state: State, batches: Sequence[Any]) -> dict[str, float]:
    """Averages the System's evaluation metrics over fixed batches."""
    rows = jax.device_get([evaluate(state, batch) for batch in batches])
    return {name: float(np.mean([row[name] for row in rows], dtype=np.float32)) for name in rows[0]}


def fixed_batches(phase: Phase, cases: Sequence[PreparedCase], *, seed: int, margin: int) -> list[Any]:
    """Draws one batch per case, equal in every validation: patches of validation cases, without transforms.

    It holds as many examples as a batch of training, and at most 8.
    """
    if not cases:
        return []
    center = phase.sampling.validation_center(cases)
    sampler = PatchSampler(cases, phase.patch, center, 0.0, phase.unpaired and len(cases) > 1, phase.labeled, margin)
    batches = []
    for index in range(len(cases)):
        rng = np.random.default_rng([seed, index])
        count = min(phase.batch, _MOST_EXAMPLES)
        batches.append(sampler.batch([sampler.draw(index, rng) for _ in range(count)]))
    return batches
