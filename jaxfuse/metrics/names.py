"""The name of a metric, as tables print it: its title, its digits, the better direction, and its definition.

Each module of metrics declares its own as `Metric`. Consoles, reports and the help of `jaxfuse.evaluate` print them.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping
from dataclasses import dataclass


@dataclass(frozen=True)
class Metric:
    """A metric as tables print it.

    Attributes:
        name: its column in cases.csv and its key in summary.json; ends in the unit of a distance.
        title: its printed name.
        digits: digits behind the point; None: four significant ones.
        larger_is_better: None where nothing is known of it.
        definition: what it is, in words, where its title does not say it; stands below tables.
        in_console: whether it has a column on the console. Files and reports have all metrics.
    """

    name: str
    title: str
    digits: int | None
    larger_is_better: bool | None
    definition: str = ""
    in_console: bool = True

    @property
    def short(self) -> str:
        """The title without the unit mm, which its definition names."""
        return self.title.removesuffix(" (mm)")

    @property
    def arrow(self) -> str:
        """An arrow up or down to the better values; empty where they are not known."""
        return {True: "↑", False: "↓", None: ""}[self.larger_is_better]

    def text(self, value: float) -> str:
        """The value with its digits; "undefined" if it is not finite."""
        if not math.isfinite(value):
            return "undefined"
        return f"{value:.4g}" if self.digits is None else f"{value:.{self.digits}f}"

    def mean_std(self, statistics: Mapping[str, float]) -> str:
        """Mean ± standard deviation of `metrics.statistics`; "undefined" if no value is finite."""
        mean, std = statistics["mean"] if statistics["n"] else math.nan, statistics["std"]
        return self.text(mean) + (f" ± {self.text(std)}" if math.isfinite(mean) and math.isfinite(std) else "")


def metric_of(name: str, known: Iterable[Metric]) -> Metric:
    """The metric of this name; one that is not known is printed under its own name."""
    return next((metric for metric in known if metric.name == name), Metric(name, name, None, None))


def names_of(metrics: Iterable[Metric]) -> tuple[str, ...]:
    """The names of metrics, in their order."""
    return tuple(metric.name for metric in metrics)
