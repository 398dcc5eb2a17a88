"""Plots of the findings as PNG files."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.lines import Line2D

# Okabe and Ito's colors, told apart with any color vision.
BLUE, ORANGE, GREEN, PURPLE, SKY, AMBER, BLACK = (
    "#0072B2", "#D55E00", "#009E73", "#CC79A7", "#56B4E9", "#E69F00", "#000000",
)  # fmt: skip
_CYCLE = (BLUE, ORANGE, GREEN, PURPLE, SKY, AMBER, BLACK)
_STYLES = ("-", "--", ":", "-.")
_FLOOR, _CEILING = 1e-16, 10.0  # errors beyond are drawn there


def draw(scores: dict[str, Any], folder: Path) -> list[Path]:
    """Writes all figures, returns their paths."""
    figures = {
        "error_against_time.png": error_against_time([task for task in scores["tasks"] if task["drawn"]]),
        "memory_against_steps.png": memory_against_steps(scores["memory"]),
        "error_against_inner_steps.png": error_against_inner_steps(scores["inexact"]),
    }
    paths = []
    for name, figure in figures.items():
        paths.append(folder / name)
        figure.savefig(paths[-1], dpi=110)
    return paths


def error_against_time(tasks: list[dict[str, Any]]) -> Figure:
    """One panel a task; a method has the same number in all panels, ours round, peers square."""
    names = list(dict.fromkeys((row["group"], row["method"]) for task in tasks for row in task["rows"]))
    figure = Figure(figsize=(7.0 * len(tasks) + 3.4, 7.2), layout="constrained")
    panels = np.atleast_1d(figure.subplots(1, len(tasks)))
    for axes, task in zip(panels, tasks, strict=True):
        axes.set(xscale="log", yscale="log", title=task["title"], xlabel="time of one hypergradient (ms)")
        axes.grid(alpha=0.25)
    panels[0].set_ylabel("relative error of the hypergradient (above 10 drawn at 10)")
    handles = [
        Line2D([], [], linestyle="", marker="", label=f"{place + 1:2d}  {'ours: ' if group == 'ours' else ''}{name}")
        for place, (group, name) in enumerate(names)
    ]
    legend = figure.legend(
        handles=handles, loc="outside right center", handlelength=0, handletextpad=0, fontsize=9, frameon=False
    )
    for text, (group, _) in zip(legend.get_texts(), names, strict=True):
        text.set_color(_color(group))
    for axes, task in zip(panels, tasks, strict=True):
        _points(figure, axes, [row for row in task["rows"] if row["rounds"] and np.isfinite(row["error"])], names)
    return figure


def _points(figure: Figure, axes: Axes, rows: list[dict[str, Any]], names: list[tuple[str, str]]) -> None:
    """Marks where the methods are, and their numbers beside them, moved apart until none covers another."""
    if not rows:
        return
    points = np.array([(row["median_ms"], np.clip(row["error"], _FLOOR, _CEILING)) for row in rows])
    for (x, y), row in zip(points, rows, strict=True):
        axes.plot(x, y, "o" if row["group"] == "ours" else "s", color=_color(row["group"]), markersize=6, alpha=0.7)
    axes.margins(0.08)
    figure.draw_without_rendering()  # fixes the scales that the next line uses
    places = axes.transData.transform(points)
    offsets = (_apart(places) - places) * 72 / figure.dpi
    for (x, y), offset, row in zip(points, offsets, rows, strict=True):
        note = axes.annotate(
            str(names.index((row["group"], row["method"])) + 1), (x, y), tuple(offset), textcoords="offset points",
            fontsize=8.5, ha="center", va="center", color=_color(row["group"]),
            arrowprops={"arrowstyle": "-", "color": "0.6", "linewidth": 0.6, "shrinkA": 5, "shrinkB": 2},
        )  # fmt: skip
        note.set_in_layout(False)


def _apart(points: np.ndarray, distance: float = 16.0) -> np.ndarray:
    """Places for labels (n, 2), in pixels: above the points, pushed from one another and from all points."""
    rng = np.random.default_rng(0)  # breaks ties between points that coincide
    above = points + np.array([0.0, distance])
    labels = above + rng.normal(size=points.shape)
    for _ in range(400):
        shift = 0.02 * (above - labels)
        for others, reach in ((labels, distance), (points, 0.75 * distance)):
            gap = labels[:, None] - others[None]
            length = np.linalg.norm(gap, axis=-1) + 1e-9
            push = np.where((length < reach) & (length > 1e-6), (reach - length) / length, 0)
            shift += 0.4 * (push[..., None] * gap).sum(1)
        labels = labels + shift
    return labels


def _color(group: str) -> str:
    return BLUE if group == "ours" else ORANGE


def memory_against_steps(found: dict[str, Any]) -> Figure:
    figure = Figure(figsize=(8.6, 5.0), layout="constrained")
    axes = figure.subplots()
    lines = found["megabytes"].items()
    for place, (name, values) in enumerate(lines):
        # Thinner with each line, so that lines which coincide all stay visible.
        axes.plot(
            found["inner_steps"], values, _STYLES[place % 4], marker="o", markersize=4,
            linewidth=4.5 - 3.5 * place / len(lines), color=_CYCLE[place % 7], label=name,
        )  # fmt: skip
    axes.set(
        xscale="log", yscale="log", xlabel="inner gradient steps K", ylabel="temporary memory (MB)",
        title="Memory of inner solve and hypergradient in one program, 1,088 weights",
    )  # fmt: skip
    axes.grid(alpha=0.25)
    axes.set_xticks(found["inner_steps"], [f"{count:,}" for count in found["inner_steps"]])
    axes.minorticks_off()
    figure.legend(loc="outside right center", fontsize=8.5, frameon=False)
    return figure


def error_against_inner_steps(found: dict[str, Any]) -> Figure:
    figure = Figure(figsize=(11.5, 5.0), layout="constrained")
    left, right = figure.subplots(1, 2)
    for place, (name, values) in enumerate(found["scores"].items()):
        look = {"color": _CYCLE[place % 7], "linestyle": _STYLES[place // 7], "marker": "os^"[place // 7]}
        left.plot(found["inner_steps"], values["error"], markersize=4, label=name, **look)
        right.plot(found["inner_steps"], values["cosine"], markersize=4, **look)
    left.set(xscale="log", yscale="log", xlabel="inner gradient steps K", ylabel="relative error")
    right.set(xscale="log", xlabel="inner gradient steps K", ylabel="cosine with the exact hypergradient")
    for axes in (left, right):
        axes.grid(alpha=0.25)
        axes.set_xticks(found["inner_steps"], [f"{count:,}" for count in found["inner_steps"]])
        axes.minorticks_off()
    figure.suptitle("Hypergradient at an inner solution that is not converged (quadratic, condition 100)")
    figure.legend(loc="outside right center", fontsize=8.5, frameon=False)
    return figure
