"""Fused images in numbers: their table on the console, and the numbers that stand for them in a report."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from jaxfuse.io.tables import render
from jaxfuse.metrics.fusion import METRICS, QABF
from jaxfuse.metrics.names import metric_of
from jaxfuse.report.results import Cell, Line, Result


def render_fusion(summary: Mapping[str, Any]) -> str:
    """The means of a fusion summary per image, with its footnotes (see `metrics.fusion`)."""
    table, undefined = [], []
    for output, statistics in summary["outputs"].items():
        found = [(metric_of(name, METRICS), of) for name, of in statistics.items()]
        table.append({"Output": output, **{metric.title: metric.text(of["mean"]) for metric, of in found}})
        counts = [f"{metric.title} in {of['undefined']}" for metric, of in found if of["undefined"]]
        if counts:
            undefined.append(f"{output}: undefined and left out: {', '.join(counts)} of {summary['cases']} cases.")
    notes = [
        f"Sources: {', '.join(summary['sources'])}. MI, SCD, VIF and SSIM are sums over them.",
        f"Cases: {summary['cases']}; means over cases. Stretched: levels from 0 to 255, as published tables have it.",
    ]
    return "\n".join([render(table, list(table[0])), "", *notes, *undefined])


def compared(result: Result) -> dict[str, Line]:
    """The line of the fused image by the modalities that it was made of; else empty."""
    line = next(iter(result.of_primary.values()), None)
    return {} if line is None else {" + ".join(result.summary["sources"]): line}


def tiles(result: Result) -> list[tuple[str, Cell]]:
    """Qabf of the fused image, and of the maximum of its sources."""
    shown = {line.output: line.cell(QABF) for line in result.lines}
    return [(f"{QABF.title}, {name}", shown[name]) for name in (result.primary, "maximum") if name in shown]


def mean_qabf(result: Result) -> float:
    """The mean Qabf of the fused image over cases."""
    (line,) = result.of_primary.values()
    return line.statistics[QABF.name]["mean"]
