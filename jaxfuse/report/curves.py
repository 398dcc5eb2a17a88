"""Learning curves of a run, from its metric rows: drawn as a PNG file, and as tables for other programs."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import MaxNLocator

from jaxfuse.io.metric_rows import ROW_KEYS
from jaxfuse.io.tables import write_rows
from jaxfuse.report.canvas import save

LINES = ("#0072B2", "#D55E00", "#009E73", "#CC79A7", "#E69F00", "#56B4E9")
STYLES = ("-", "--", ":", "-.")
_LOSSES, _VAL_LOSSES, _SCORES = "training losses", "validation losses", "validation scores"
_ERRORS = ("mae", "mse", "loss")
# Rows of the training split that are not losses: they would only flatten the others.
_NOT_LOSSES = ("lr", "learning_rate", "grad_norm", "seconds", "step_s", "steps_per_s", "examples_per_s", "wait_share")


def curves(rows: Sequence[Mapping[str, Any]], path: Path, *, dark: bool = False) -> None:
    """Draws metric rows ({"step", "phase", "split", name: value, ...}), one row of axes per phase.

    First the losses of the training split (faint: each row; solid: moving mean), then the validation values, one
    axes per kind of quantity. Names that differ only before their first "/" share a color and differ in line style.
    `dark` is for a dark page.
    """
    phases = list(dict.fromkeys(row["phase"] for row in rows))
    if not phases:
        raise ValueError("there are no metric rows to draw")
    groups = [_groups([row for row in rows if row["phase"] == phase]) for phase in phases]
    columns = max(1, *map(len, groups))
    figure = Figure(figsize=(3.7 * columns, 3.3 * len(phases)), layout="constrained", dpi=150)
    figure.patch.set_alpha(0.0)
    ink = ink_of(dark)
    axes = figure.subplots(len(phases), columns, squeeze=False)
    for line, phase, group in zip(axes, phases, groups, strict=True):
        for ax in line[len(group) :]:
            ax.set_axis_off()
        for ax, (what, series) in zip(line, group.items(), strict=False):
            _curve_axes(ax, what, series, ink)
            ax.set_title(f"{phase}: {what} by step", loc="left", fontsize=9, color=ink, weight="bold")
    save(figure, path)


def write_learning_curves(rows: Sequence[Mapping[str, Any]], results: Path) -> None:
    """Writes `<phase>/learning_curve.csv` below `results` for every phase that was validated: a line per validation.

    Columns are the step and the validation values by their names; "score" chose the best weights, such as the mean
    Dice of the foreground. A value that a validation lacks is nan.
    """
    validated = [row for row in rows if row["split"] == "val"]
    for phase in dict.fromkeys(row["phase"] for row in validated):
        own = [row for row in validated if row["phase"] == phase]
        names = dict.fromkeys(name for row in own for name in row if name not in ROW_KEYS)
        lines = [{"step": row["step"], **{name: row.get(name, math.nan) for name in names}} for row in own]
        write_rows(results / phase / "learning_curve.csv", lines)


Series = dict[str, tuple[np.ndarray, np.ndarray]]


def _groups(rows: Sequence[Mapping[str, Any]]) -> dict[str, Series]:
    """Series (steps, values) of one phase, by the axes that they belong to; values that are not finite are left out."""
    groups: dict[str, Series] = {}
    trained = {name for row in rows if row["split"] == "train" for name in row}
    for split in ("train", "val"):
        chosen = [row for row in rows if row["split"] == split]
        names = dict.fromkeys(name for row in chosen for name in row if name not in ("step", "phase", "split"))
        for name in names:
            points = np.array([(row["step"], row[name]) for row in chosen if name in row], dtype=float)
            steps, values = points[np.isfinite(points[:, 1])].T
            if len(steps) and not (split == "train" and name.rsplit("/", 1)[-1] in _NOT_LOSSES):
                # A name with a training curve is that of a loss.
                held_out = _VAL_LOSSES if name in trained else _quantity(name, values)
                what = _LOSSES if split == "train" else held_out
                groups.setdefault(what, {})[name] = (steps, values)
    return groups


def _quantity(name: str, values: np.ndarray) -> str:
    """The kind of a validation value, by its unit or name, so that each kind has its own scale."""
    if "_mm" in name or "_db" in name:
        return "validation in mm" if "_mm" in name else "validation in dB"
    if any(word in name for word in _ERRORS):
        return "validation errors"
    return _SCORES if values.min() >= 0 and values.max() <= 1 else "validation, other"


def _curve_axes(ax: Axes, what: str, series: Series, ink: str) -> None:
    smooth = what == _LOSSES
    parts = {name: (name.partition("/")[0], name.partition("/")[2]) if "/" in name else ("", name) for name in series}
    owners = list(dict.fromkeys(owner for owner, _ in parts.values()))
    quantities = list(dict.fromkeys(quantity for _, quantity in parts.values()))
    for name, (steps, values) in series.items():
        owner, quantity = parts[name]
        turn, number = divmod(quantities.index(quantity), len(LINES))
        color, style = LINES[number], STYLES[(owners.index(owner) + turn) % len(STYLES)]
        window = max(1, len(values) // 25) if smooth else 1
        if window > 1:
            ax.plot(steps, values, color=color, alpha=0.2, linewidth=0.7)
        mean_steps, mean = (np.convolve(v, np.full(window, 1.0 / window), mode="valid") for v in (steps, values))
        look = {"color": color, "linestyle": style, "linewidth": 1.4, "marker": "o" if len(mean) < 25 else ""}
        ax.plot(mean_steps, mean, **look, markersize=2.5, label=f"{name}  {mean[-1]:.3g}")
    everything = np.concatenate([values for _, values in series.values()])
    if smooth and everything.min() > 0 and everything.max() > 50 * np.median(everything):
        ax.set_yscale("log")
    if what == _SCORES:
        ax.set_ylim(0, 1)
    dress(ax, ink, columns=2)


def ink_of(dark: bool) -> str:
    """The color of text and axes on a dark or a light page."""
    return "#d8dade" if dark else "#33363b"


def dress(ax: Axes, ink: str, *, columns: int) -> None:
    """Axes of curves by step: plain, on the page's own ground, with a legend of so many columns below."""
    ax.xaxis.set_major_locator(MaxNLocator(5, integer=True))
    ax.tick_params(labelsize=8, colors=ink, length=2)
    ax.grid(axis="y", color=ink, alpha=0.15, linewidth=0.6)
    ax.patch.set_alpha(0.0)
    ax.spines[["top", "right"]].set_visible(False)
    ax.spines[["left", "bottom"]].set_color(ink)
    # Below the axes, with the last value: ten names never hide a curve there.
    below = {"loc": "upper left", "bbox_to_anchor": (-0.12, -0.1), "ncols": columns, "columnspacing": 0.6}
    ax.legend(**below, fontsize=7, handlelength=2.3, frameon=False, labelcolor=ink)
