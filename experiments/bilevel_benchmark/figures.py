"""Curves of suboptimality against oracle calls and against time."""

from __future__ import annotations

from typing import Any

import numpy as np
from matplotlib.figure import Figure

from experiments.bilevel_benchmark.report import shares

_COLORS = ("#0072B2", "#D55E00", "#009E73", "#CC79A7", "#56B4E9", "#E69F00", "#000000")
_STYLES = ("-", "--", ":")
_CEILING = 3.0  # curves that rise are cut there


def curves(scores: dict[str, Any]) -> Figure:
    """Two rows of panels, one column a task: medians over seeds."""
    tasks = scores["tasks"]
    figure = Figure(figsize=(3.6 * len(tasks) + 2.4, 7.0), layout="constrained")
    panels = figure.subplots(2, len(tasks), squeeze=False)
    for column, task in enumerate(tasks):
        panels[0, column].set_title(task["task"])
        for panel, label in zip(panels[:, column], ("oracle calls", "processor time (s)"), strict=True):
            panel.set(yscale="log", xlabel=label)
            panel.grid(alpha=0.25)
        for place, row in enumerate(task["rows"]):
            style = {"color": _COLORS[place % 7], "linestyle": _STYLES[place // 7], "linewidth": 1.3}
            median = np.minimum(np.r_[1.0, np.median(shares(task, row), axis=0)], _CEILING)
            calls = np.r_[0.0, row["calls"]]
            for panel, across in zip(panels[:, column], (calls, calls / calls[-1] * row["seconds"]), strict=True):
                panel.plot(across, median, label=row["method"], **style)
    for panel in panels[:, 0]:
        panel.set_ylabel("F - F*, 1 at the start")
    handles, labels = panels[0, 0].get_legend_handles_labels()
    figure.legend(handles, labels, loc="outside right center", fontsize=8, frameon=False)
    return figure
