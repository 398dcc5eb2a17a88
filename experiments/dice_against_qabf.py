"""The figure of what a fused image is worth to a network, as Dice, beside what it keeps of its sources, as Qabf."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path

from matplotlib.figure import Figure

# Okabe and Ito's colors, told apart with any color vision.
_COLORS = ("#0072B2", "#D55E00", "#009E73", "#CC79A7", "#E69F00", "#56B4E9", "#000000")
_MARKS = ("o", "s", "^", "D", "v", "P", "X")
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
    figure = Figure(figsize=(10.5, 6.0), layout="constrained")
    axes = figure.subplots()
    for number, (name, points) in enumerate(curves.items()):
        color, mark = _COLORS[number % len(_COLORS)], _MARKS[number % len(_MARKS)]
        axes.plot([x for _, x, _ in points], [y for *_, y in points], f"{mark}-", color=color, label=name)
        for weight, x, y in points:
            axes.annotate(weight, (x, y), (4, 4), textcoords="offset points", fontsize=8, color=color)
    for name, x, y in images:
        axes.plot(x, y, "k*", markersize=9)
        axes.annotate(name, (x, y), (5, -10), textcoords="offset points", fontsize=9)
    for name, y in levels.items():
        axes.axhline(y, linestyle="--", color="0.5", linewidth=1)
        axes.annotate(name, (1, y), (-4, 3), xycoords=("axes fraction", "data"), textcoords="offset points",
                      ha="right", fontsize=9, color="0.3")  # fmt: skip
    axes.set(xlabel="Qabf of the fused image", ylabel="mean Dice", ylim=(0, 1))
    axes.grid(alpha=0.25)
    if curves:
        axes.legend(loc="lower left", fontsize=9, frameon=False, title="points: weight of the fusion loss")
    figure.savefig(path, dpi=110)
