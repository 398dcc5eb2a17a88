"""The findings as Markdown: table.md."""

from __future__ import annotations

from typing import Any

import numpy as np

from jaxfuse.io.tables import render

PREAMBLE = """F(x) = upper(x, y*(x)), y* the minimum of lower. Suboptimality: F - F* at the end of the budget, median of
three seeds with the least and the greatest, as a share of F - F* at the start. To a tenth, to a hundredth: oracle calls
until the median is below that share of the start ("-": not within the budget). One call: a gradient of either function
in x or in y, or a product with lower_yy or lower_xy, on a batch of 64 samples (sinusoids: 4 tasks). Rates: those chosen
on another seed, inner ones over the largest eigenvalue of lower_yy, outer ones in units of the task; "edge": the outer
one is at the end of its grid. Seconds: processor time of one run, compilation left out."""


COLUMNS = ("method", "suboptimality", "least to greatest", "to a tenth", "to a hundredth", "rates", "seconds")


def shares(task: dict[str, Any], row: dict[str, Any]) -> np.ndarray:
    """(seeds, points): F - F* over that at the start, at least 1e-12."""
    return np.maximum((np.asarray(row["values"]) - task["least"]) / (task["first"] - task["least"]), 1e-12)


def seconds(scores: dict[str, Any]) -> float:
    """Sums the processor time of all rows, compilation included."""
    return sum(row["in_all"] for task in scores["tasks"] for row in task["rows"])


def table(scores: dict[str, Any]) -> str:
    """Renders the whole file."""
    versions = ", ".join(f"{name} {value}" for name, value in scores["versions"].items())
    absent = f" Not installed: {', '.join(scores['missing'])}." if scores["missing"] else ""
    quick = " Quick run, for trying the script only." if scores["settings"]["quick"] else ""
    head = f"{versions}.{absent}{quick} {seconds(scores):.0f} s of one processor in all."
    blocks = ["# Bi-level solvers: value of F against oracle calls", head, PREAMBLE]
    for task in scores["tasks"]:
        line = f"F at the start {task['first']:.5g}, F* {task['least']:.5g} ({task['reference']})."
        blocks += [f"## {task['title'][0].upper()}{task['title'][1:]}", line, render(_rows(task), COLUMNS)]
    return "\n\n".join(blocks) + "\n"


def _rows(task: dict[str, Any]) -> list[dict[str, str]]:
    rows = []
    for row in sorted(task["rows"], key=lambda row: np.median(shares(task, row)[:, -1])):
        found = shares(task, row)
        ends = found[:, -1]
        texts = (
            row["method"],
            _short(float(np.median(ends))),
            f"{_short(ends.min())} to {_short(ends.max())}",
            *(_until(row["calls"], np.median(found, axis=0), share) for share in (0.1, 0.01)),
            f"{row['inner']:g}, {row['outer']:g}{' edge' if row['edge'] else ''}",
            f"{row['seconds']:.2f}",
        )
        rows.append(dict(zip(COLUMNS, texts, strict=True)))
    return rows


def _until(calls: list[float], curve: np.ndarray, share: float) -> str:
    below = np.flatnonzero(curve <= share)
    return f"{calls[below[0]]:,.0f}" if len(below) else "-"


def _short(value: float) -> str:
    return "diverged" if not np.isfinite(value) else f"{value:.2g}"
