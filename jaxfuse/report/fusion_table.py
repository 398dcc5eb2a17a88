"""The table of fused images on the console."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from jaxfuse.io.tables import render
from jaxfuse.metrics.fusion import METRICS
from jaxfuse.metrics.names import metric_of


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
