"""The choice of a plan on label maps whose truth is known: a step is taken where it raises the mean Dice.

Where class probabilities are known as well, a factor of each class in turn is chosen first. Then steps are tried in
groups, in a stated order. Each is tried on what those before it left. Of a group, and of the factors of a class, at
most one is taken: that of the highest mean over regions of the mean Dice over cases, and of equals the first, if that
mean rises and the Dice of no region falls. nnU-Net chooses alike (Isensee et al., Nat Methods 18:203, 2021), among
largest parts alone.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import partial
from typing import Any

import numpy as np

from jaxfuse.labels import IGNORED, LabelScheme
from jaxfuse.metrics.distances import Spacing, voxel_size
from jaxfuse.metrics.overlap import dice
from jaxfuse.postprocessing.plan import Plan, box_of
from jaxfuse.postprocessing.steps import (
    FOREGROUND,
    FillHoles,
    KeepLargest,
    Labels,
    RemoveSmall,
    ReplaceSmallTotal,
    Step,
    applied,
    members_of,
    step_document,
)
from jaxfuse.postprocessing.thresholds import FACTORS, Factors, Unsure, Weigh, by_class

# Volumes in mm3 that are tried: of parts, and of all of a region.
PARTS_MM3 = (10.0, 50.0, 100.0, 200.0, 500.0, 1000.0)
TOTALS_MM3 = (50.0, 100.0, 200.0, 500.0, 1000.0, 2500.0)
# Differences of Dice that are none.
_EQUAL = 1e-9

Scores = Mapping[str, float]  # region -> mean Dice over cases


@dataclass(frozen=True)
class Labeled:
    """A predicted label map and its truth, within the box that holds both.

    Attributes:
        unsure: the voxels whose label factors of classes may change; None where probabilities are not known.
    """

    labels: Labels
    truth: Labels
    voxel_mm3: float
    unsure: Unsure | None = None


@dataclass(frozen=True)
class Trial:
    """A step that was tried on what those before it left, and what came of it."""

    step: Step | Weigh
    dice: Scores
    taken: bool

    def document(self) -> dict[str, Any]:
        """Returns the trial as JSON."""
        return {**step_document(self.step), "dice": self.dice, "taken": self.taken}


@dataclass(frozen=True)
class Choice:
    """A plan and what it was chosen by.

    Attributes:
        before, after: Dice without any step and with all that were taken.
        trials: all steps that were tried, in order.
    """

    plan: Plan
    before: Scores
    after: Scores
    trials: tuple[Trial, ...] = field(default=())


def labeled(labels: Labels, truth: Labels, spacing_mm: Spacing, unsure: Unsure | None = None) -> Labeled:
    """Cuts a label map and its truth (d h w), on a whole grid, to the box of all that is marked or unsure.

    Beyond it nothing changes.
    """
    marked = np.maximum(labels, truth)
    if unsure is not None:
        marked.flat[unsure.places] = 1
    box = box_of(marked) or (slice(None),) * labels.ndim
    if unsure is not None:
        unsure = unsure.within(box, labels.shape)
    return Labeled(labels[box].copy(), truth[box].copy(), voxel_size(spacing_mm), unsure)


def groups_of(scheme: LabelScheme) -> Iterator[tuple[Step, ...]]:
    """Yields the groups of steps that are tried, for each region in the scheme's order.

    First the whole foreground where it is no region. Of each: parts that are removed, the smallest first and at last
    all but the largest; then its holes. At the end regions that are too small in all.
    """
    whole = set(members_of(FOREGROUND, scheme))
    regions = list(scheme.regions)
    if all(set(members) != whole for members in scheme.regions.values()):
        regions = [FOREGROUND, *regions]
    for name in regions:
        given = _becomes(name, scheme)
        small = [RemoveSmall(name, other, volume) for volume in PARTS_MM3 for other in given]
        yield (*small, *(KeepLargest(name, other) for other in given))
        yield tuple(FillHoles(name, own) for own in _own_classes(name, scheme))
    for name in regions:
        given = _becomes(name, scheme)
        yield tuple(ReplaceSmallTotal(name, other, volume) for volume in TOTALS_MM3 for other in given)


def _becomes(name: str, scheme: LabelScheme) -> tuple[str, ...]:
    """The classes that what is removed may become: those around it in the least region that holds it, and none."""
    members = set(members_of(name, scheme))
    around = [set(of) - members for of in scheme.regions.values() if members < set(of)]
    nearest = sorted(min(around, key=len)) if around else []
    return (*(scheme.classes[index] for index in nearest), scheme.classes[0])


def _own_classes(name: str, scheme: LabelScheme) -> tuple[str, ...]:
    """The classes of a region that no region within it has; all of them where there is none."""
    members = set(members_of(name, scheme))
    within = set().union(*(of for of in scheme.regions.values() if set(of) < members))
    return tuple(scheme.classes[index] for index in sorted(members - within or members))


def choose(cases: Sequence[Labeled], scheme: LabelScheme, report: Callable[[int, int], None]) -> Choice:
    """Chooses a plan.

    Args:
        report: takes the number of classes and groups of steps that are done, and of all.
    """
    groups, known = list(groups_of(scheme)), all(one.unsure is not None for one in cases)
    total = len(groups) + known * len(scheme.classes[1:])
    before = now = mean_dice(cases, scheme)
    factors, steps, trials = dict[str, float](), list[Step](), list[Trial]()
    for name in scheme.classes[1:] if known else ():
        weighed = {Weigh(name, one): partial(_relabeled, cases, scheme, {**factors, name: one}) for one in FACTORS}
        best = _best_of(weighed, now, scheme, trials)
        if best is not None:
            factors[name], now = best.step.factor, best.dice
        report(len(trials) // len(FACTORS), total)
    cases = list(_relabeled(cases, scheme, factors))
    for number, group in enumerate(groups, start=total - len(groups) + 1):
        best = _best_of({step: partial(_after, step, cases, scheme) for step in group}, now, scheme, trials)
        if best is not None:
            steps.append(best.step)
            cases, now = list(_after(best.step, cases, scheme)), best.dice
        report(number, total)
    return Choice(Plan(scheme.name, tuple(steps), factors), before, now, tuple(trials))


def _best_of(
    group: Mapping[Any, Callable[[], Iterator[Labeled]]], now: Scores, scheme: LabelScheme, trials: list[Trial]
) -> Any:
    """Tries what is in a group, adds the trials, and returns the one that is taken; None where none is."""
    tried = [Trial(step, mean_dice(make(), scheme), False) for step, make in group.items()]
    best = max(tried, key=lambda trial: _rise(now, trial.dice))
    rises = _rise(now, best.dice) > 0
    trials += [replace(one, taken=rises and one is best) for one in tried]
    return best if rises else None


def _relabeled(cases: Sequence[Labeled], scheme: LabelScheme, factors: Factors) -> Iterator[Labeled]:
    """Yields the cases labeled by factors; as they are where there are none, or no probabilities."""
    weights = by_class(factors, scheme)
    for one in cases:
        if not factors or one.unsure is None:
            yield one
        else:
            yield replace(one, labels=one.unsure.relabeled(one.labels, weights))


def _after(step: Step, cases: Sequence[Labeled], scheme: LabelScheme) -> Iterator[Labeled]:
    for one in cases:
        yield replace(one, labels=applied(step, one.labels, scheme, one.voxel_mm3))


def _rise(before: Scores, after: Scores) -> float:
    """The rise of the mean over regions; 0 where it does not rise, or where any region falls."""
    each = [after[region] - before[region] for region in before]
    mean = float(np.mean(each))
    # Rounded, so that of steps that change the same voxels the first is the best.
    return round(mean, 9) if min(each) >= -_EQUAL and mean > _EQUAL else 0.0


def mean_dice(cases: Sequence[Labeled] | Iterator[Labeled], scheme: LabelScheme) -> dict[str, float]:
    """Returns the mean Dice over cases by region, empty masks as in all scores (`jaxfuse.metrics.overlap.dice`)."""
    found: dict[str, list[float]] = {region: [] for region in scheme.regions}
    for one in cases:
        for region, members in scheme.regions.items():
            inside = np.zeros(256, bool)
            inside[list(members)] = True
            found[region].append(dice(inside[one.labels] & (one.truth != IGNORED), inside[one.truth]))
    return {region: float(np.mean(values)) for region, values in found.items()}
