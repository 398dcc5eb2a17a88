"""A segmentation in words and numbers: its table on the console, and the numbers that stand for it in a report."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from jaxfuse.io.tables import render
from jaxfuse.metrics.fusion import QABF
from jaxfuse.metrics.names import Metric, metric_of
from jaxfuse.metrics.protocols import DICE, HD, HD95, METRICS
from jaxfuse.report.results import Cell, Line, Result, metric_names

MEAN = "mean"  # the region that is the mean of all


def render_segmentation(summary: Mapping[str, Any]) -> str:
    """The table of a segmentation summary, mean ± standard deviation per output and region, with its footnotes.

    The footnotes define the distances and the rule for empty masks, and say how many cases these concern.
    """
    rows, notes = [], []
    for output, regions in summary["outputs"].items():
        for region, metrics in regions.items():
            rows.append(_row(output, region, metrics))
            notes += _notes(output, region, metrics) if region != MEAN else []
    definitions = [
        *(f"{name}: {text}." for name, text in summary["distances"].items()),
        f"Empty masks: {summary['one_empty']}; Dice and sensitivity are 1 where both are empty, 0 where one is.",
        f"Cases: {summary['cases']}; mean ± standard deviation over cases.",
    ]
    scheme = [f"Label scheme: {summary['labels']}."] if "labels" in summary else []
    warning = [_warning(cases)] if (cases := summary.get("postprocessing_chosen_on")) else []
    return "\n".join([render(rows, list(rows[0]), left=2), "", *definitions, *notes, *scheme, *warning])


def told(result: Result) -> list[str]:
    """Mean Dice with that of each region, the mean distance, and how well fused images keep edges."""
    if not (lines := compared(result)):
        return []
    regions = ", ".join(f"{region} {line.cell(DICE).mean}" for region, line in lines.items() if region != MEAN)
    distance = _distance(result)
    return [
        f"{result.primary}: mean Dice {lines[MEAN].cell(DICE).mean} ({regions})",
        f"mean {distance.short} {lines[MEAN].cell(distance).mean} mm",
        *(f"{line.output}: {QABF.title} {line.cell(QABF).mean}" for line in result.fusion),
    ]


def tiles(result: Result) -> list[tuple[str, Cell]]:
    """Mean Dice, the Dice of each region, and the mean distance with its median."""
    lines, distance = compared(result), _distance(result)
    found = [(f"mean Dice, {result.primary}", lines[MEAN].cell(DICE))]
    found += [(f"Dice {region}", line.cell(DICE)) for region, line in lines.items() if region != MEAN]
    # A penalized case weighs on a mean for good: the median says how far off the others are.
    median = distance.text(lines[MEAN].statistics[distance.name]["median"])
    label = f"mean {distance.short}, mm (median {median})"
    return [*found, (label, Cell(lines[MEAN].cell(distance).mean))]


def compared(result: Result) -> dict[str, Line]:
    """The lines of the primary output by region, with "mean" over regions; else empty."""
    lines = result.of_primary
    return lines if MEAN in lines else {}


def mean_dice(result: Result) -> float:
    """The mean Dice of the primary output over cases and regions."""
    return result.of_primary[MEAN].statistics[DICE.name]["mean"]


def of_cases(result: Result) -> tuple[Metric, ...]:
    """The metrics of single cases: the Dice, by which the worst are found, and the distance."""
    return DICE, _distance(result)


def _distance(result: Result) -> Metric:
    """The metric that stands beside the Dice: HD95, else the Hausdorff distance itself."""
    return HD95 if HD95.name in metric_names(result.lines) else HD


def _warning(cases: Sequence[str]) -> str:
    shown = ", ".join(cases[:5]) + (f" and {len(cases) - 5} more" if len(cases) > 5 else "")
    return (
        f"Warning: the post-processing of {len(cases)} of these predictions was chosen on their own cases ({shown}), "
        "so that their scores say too much for it."
    )


def _row(output: str, region: str, metrics: Mapping[str, Mapping[str, float]]) -> dict[str, str]:
    shown = (metric_of(name, METRICS) for name in metrics if name != "counts")
    columns = {metric.title: metric.mean_std(metrics[metric.name]) for metric in shown if metric.in_console}
    return {"Output": output, "Region": region, **columns, "Cases": str(metrics["counts"]["cases"])}


def _notes(output: str, region: str, metrics: Mapping[str, Mapping[str, float]]) -> list[str]:
    counts = metrics["counts"]
    # One rule for empty masks holds for all distances in mm of a case.
    undefined = max((found["undefined"] for name, found in metrics.items() if name.endswith("_mm")), default=0)
    facts = []
    if counts["truth_empty"]:
        facts.append(f"truth empty in {counts['truth_empty']}")
    if counts["one_empty"]:
        facts.append(f"exactly one mask empty in {counts['one_empty']}")
    if undefined:
        facts.append(f"distances undefined and left out in {undefined}")
    return [f"{output} {region}: {', '.join(facts)} of {counts['cases']} cases."] if facts else []
