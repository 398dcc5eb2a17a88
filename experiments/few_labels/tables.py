"""Tables and figures of the experiment: Dice by row, and what the paper's row has more or less, case by case."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from matplotlib.figure import Figure

from experiments.few_labels.scoring import case_score
from experiments.shared import spread
from jaxfuse.io.tables import render, write_json
from jaxfuse.metrics.comparison import difference_interval

OURS = "ours"
_COLORS = ("#999999", "#0072B2", "#56B4E9", "#009E73", "#D55E00", "#E69F00", "#CC79A7")
Trainings = Sequence[Mapping[str, Any]]


def write(part: str, document: Mapping[str, Any], folder: Path) -> None:
    """Writes table, scores and figure of a part."""
    (folder / f"table_{part}.md").write_text(render_part(part, document) + "\n")
    write_json(folder / f"scores_{part}.json", dict(document))
    if part == "T1":
        draw_labels(document["trainings"], folder / "labels.png")
    if part == "T2":
        draw_curves(document["curves"], folder / "curves.png")


def render_part(part: str, document: Mapping[str, Any]) -> str:
    """Renders the table of a part."""
    if part == "T2":
        return _curves_table(document["curves"])
    if part == "T3":
        titled = [f"### {looks}\n\n{_table(found)}" for looks, found in document["trainings"].items()]
        return "\n\n".join(titled)
    return _table(document["trainings"])


def scores_of(trainings: Trainings, row: str, labels: int) -> np.ndarray:
    """The scores of a row (trainings, cases), trainings in the order of draws and seeds."""
    chosen = sorted(
        (one for one in trainings if (one["row"], one["labels"]) == (row, labels)),
        key=lambda one: (one["subset"], one["seed"]),
    )
    return np.array([[case_score(one["scores"][case]) for case in sorted(one["scores"])] for one in chosen])


def interval_text(first: np.ndarray, second: np.ndarray) -> str:
    """The mean of first - second with its interval of 95 %, over trainings (paired by draw and seed) and cases."""
    apart = first - second
    low, high = difference_interval(apart, np.zeros((1, apart.shape[1])))
    return f"{apart.mean():+.3f} ({low:+.3f} to {high:+.3f})"


def _table(trainings: Trainings) -> str:
    rows = list(dict.fromkeys(one["row"] for one in trainings))
    counts = sorted({one["labels"] for one in trainings})
    lines = []
    for row in rows:
        line = {"Row": row}
        for labels in counts:
            scores = scores_of(trainings, row, labels)
            line[f"Dice, {labels} labels"] = spread(list(scores.mean(axis=1)))
            ours = scores_of(trainings, OURS, labels)
            line[f"ours less it, {labels}"] = "" if row == OURS else interval_text(ours, scores)
        lines.append(line)
    return render(lines, list(lines[0]))


def _curves_table(curves: Trainings) -> str:
    lines = []
    for row in dict.fromkeys(one["row"] for one in curves):
        line = {"Row": row}
        found = [one["dice"] for one in curves if one["row"] == row]
        for mark in found[0]:
            line[f"{mark} steps"] = spread([one[mark] for one in found])
        lines.append(line)
    return render(lines, list(lines[0]))


def draw_labels(trainings: Trainings, path: Path) -> None:
    """Draws mean Dice against the number of labels, with the standard deviation over draws and seeds."""
    figure = Figure(figsize=(7.0, 4.2), layout="constrained")
    axes = figure.subplots()
    counts = sorted({one["labels"] for one in trainings})
    for number, row in enumerate(dict.fromkeys(one["row"] for one in trainings)):
        means = [scores_of(trainings, row, labels).mean(axis=1) for labels in counts]
        places = np.arange(len(counts)) + 0.06 * (number - 3)
        spreads = [one.std(ddof=1) if len(one) > 1 else 0.0 for one in means]
        axes.errorbar(
            places, [one.mean() for one in means], spreads, color=_COLORS[number % len(_COLORS)], label=row, capsize=2
        )
    axes.set(xlabel="labeled cases", ylabel="mean Dice, held-out phantoms", xticks=range(len(counts)))
    axes.set_xticklabels([str(count) for count in counts])
    axes.grid(axis="y", alpha=0.25)
    axes.legend(frameon=False, fontsize=9)
    figure.savefig(path, dpi=110)


def draw_curves(curves: Trainings, path: Path) -> None:
    """Draws mean Dice on the validation phantoms against the steps."""
    figure = Figure(figsize=(7.0, 4.2), layout="constrained")
    axes = figure.subplots()
    for number, row in enumerate(dict.fromkeys(one["row"] for one in curves)):
        found = [one["dice"] for one in curves if one["row"] == row]
        marks = list(found[0])
        means = [np.mean([one[mark] for one in found]) for mark in marks]
        axes.plot([int(mark) for mark in marks], means, color=_COLORS[number % len(_COLORS)], label=row, marker=".")
    axes.set(xlabel="steps", ylabel="mean Dice, validation phantoms", xscale="log")
    axes.grid(alpha=0.25)
    axes.legend(frameon=False, fontsize=9)
    figure.savefig(path, dpi=110)
