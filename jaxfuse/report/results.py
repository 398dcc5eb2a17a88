"""Results of a run as a report tells them: the tables of `results/<name>/summary.json`, line by line."""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from jaxfuse.io.tables import read_json, read_rows
from jaxfuse.metrics.names import Metric


@dataclass(frozen=True)
class Cell:
    """One number of a table as text: mean, standard deviation (may be empty) and how many cases are undefined."""

    mean: str
    std: str = ""
    undefined: int = 0

    def __html__(self) -> str:
        """The number inside the cell of a table of a page."""
        std = f'<span class="std"> ± {self.std}</span>' if self.std else ""
        return (
            self.mean + std + (f'<span class="undefined">{self.undefined} undefined</span>' if self.undefined else "")
        )


@dataclass(frozen=True)
class Line:
    """One line of a result table: an output, its region (may be empty), its statistics by the name of a metric."""

    output: str
    region: str
    statistics: Mapping[str, Mapping[str, float]]
    counts: Mapping[str, int]

    def cell(self, metric: Metric) -> Cell:
        """The number of a metric; empty where the line has none."""
        if (found := self.statistics.get(metric.name)) is None:
            return Cell("")
        mean, std = found["mean"], found.get("std", math.nan)
        std_text = metric.text(std) if math.isfinite(std) and math.isfinite(mean) else ""
        return Cell(metric.text(mean), std_text, int(found.get("undefined", 0)))


@dataclass(frozen=True)
class Result:
    """One folder `results/<name>` with the panels of `figures/<name>`.

    Attributes:
        summary: summary.json.
        cases: the rows of cases.csv.
        panels: case id -> its figure.
        lines: the outputs of the summary.
        fusion: the outputs of the summary's fused images, which stand beside a segmentation.
    """

    name: str
    summary: Mapping[str, Any]
    cases: Sequence[Mapping[str, Any]]
    panels: Mapping[str, Path]
    lines: Sequence[Line]
    fusion: Sequence[Line]

    @property
    def primary(self) -> str:
        """The name of the output that is the result; empty where the summary names none."""
        return self.summary.get("primary", "")

    @property
    def of_primary(self) -> dict[str, Line]:
        """The lines of the primary output by region; "" where it has no regions."""
        return {line.region: line for line in self.lines if line.output == self.primary}

    def seconds(self) -> list[tuple[str, str]]:
        """(unit, time): the seconds that the prediction of one "subject" or "slice" takes."""
        units = {"subject": "seconds_per_subject", "slice": "seconds_per_slice"}
        return [(unit, f"{self.summary[name]:.2g}") for unit, name in units.items() if name in self.summary]


def read_results(workdir: Path, config: Mapping[str, Any]) -> list[Result]:
    """Results in the order of the schedule; those that are no phase follow."""
    schedule = list(config.get("schedule", ()))
    folders = {path.parent.name: path.parent for path in sorted((workdir / "results").glob("*/summary.json"))}
    names = [name for name in schedule if name in folders] + [name for name in folders if name not in schedule]
    results = []
    for name in names:
        summary = read_json(folders[name] / "summary.json")
        table = folders[name] / "cases.csv"
        cases = read_rows(table) if table.is_file() else []
        panels = {path.stem: path for path in sorted((workdir / "figures" / name).glob("*.png"))}
        lines, fusion = (list(lines_of(of.get("outputs", {}))) for of in (summary, summary.get("fusion", {})))
        results.append(Result(name, summary, cases, panels, lines, fusion))
    return results


def metric_names(lines: Sequence[Line]) -> list[str]:
    """The names of all metrics of these lines, in their order."""
    return list(dict.fromkeys(metric for line in lines for metric in line.statistics))


def lines_of(outputs: Mapping[str, Any]) -> Iterator[Line]:
    """Flattens {output: {region: {metric: statistics, "counts": ...}}}, or {output: {metric: statistics}}."""

    def line(output: str, region: str, metrics: Mapping[str, Any]) -> Line:
        return Line(output, region, {k: v for k, v in metrics.items() if k != "counts"}, metrics.get("counts", {}))

    for output, inner in outputs.items():
        if all(name == "counts" or isinstance(value.get("mean"), int | float) for name, value in inner.items()):
            yield line(output, "", inner)
        else:
            yield from (line(output, region, metrics) for region, metrics in inner.items())
