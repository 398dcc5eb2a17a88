"""What `report.html` tells of results: the tables of `results/<name>/summary.json` as lines of text."""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from jaxfuse.io.tables import read_json, read_rows
from jaxfuse.report.metric_names import arrow_of, printed, title_of


@dataclass(frozen=True)
class Cell:
    """One number of a table as text: mean, standard deviation (may be empty) and how many cases are undefined."""

    mean: str
    std: str = ""
    undefined: int = 0


@dataclass(frozen=True)
class Line:
    """One line of a result table: an output, its region (may be empty), its cells by metric."""

    output: str
    region: str
    statistics: Mapping[str, Mapping[str, float]]
    counts: Mapping[str, int]

    def cell(self, metric: str) -> Cell:
        return _cell(metric, self.statistics.get(metric))


@dataclass(frozen=True)
class Result:
    """One folder `results/<name>` with the panels of `figures/<name>`."""

    name: str
    summary: Mapping[str, Any]
    cases: Sequence[Mapping[str, Any]]
    panels: Mapping[str, Path]
    lines: Sequence[Line]
    fusion: Sequence[Line]

    @property
    def primary(self) -> str:
        return self.summary.get("primary", "")

    @property
    def is_segmentation(self) -> bool:
        return self.summary.get("kind") == "segmentation"

    @property
    def metrics(self) -> list[str]:
        return metrics_of(self.lines)

    @property
    def distance(self) -> str:
        """The metric of a segmentation that stands beside its Dice: HD95, else the Hausdorff distance itself."""
        return "hd95_mm" if "hd95_mm" in self.metrics else "hd_mm"

    @property
    def distance_name(self) -> str:
        return title_of(self.distance).removesuffix(" (mm)")

    @property
    def headline(self) -> dict[str, Line]:
        """Lines of a segmentation's primary output by region, with "mean" over regions; else empty."""
        lines = {line.region: line for line in self.lines if line.output == self.primary}
        return lines if self.is_segmentation and "mean" in lines else {}

    @property
    def synthesis(self) -> Line | None:
        """The line of a synthesis' primary output."""
        if self.summary.get("kind") != "synthesis":
            return None
        return next((line for line in self.lines if line.output == self.primary), None)

    @property
    def compared(self) -> dict[str, Line]:
        """What stands for this result beside other runs: lines by region, or one by the modality that was made."""
        if self.synthesis is not None:
            return {self.summary["target"]: self.synthesis}
        return self.headline

    @property
    def rank(self) -> float:
        """The mean by which such results are put in order; greater is better."""
        if self.synthesis is not None:
            return self.synthesis.statistics["psnr_db"]["mean"]
        return self.headline["mean"].statistics["dice"]["mean"]


def read_results(workdir: Path, config: Mapping[str, Any]) -> list[Result]:
    """Results in the order of the schedule, those that are no phase after them."""
    schedule = list(config.get("schedule", ()))
    folders = {path.parent.name: path.parent for path in sorted((workdir / "results").glob("*/summary.json"))}
    names = [name for name in schedule if name in folders] + [name for name in folders if name not in schedule]
    results = []
    for name in names:
        summary = read_json(folders[name] / "summary.json")
        table = folders[name] / "cases.csv"
        cases = read_rows(table) if table.is_file() else []
        panels = {path.stem: path for path in sorted((workdir / "figures" / name).glob("*.png"))}
        lines, fusion = (list(_lines(of.get("outputs", {}))) for of in (summary, summary.get("fusion", {})))
        results.append(Result(name, summary, cases, panels, lines, fusion))
    return results


def _lines(outputs: Mapping[str, Any]) -> Iterator[Line]:
    """Flattens {output: {region: {metric: statistics, "counts": ...}}}, or {output: {metric: statistics}}."""

    def line(output: str, region: str, metrics: Mapping[str, Any]) -> Line:
        return Line(output, region, {k: v for k, v in metrics.items() if k != "counts"}, metrics.get("counts", {}))

    for output, inner in outputs.items():
        if all(name == "counts" or isinstance(value.get("mean"), int | float) for name, value in inner.items()):
            yield line(output, "", inner)
        else:
            yield from (line(output, region, metrics) for region, metrics in inner.items())


def metrics_of(lines: Sequence[Line]) -> list[str]:
    return list(dict.fromkeys(metric for line in lines for metric in line.statistics))


def columns(lines: Sequence[Line]) -> list[tuple[str, str, str]]:
    """(metric, its printed name, which way is better)."""
    return [(metric, title_of(metric), arrow_of(metric)) for metric in metrics_of(lines)]


def _cell(metric: str, statistics: Mapping[str, float] | None) -> Cell:
    if statistics is None:
        return Cell("")
    mean, std = statistics["mean"], statistics.get("std", math.nan)
    std_text = printed(metric, std) if math.isfinite(std) and math.isfinite(mean) else ""
    return Cell(printed(metric, mean), std_text, int(statistics.get("undefined", 0)))
