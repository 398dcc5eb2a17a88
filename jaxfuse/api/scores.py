"""Scores of cases as a table: those of an evaluation, and those of a run's validation."""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from jaxfuse.io.tables import write_rows
from jaxfuse.metrics.names import Metric
from jaxfuse.report.kinds import kind_of, metric_named
from jaxfuse.report.notebook import table
from jaxfuse.report.results import lines_of, metric_names, read_results
from jaxfuse.scoring.methods import render_comparison, tables_of

Row = Mapping[str, Any]


@dataclass(frozen=True, eq=False)
class Scores:
    """The scores of some predictions.

    Attributes:
        rows: one for each case and region, or case and image, as in `cases.csv`.
        summary: statistics over the cases, as in `summary.json`.
        refused: the sentence of each case that could not be scored.
    """

    rows: Sequence[Row]
    summary: Mapping[str, Any]
    refused: Mapping[str, str] = field(default_factory=dict)

    def __len__(self) -> int:
        return len(self.rows)

    def __iter__(self) -> Iterator[Row]:
        return iter(self.rows)

    @property
    def columns(self) -> tuple[str, ...]:
        """The names of the columns of the rows."""
        return tuple(self.rows[0]) if self.rows else ()

    def column(self, name: str, **where: str) -> list[Any]:
        """Returns one column of the rows that have these values: `scores.column("dice", region="WT")`."""
        return [row[name] for row in self.rows if all(row[key] == value for key, value in where.items())]

    def mean(self, name: str, **where: str) -> float:
        """Returns the mean of a column over the rows that have these values and a number."""
        found = [value for value in self.column(name, **where) if math.isfinite(value)]
        return sum(found) / len(found) if found else math.nan

    def to_csv(self, path: str | Path) -> Path:
        """Writes the rows as the command writes `cases.csv`, and returns the path."""
        write_rows(path, self.rows)
        return Path(path)

    def __str__(self) -> str:
        render = kind_of(self.summary).render
        return render(self.summary) if render else f"{len(self.rows)} rows"

    def _repr_html_(self) -> str:
        return table(_lines(self.summary))


@dataclass(frozen=True, eq=False)
class Comparison:
    """The scores of several methods of the same cases, compared pair by pair.

    Attributes:
        scores: of each method by its name, or of each of its seeds.
        document: the content of `comparison.json`: pairs, ranking, scatter of seeds.
    """

    scores: Mapping[str, Scores]
    document: Mapping[str, Any]
    _metrics: Sequence[Metric] = field(repr=False)

    def __getitem__(self, method: str) -> Scores:
        return self.scores[method]

    @property
    def pairs(self) -> Sequence[Row]:
        """A row for each metric, region and pair of methods, as in `comparison.csv`."""
        return self.document["pairs"]

    def to_csv(self, path: str | Path) -> Path:
        """Writes the pairs as the command writes `comparison.csv`, and returns the path."""
        write_rows(path, self.pairs)
        return Path(path)

    def __str__(self) -> str:
        return render_comparison(self.document, self._metrics)

    def _repr_html_(self) -> str:
        found = tables_of(self.document, [metric for metric in self._metrics if metric.in_console])
        return "".join(map(table, (found.places, found.pairs, found.seeds)))


def scores_of(workdir: Path, config: Mapping[str, Any]) -> dict[str, Scores]:
    """Returns the scores of each result of a run, those of the phases in their order."""
    return {one.name: Scores(one.cases, one.summary) for one in read_results(workdir, config)}


def _lines(summary: Mapping[str, Any]) -> list[dict[str, Any]]:
    """The lines of a summary with the metrics that consoles have room for."""
    lines = list(lines_of(summary.get("outputs", {})))
    shown = [one for one in map(metric_named, metric_names(lines)) if one.in_console]
    return [
        {"Output": line.output, **({"Region": line.region} if line.region else {})}
        | {f"{one.title} {one.arrow}".strip(): line.cell(one) for one in shown}
        for line in lines
    ]
