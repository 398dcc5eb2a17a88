"""Box plots of the scores of cases, as the numbers that a page draws them by: one row for each region and method."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np

from jaxfuse.metrics.names import Metric

POINTS = 40  # more cases than that and their points hide the box
_REACH = 1.5  # of the whiskers, in lengths of the box (Tukey)

# Method -> (case, score) of all its cases.
Scores = Mapping[str, Sequence[tuple[str, float]]]


@dataclass(frozen=True)
class Box:
    """The scores of one method in one region.

    Attributes:
        quartiles: 25th, 50th and 75th percentile, linearly interpolated; empty without a finite score.
        whiskers: lowest and highest score at most 1.5 lengths of the box away from it, or the end of the box.
        points: (case, score) of every case, or beyond some number only of those outside the whiskers.
        undefined: how many scores are not finite.
    """

    region: str
    method: str
    quartiles: tuple[float, ...]
    whiskers: tuple[float, ...]
    points: tuple[tuple[str, float], ...]
    undefined: int


@dataclass(frozen=True)
class Plot:
    """The boxes of one metric on one axis; `ticks` are its marks, of which the outer ones bound it."""

    metric: Metric
    boxes: tuple[Box, ...]
    ticks: tuple[float, ...]

    def share(self, value: float) -> float:
        """Where on the axis a value lies, from 0 to 1."""
        return (value - self.ticks[0]) / (self.ticks[-1] - self.ticks[0])


def box_plot(metric: Metric, regions: Mapping[str, Scores]) -> Plot:
    """Makes the plot of a metric from region -> method -> (case, score)."""
    boxes = tuple(_box(region, method, of) for region, scores in regions.items() for method, of in scores.items())
    values = [value for scores in regions.values() for of in scores.values() for _, value in of if math.isfinite(value)]
    return Plot(metric, boxes, ticks_of(min(values), max(values)) if values else (0.0, 1.0))


def ticks_of(low: float, high: float) -> tuple[float, ...]:
    """Returns round numbers in equal steps around a range, some five of them."""
    if high - low <= 1e-12 * max(abs(low), abs(high)):
        reach = abs(low) / 10 or 0.5
        low, high = low - reach, high + reach
    rough = (high - low) / 4
    power = 10.0 ** math.floor(math.log10(rough))
    step = next(factor * power for factor in (1, 2, 5, 10) if factor * power >= rough * (1 - 1e-9))
    first, last = math.floor(low / step + 1e-9), math.ceil(high / step - 1e-9)
    return tuple(float(f"{place * step:.10g}") for place in range(first, last + 1))


def _box(region: str, method: str, scores: Sequence[tuple[str, float]]) -> Box:
    finite = tuple((case, value) for case, value in scores if math.isfinite(value))
    undefined = len(scores) - len(finite)
    if not finite:
        return Box(region, method, (), (), (), undefined)
    values = np.array([value for _, value in finite])
    low, middle, high = (float(value) for value in np.percentile(values, (25, 50, 75)))
    reach = _REACH * (high - low)
    within = values[(values >= low - reach) & (values <= high + reach)]
    ends = min(float(within.min()), low), max(float(within.max()), high)  # quartiles may lie between cases
    points = finite if len(finite) <= POINTS else tuple(p for p in finite if not ends[0] <= p[1] <= ends[1])
    return Box(region, method, (low, middle, high), ends, points, undefined)
