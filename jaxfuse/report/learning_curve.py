"""The score of the validation over the training of each phase, this run's beside that of others on the same data.

HyperFusionNet's Figure 3 compares networks in this way. The tables are `results/<phase>/learning_curve.csv`.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from jaxfuse.io.tables import read_json, read_rows
from jaxfuse.report.canvas import save
from jaxfuse.report.curves import LINES, STYLES, dress, ink_of

COLUMNS = 3
Curve = tuple[np.ndarray, np.ndarray]  # steps, scores


def learning_curves(workdir: Path, others: Sequence[Path], path: Path, *, dark: bool = False) -> bool:
    """Draws the scores of a run's phases, one axes each, with those of the phases of the same name of other runs.

    A phase that was validated once has no curve; returns whether there was one to draw. The best score of this run,
    which chose the weights that `@best` names, is marked. `dark` is for a dark page.
    """
    mine = {phase: curve for phase, curve in scores_of(workdir).items() if len(curve[0]) > 1}
    if not mine:
        return False
    theirs = {_name(run): scores_of(run) for run in others}
    columns = min(COLUMNS, len(mine))
    lines = -(-len(mine) // columns)
    figure = Figure(figsize=(4.4 * columns, 3.6 * lines), layout="constrained", dpi=150)
    figure.patch.set_alpha(0.0)
    axes = figure.subplots(lines, columns, squeeze=False)
    for ax in axes.flat[len(mine) :]:
        ax.set_axis_off()
    for ax, (phase, curve) in zip(axes.flat, mine.items(), strict=False):
        beside = {name: curves[phase] for name, curves in theirs.items() if phase in curves}
        _draw(ax, phase, curve, beside, ink_of(dark))
    save(figure, path)
    return True


def scores_of(workdir: Path) -> dict[str, Curve]:
    """The scores of each phase of a run that has them, in the order of its schedule."""
    curves = {}
    for phase in read_json(workdir / "config.json").get("schedule", ()):
        table = workdir / "results" / phase / "learning_curve.csv"
        rows = read_rows(table) if table.is_file() else []
        points = np.array([(row["step"], row["score"]) for row in rows if "score" in row], float).reshape(-1, 2)
        points = points[np.isfinite(points[:, 1])]
        if len(points):
            curves[phase] = (points[:, 0], points[:, 1])
    return curves


def _name(run: Path) -> str:
    config = read_json(run / "config.json")
    return f"{config.get('row') or config.get('name')} ({run.resolve().name})"


def _draw(ax: Axes, phase: str, mine: Curve, beside: Mapping[str, Curve], ink: str) -> None:
    """This run in the first color and thick, the others in further ones."""
    for number, (name, (steps, scores)) in enumerate(beside.items(), start=1):
        turn, color = divmod(number, len(LINES))
        style = STYLES[turn % len(STYLES)]
        ax.plot(steps, scores, color=LINES[color], linestyle=style, linewidth=1.0, label=f"{name}  {scores.max():.3g}")
    steps, scores = mine
    best = int(np.argmax(scores))
    label = f"this run  {scores[best]:.3g} at step {steps[best]:.0f}"
    ax.plot(steps, scores, color=LINES[0], linewidth=2.0, label=label, zorder=3)
    ax.plot(steps[best], scores[best], "o", color=LINES[0], markersize=5, zorder=3)
    ax.set_title(f"{phase}: validation score by step", loc="left", fontsize=9, color=ink, weight="bold")
    dress(ax, ink, columns=1)
