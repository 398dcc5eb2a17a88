"""Calibration on the page of an evaluation: the reliability figure, and errors of each method."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from jaxtyping import Float
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from jaxfuse.metrics.calibration import BINS, METRICS
from jaxfuse.report.canvas import save
from jaxfuse.report.curves import LINES, STYLES, ink_of
from jaxfuse.report.embedded import light_and_dark
from jaxfuse.report.parts import Part, TextTable

FIGURES = ("reliability.png", "reliability_dark.png")

Row = Mapping[str, Any]


def calibration_part(folder: Path, summaries: Mapping[str, Row], bins: Mapping[str, Sequence[Row]]) -> Part:
    """Draws `reliability.png` into a folder, and returns the part of the page on it.

    Args:
        summaries: method -> "calibration" of its summary.json.
        bins: method -> rows of its reliability.csv.
    """
    curves = {name: mean_bins(rows) for name, rows in bins.items()}

    def draw(path: Path, dark: bool) -> bool:
        reliability_figure(curves, path, dark=dark)
        return True

    rows = [
        {"Method": name}
        | {f"{one.title} {one.arrow}": one.mean_std(summary["metrics"][one.name]) for one in METRICS}
        | {"Cases": str(summary["metrics"][METRICS[0].name]["n"])}
        for name, summary in summaries.items()
    ]
    first = next(iter(summaries.values()))
    notes = [f"{title}: {text}." for title, text in first["definitions"].items()]
    counted = {name: one["within"] for name, one in summaries.items()}
    same = len(set(counted.values())) == 1
    notes += [f"Counted: {first['within']}."] if same else [f"{name}: {within}." for name, within in counted.items()]
    notes.append("The figure has the mean over cases of each bin; dots are larger where it holds more voxels.")
    return Part("Calibration", [TextTable(rows, 1)], notes, light_and_dark(folder / FIGURES[0], draw))


def mean_bins(rows: Sequence[Row]) -> Float[np.ndarray, "bins 3"]:
    """Means over the cases that have voxels in a bin, of confidence, accuracy and share; bins that none has are nan."""
    found = np.full((BINS, 3), np.nan)
    for number in range(BINS):
        of_bin = [(row["confidence"], row["accuracy"], row["share"]) for row in rows if row["bin"] == number]
        if of_bin:
            found[number] = np.mean(of_bin, axis=0)
    return found


def reliability_figure(curves: Mapping[str, Float[np.ndarray, "bins 3"]], path: Path, *, dark: bool = False) -> None:
    """Draws accuracy over confidence of each method, beside the diagonal on which both are equal."""
    figure, ink = Figure(figsize=(6.4, 4.4), layout="constrained", dpi=150), ink_of(dark)
    figure.patch.set_alpha(0.0)
    ax: Axes = figure.subplots()
    ax.plot([0, 1], [0, 1], color=ink, linewidth=0.8, linestyle="--", alpha=0.6, label="as certain as right")
    for number, (name, means) in enumerate(curves.items()):
        turn, color = divmod(number, len(LINES))
        confidence, accuracy, share = means[np.isfinite(means[:, 0])].T
        look = {"color": LINES[color], "linestyle": STYLES[turn % len(STYLES)], "linewidth": 1.4}
        ax.plot(confidence, accuracy, **look, label=name)
        ax.scatter(confidence, accuracy, s=8 + 60 * np.sqrt(share), color=LINES[color], alpha=0.7, zorder=3)
    ax.set(xlim=(0, 1.02), ylim=(0, 1.02), aspect="equal")
    ax.set_xlabel("confidence", color=ink, fontsize=9)
    ax.set_ylabel("accuracy", color=ink, fontsize=9)
    ax.tick_params(labelsize=8, colors=ink, length=2)
    ax.grid(color=ink, alpha=0.15, linewidth=0.6)
    ax.patch.set_alpha(0.0)
    ax.spines[["top", "right"]].set_visible(False)
    ax.spines[["left", "bottom"]].set_color(ink)
    ax.legend(loc="upper left", bbox_to_anchor=(1.02, 1.0), fontsize=8, frameon=False, labelcolor=ink)
    save(figure, path)
