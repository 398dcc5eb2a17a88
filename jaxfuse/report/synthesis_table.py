"""A synthesis in words and numbers: its table on the console, and the numbers that stand for it in a report."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from jaxfuse.io.tables import render
from jaxfuse.metrics.names import metric_of
from jaxfuse.metrics.synthesis import METRICS, OFFICIAL, PSNR
from jaxfuse.report.results import Cell, Line, Result


def render_synthesis(summary: Mapping[str, Any]) -> str:
    """The table of a synthesis summary, mean ± standard deviation per image, with its footnotes.

    The footnotes define the metrics, and say how many cases are undefined.
    """
    table, undefined = [], []
    for output, statistics in summary["outputs"].items():
        found = [(metric_of(name, (*METRICS, *OFFICIAL)), of) for name, of in statistics.items()]
        table.append({"Output": output, **{metric.title: metric.mean_std(of) for metric, of in found}})
        counts = [f"{metric.title} in {of['undefined']}" for metric, of in found if of["undefined"]]
        if counts:
            undefined.append(f"{output}: not finite and left out: {', '.join(counts)} of {summary['cases']} cases.")
    notes = [f"{name}: {text}." for name, text in summary["definitions"].items()]
    notes.append(f"Cases: {summary['cases']}; mean ± standard deviation over cases.")
    return "\n".join([render(table, list(table[0])), "", *notes, *undefined])


def told(result: Result) -> list[str]:
    """PSNR, NMSE and SSIM of each image."""
    return [
        f"{line.output}: {', '.join(f'{metric.title} {line.cell(metric).mean}' for metric in METRICS)}"
        for line in result.lines
    ]


def tiles(result: Result) -> list[tuple[str, Cell]]:
    """PSNR, NMSE and SSIM of the primary output."""
    (line,) = compared(result).values()
    return [(f"{metric.title}, {result.summary['target']}", line.cell(metric)) for metric in METRICS]


def compared(result: Result) -> dict[str, Line]:
    """The line of the primary output by the modality that was made; else empty."""
    line = next(iter(result.of_primary.values()), None)
    return {} if line is None else {result.summary["target"]: line}


def mean_psnr_db(result: Result) -> float:
    """The mean PSNR of the primary output over cases."""
    (line,) = result.of_primary.values()
    return line.statistics[PSNR.name]["mean"]
