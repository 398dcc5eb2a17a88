"""The black figure that panels are drawn on: its grid of axes, class colors, legend, title and file."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

from matplotlib.cm import ScalarMappable
from matplotlib.colors import LogNorm
from matplotlib.figure import Figure
from matplotlib.lines import Line2D
from matplotlib.patches import Patch

from jaxfuse.io.whole_file import at

# Okabe and Ito's colors, told apart with any color vision; by class index, so that a class never changes its color.
CLASS_COLORS = ("#000000", "#D55E00", "#56B4E9", "#F0E442", "#CC79A7", "#009E73", "#E69F00", "#0072B2")
COLUMN_INCH = 1.55  # the width of a column, where nothing asks for more
BAR_INCH = 0.8  # the width of a color bar with its label
_TOP_INCH, _BOTTOM_INCH = 0.34, 0.5


def panel_grid(
    extents: Sequence[tuple[float, float]], columns: int, right_inch: float = 0, column_inch: float = COLUMN_INCH
) -> tuple[Figure, Any]:
    """A black figure with one line of axes per extent, as high as its picture is, and so many columns of this width.

    `right_inch` is kept free for a color bar; the title and the legend have their own strips above and below.
    """
    widest = max(across for across, _ in extents)
    heights = [up / widest for _, up in extents]
    width = column_inch * columns + right_inch
    height = column_inch * sum(heights) + 0.2 * len(heights) + _TOP_INCH + _BOTTOM_INCH
    figure = Figure(figsize=(width, height), layout="constrained", dpi=130, facecolor="black")
    rect = (0.0, _BOTTOM_INCH / height, 1.0, 1.0 - (_TOP_INCH + _BOTTOM_INCH) / height)
    figure.set_layout_engine("constrained", w_pad=0.01, h_pad=0.01, wspace=0.01, hspace=0.01, rect=rect)
    axes = figure.subplots(len(heights), columns, squeeze=False, height_ratios=heights)
    for ax in axes.flat:
        ax.set_axis_off()
    return figure, axes


def class_legend(classes: Sequence[str], *, outline: bool) -> list[Patch | Line2D]:
    """One entry per class but the background, and one for the outline of the truth where there is one."""
    if len(classes) > len(CLASS_COLORS):
        raise ValueError(f"label maps of at most {len(CLASS_COLORS)} classes can be drawn, got {len(classes)}")
    pairs = list(zip(CLASS_COLORS, classes, strict=False))[1:]
    handles: list[Patch | Line2D] = [Patch(facecolor=color, label=name) for color, name in pairs]
    if outline:
        handles.append(Line2D([], [], color="white", linewidth=1.0, label="outline of the truth"))
    return handles


def color_bar(figure: Figure, axes: Any, mappable: ScalarMappable, label: str) -> None:
    """A color bar to the right of all axes. A logarithmic scale is marked at 1 and at its ends, with more beyond."""
    logarithmic = isinstance(mappable.norm, LogNorm)
    extend = "both" if logarithmic else "neither"
    bar = figure.colorbar(mappable, ax=axes, shrink=0.6, aspect=40, pad=0.01, extend=extend)
    bar.set_label(label, color="white", fontsize=8)
    if logarithmic:
        low, high = mappable.get_clim()
        ticks = [tick for tick in (low, 1.0, high) if tick is not None]
        bar.set_ticks(ticks, labels=[f"{tick:.2g}" for tick in ticks])
        bar.minorticks_off()
    bar.ax.tick_params(colors="white", labelsize=7)


def finish(figure: Figure, path: Path, title: str, handles: Sequence[Patch | Line2D], note: str) -> None:
    """Adds the title, the legend of these handles and a note below, and writes the figure."""
    width, height = figure.get_size_inches()
    left = 0.08 / width
    figure.text(left, 1 - 0.08 / height, title, fontsize=10, color="white", weight="bold", va="top")
    figure.text(left, 0.06 / height, note, fontsize=7, color="#b0b0b0", va="bottom")
    if handles:
        place = {"loc": "lower left", "bbox_to_anchor": (left, 0.18 / height), "borderpad": 0.2, "borderaxespad": 0.0}
        figure.legend(handles=list(handles), ncols=len(handles), fontsize=8, frameon=False, labelcolor="white", **place)
    save(figure, path)


def save(figure: Figure, path: Path) -> None:
    """Writes a figure as PNG, into a folder that is made if need be."""
    path.parent.mkdir(parents=True, exist_ok=True)
    with at(path):
        figure.savefig(path, format="png")
