"""A figure of scores by subset: bars above, and below each of them which modalities were there, as in UpSet plots."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path

import numpy as np
from matplotlib.figure import Figure

_COLORS = ("#999999", "#0072B2", "#009E73", "#CCCCCC", "#E69F00", "#D55E00", "#CC79A7", "#56B4E9", "#F0E442")


def draw(
    scores: Mapping[str, Sequence[float]], subsets: Sequence[Sequence[bool]], modalities: Sequence[str], path: Path
) -> None:
    """Writes the figure: for each subset one bar of every form, by the form's name."""
    figure = Figure(figsize=(13.0, 6.4), layout="constrained")
    above, below = figure.subplots(2, 1, sharex=True, height_ratios=(3, 1))
    places, width = np.arange(len(subsets)), 0.84 / len(scores)
    for number, (name, values) in enumerate(scores.items()):
        left = places - 0.42 + number * width
        above.bar(left, values, width, align="edge", label=name, color=_COLORS[number % len(_COLORS)])
    above.set(ylabel="mean Dice over the regions", ylim=(0, 1))
    above.grid(axis="y", alpha=0.25)
    above.legend(ncols=3, loc="upper left", fontsize=9, frameon=False)
    for row, modality in enumerate(modalities):
        there = np.array([subset[row] for subset in subsets])
        below.scatter(places, np.full(len(places), row), s=60, color="#DDDDDD")
        below.scatter(places[there], np.full(there.sum(), row), s=60, color="#000000", label=modality)
    for place, subset in zip(places, subsets, strict=True):
        rows = np.flatnonzero(subset)
        below.plot([place, place], [rows[0], rows[-1]], color="#000000")
    below.set(yticks=range(len(modalities)), yticklabels=modalities, xticks=[], ylim=(len(modalities) - 0.5, -0.5))
    figure.savefig(path, dpi=110)
