"""The figure of what a fused image is worth to a network, as Dice, beside what it keeps of its sources, as Qabf."""

from __future__ import annotations

import itertools
from collections.abc import Mapping, Sequence
from pathlib import Path

from matplotlib.figure import Figure

# Okabe and Ito's colors, told apart with any color vision.
_COLORS = ("#0072B2", "#D55E00", "#009E73", "#CC79A7", "#E69F00", "#56B4E9", "#000000")
_MARKS = ("o", "s", "^", "D", "v", "P", "X")
# Of images that no curve joins.
_IMAGES = ("*", "x", "+", "1", "2", "3", "4")
_STYLES = ("--", ":", "-.", (0, (1, 3)))
Point = tuple[str, float, float]


def draw(
    curves: Mapping[str, Sequence[Point]],
    images: Sequence[Point],
    levels: Mapping[str, float],
    path: Path,
) -> None:
    """Writes the figure.

    Args:
        curves: by scheme its points (weight of the fusion loss, Qabf, Dice), joined in their order.
        images: single points (name, Qabf, Dice).
        levels: Dice of what makes no image, by name, as dashed lines.
    """
    figure = Figure(figsize=(11.5, 6.0), layout="constrained")
    axes = figure.subplots()
    for number, (name, points) in enumerate(curves.items()):
        color, mark = _COLORS[number % len(_COLORS)], _MARKS[number % len(_MARKS)]
        axes.plot([x for _, x, _ in points], [y for *_, y in points], f"{mark}-", color=color, label=name)
        for weight, x, y in points:
            axes.annotate(weight, (x, y), (4, 4), textcoords="offset points", fontsize=8, color=color)
    for (name, x, y), mark in zip(images, itertools.cycle(_IMAGES)):
        axes.plot(x, y, mark, color="k", markersize=8, linestyle="", label=name)
    for (name, y), style in zip(levels.items(), itertools.cycle(_STYLES)):
        axes.axhline(y, linestyle=style, color="0.45", linewidth=1.2, label=name)
    axes.set(xlabel="Qabf of the fused image", ylabel="mean Dice")
    axes.margins(0.06)
    axes.grid(alpha=0.25)
    if axes.get_legend_handles_labels()[0]:
        title = "points of a curve: weight of the fusion loss"
        figure.legend(loc="outside right upper", fontsize=9, frameon=False, title=title)
    figure.savefig(path, dpi=110)
