"""Label maps over an image in a panel: filled in their colors, or as outlines that leave the image open.

A tumor is one island in a brain, and a fill shows its parts best. Where every voxel of the brain has a class (infant
tissue) a fill would hide the image, and of a small infarct the image itself shows whether the border is right: there
outlines are drawn, as in the figures of InfiNet and HyperFusionNet.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

from matplotlib.axes import Axes
from matplotlib.lines import Line2D
from matplotlib.patches import Patch

from jaxfuse.labels import LabelScheme
from jaxfuse.metrics.protocols import ISEG, STROKE, protocol_of
from jaxfuse.report.canvas import CLASS_COLORS, COLUMN_INCH, class_legend
from jaxfuse.report.planes import Labels, Plane


@dataclass(frozen=True)
class Overlay:
    """A way to lay label maps over an image.

    Attributes:
        draw: (plane, axes, class indices, truth or None, number of classes) draws a label map and, where it is a
            prediction that has one, its truth.
        legend: (class names, whether there is a truth) -> its entries.
        column_inch: the width of a picture that it needs.
    """

    draw: Callable[[Plane, Axes, Labels, Labels | None, int], None]
    legend: Callable[[Sequence[str], bool], list[Patch | Line2D]]
    column_inch: float


def _filled(show: Plane, ax: Axes, labels: Labels, truth: Labels | None, count: int) -> None:
    show.classes(ax, labels, count)
    if truth is not None:
        show.outline(ax, truth)


def _filled_legend(classes: Sequence[str], truth: bool) -> list[Patch | Line2D]:
    return class_legend(classes, outline=truth)


def _outlined(show: Plane, ax: Axes, labels: Labels, truth: Labels | None, count: int) -> None:
    if truth is not None:
        # Below the prediction: what is left to see of it is where the two differ.
        show.borders(ax, truth, ["black"] * count, 1.6)  # or it is lost where the image is bright
        show.borders(ax, truth, ["white"] * count, 0.8)
    show.borders(ax, labels, CLASS_COLORS, 0.8)


def _outlined_legend(classes: Sequence[str], truth: bool) -> list[Patch | Line2D]:
    lines: list[Patch | Line2D] = [
        Line2D([], [], color=patch.get_facecolor(), linewidth=1.2, label=patch.get_label())
        for patch in class_legend(classes, outline=False)
        if isinstance(patch, Patch)
    ]
    if truth:
        lines.append(Line2D([], [], color="white", linewidth=1.2, label="truth, where a prediction differs"))
    return lines


FILLED = Overlay(_filled, _filled_legend, COLUMN_INCH)
OUTLINED = Overlay(_outlined, _outlined_legend, 2.4)


def overlay_of(scheme: LabelScheme) -> Overlay:
    """Outlines for infant tissue and for strokes, fills for everything else."""
    return OUTLINED if protocol_of(scheme) in (ISEG, STROKE) else FILLED
