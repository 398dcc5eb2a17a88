"""`report.html` of an evaluation: one self-contained page on the scores of one method, or of several side by side.

It is made of what the evaluation wrote, and of the volumes of a few cases. Its script sorts and filters tables, and
scrolls through volumes.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from jaxfuse.io.tables import TEXT_COLUMNS
from jaxfuse.metrics.names import Metric
from jaxfuse.report.box_plots import POINTS, Plot, box_plot
from jaxfuse.report.curves import LINES
from jaxfuse.report.kinds import metric_named
from jaxfuse.report.page import write_page
from jaxfuse.report.parts import Part
from jaxfuse.report.results import Line, lines_of, metric_names
from jaxfuse.report.results_section import definitions, empty_note
from jaxfuse.report.shown_cases import Pictures, shown_cases

_VOLUMES = (Metric("pred_mm3", "Prediction (mm³)", 0, None), Metric("truth_mm3", "Truth (mm³)", 0, None))

Row = Mapping[str, Any]


@dataclass(frozen=True)
class Method:
    """The predictions of one method, the rows of their cases.csv and their summary.json."""

    folder: Path
    rows: Sequence[Row]
    summary: Mapping[str, Any]


@dataclass(frozen=True)
class Compared:
    """Several methods beside one another, as tables of ready-made texts, and notes on what they mean.

    Attributes:
        places, pairs: empty where there is one method, of several seeds.
        seeds: those of methods of several.
    """

    places: Sequence[Mapping[str, str]]
    pairs: Sequence[Mapping[str, str]]
    notes: Sequence[str]
    seeds: Sequence[Mapping[str, str]] = ()


@dataclass(frozen=True)
class Evaluation:
    """The scores of one call.

    Attributes:
        protocol: its name.
        output: the "output" of the rows that are those of the predictions themselves.
        ref: the folder of references.
        methods: by name, at least one.
        compared: None for a single method.
        pictures: None: no case is shown.
        parts: further parts of the page, above the cases.
    """

    protocol: str
    output: str
    ref: Path
    methods: Mapping[str, Method]
    compared: Compared | None
    pictures: Pictures | None = None
    parts: Sequence[Part] = ()

    def rows(self) -> list[tuple[str, Row]]:
        """The rows of the predictions themselves, each with its method: by case, by region, by method."""
        found = [(name, row) for name, one in self.methods.items() for row in one.rows if row["output"] == self.output]
        regions = list(dict.fromkeys(row.get("region", "") for _, row in found))
        return sorted(found, key=lambda one: (one[1]["case"], regions.index(one[1].get("region", ""))))


def write_evaluation(path: Path, evaluation: Evaluation) -> None:
    """Writes the page of an evaluation."""
    rows = evaluation.rows()
    metrics = _metrics(rows)
    context = {
        "title": f"Scores of {', '.join(evaluation.methods)}",
        "facts": _facts(evaluation),
        "methods": list(evaluation.methods),
        "colors": {name: LINES[index % len(LINES)] for index, name in enumerate(evaluation.methods)},
        "regions": list(dict.fromkeys(row.get("region", "") for _, row in rows)),
        "summary": _summary(evaluation),
        "footnotes": _footnotes(evaluation),
        "left_out": _left_out(evaluation),
        "plots": _plots(rows, [metric for metric in metrics if metric not in _VOLUMES]),
        "points": POINTS,
        "compared": evaluation.compared,
        "parts": evaluation.parts,
        "metrics": metrics,
        "leading": metrics[0],
        **shown_cases(rows, metrics[0], evaluation.pictures),
        "rows": [
            (row["case"], row.get("region", ""), name, [metric.text(row[metric.name]) for metric in metrics])
            for name, row in rows
        ],
    }
    write_page(path, "evaluation.html.j2", context)


def _facts(evaluation: Evaluation) -> list[tuple[str, str]]:
    summaries = {name: one.summary for name, one in evaluation.methods.items()}
    cases = {name: str(summary["cases"]) for name, summary in summaries.items()}
    same = len(set(cases.values())) == 1
    facts = [("Protocol", evaluation.protocol)]
    facts += [("Label scheme", one) for one in dict.fromkeys(s["labels"] for s in summaries.values() if "labels" in s)]
    told = next(iter(cases.values())) if same else ", ".join(f"{count} of {name}" for name, count in cases.items())
    facts.append(("Cases", told))
    facts += [(f"Method {name}", str(one.folder)) for name, one in evaluation.methods.items()]
    return [*facts, ("References", str(evaluation.ref))]


def _metrics(rows: Sequence[tuple[str, Row]]) -> list[Metric]:
    """The metrics that all methods have, in the order of their columns."""
    first, *others = ([name for name in row if name not in TEXT_COLUMNS] for _, row in rows)
    shared = set(first).intersection(*others)
    volumes = {metric.name: metric for metric in _VOLUMES}
    return [volumes.get(name) or metric_named(name) for name in first if name in shared]


def _summary(evaluation: Evaluation) -> dict[str, Any]:
    """The lines of all methods, region by region, and the best mean of each; other outputs of the first stand below."""
    of_method = {name: list(lines_of(one.summary["outputs"])) for name, one in evaluation.methods.items()}
    own = [(name, line) for name, lines in of_method.items() for line in lines if line.output == evaluation.output]
    regions = list(dict.fromkeys(line.region for _, line in own))
    own.sort(key=lambda one: regions.index(one[1].region))
    beside = [(line.output, line) for line in next(iter(of_method.values())) if line.output != evaluation.output]
    metrics = [metric_named(name) for name in metric_names([line for _, line in own])]
    several = len(of_method) > 1
    best = {(region, metric.name): _best(own, region, metric) for region in regions for metric in metrics if several}
    return {"lines": [*own, *beside], "metrics": metrics, "best": best, "regions": any(regions)}


def _best(lines: Sequence[tuple[str, Line]], region: str, metric: Metric) -> float:
    """The best mean of a region among the methods; nan where none is better than another."""
    means = [line.statistics[metric.name]["mean"] for _, line in lines if line.region == region]
    means = [mean for mean in means if math.isfinite(mean)]
    if metric.larger_is_better is None or len({metric.text(mean) for mean in means}) < 2:
        return math.nan
    return max(means) if metric.larger_is_better else min(means)


def _footnotes(evaluation: Evaluation) -> list[str]:
    """Definitions, the rule for empty masks, and the cases of each method that it concerns."""
    notes = []
    for name, one in evaluation.methods.items():
        lines = lines_of(one.summary["outputs"])
        texts = [text for line in lines if line.output == evaluation.output and (text := empty_note(line))]
        notes += [f"{name}: {text.removeprefix(evaluation.output).strip()}" for text in texts]
    return [*definitions(next(iter(evaluation.methods.values())).summary), *notes]


def _left_out(evaluation: Evaluation) -> list[tuple[str, str, str]]:
    """(method, case, why) of the cases that have no score."""
    found = []
    for name, one in evaluation.methods.items():
        found += [(name, case, sentence) for case, sentence in one.summary["refused"].items()]
        for key, lacks in (("without_prediction", "no prediction"), ("without_reference", "no reference")):
            found += [(name, case, lacks) for case in one.summary[key]]
    return found


def _plots(rows: Sequence[tuple[str, Row]], metrics: Sequence[Metric]) -> list[Plot]:
    plots = []
    for metric in metrics:
        regions: dict[str, dict[str, list[tuple[str, float]]]] = {}
        for name, row in rows:
            of_region = regions.setdefault(row.get("region", ""), {})
            of_region.setdefault(name, []).append((row["case"], row[metric.name]))
        plots.append(box_plot(metric, regions))
    return plots
