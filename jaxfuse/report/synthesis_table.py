"""The table of a synthesis for the console."""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Any

from jaxfuse.io.tables import render
from jaxfuse.report.metric_names import printed, title_of


def render_synthesis(summary: Mapping[str, Any]) -> str:
    """Mean ± standard deviation of every metric, a line per image, with what the metrics are and what is undefined."""
    table, undefined = [], []
    for output, metrics in summary["outputs"].items():
        table.append({"Output": output, **{title_of(name): _mean_std(name, of) for name, of in metrics.items()}})
        counts = [f"{title_of(name)} in {of['undefined']}" for name, of in metrics.items() if of["undefined"]]
        if counts:
            undefined.append(f"{output}: not finite and left out: {', '.join(counts)} of {summary['cases']} cases.")
    notes = [f"{name}: {text}." for name, text in summary["definitions"].items()]
    notes.append(f"Cases: {summary['cases']}; mean ± standard deviation over cases.")
    return "\n".join([render(table, list(table[0])), "", *notes, *undefined])


def _mean_std(metric: str, statistics: Mapping[str, float]) -> str:
    mean, std = statistics["mean"], statistics["std"]
    return printed(metric, mean) + (f" ± {printed(metric, std)}" if math.isfinite(std) else "")
