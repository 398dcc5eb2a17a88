"""A figure of images that were fused: each source, in its color if it has one, and the fused image."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import numpy as np
from jaxtyping import Bool, UInt8
from matplotlib.axes import Axes

from jaxfuse.report.canvas import finish, panel_grid
from jaxfuse.report.planes import VIEWS, Plane, bounding_box, center_of, extents_mm, form_of

Levels = UInt8[np.ndarray, "..."]  # gray and RGB may stand side by side


class _Colored(Plane):
    """A plane of a volume of levels, gray or RGB, which are shown as they are."""

    def levels(self, ax: Axes, volume: Levels) -> None:
        """Levels as they are, gray or RGB."""
        picture = self.cut(volume)
        self._show(ax, picture if picture.ndim == 3 else np.repeat(picture[..., None], 3, axis=-1))


def fusion_panel(
    path: Path,
    *,
    images: Sequence[Levels],
    headers: Sequence[str],
    shown: Bool[np.ndarray, "*space"],
    title: str,
    spacing_mm: tuple[float, ...],
) -> None:
    """Three planes of each volume, or each picture as it lies; planes pass through where most is shown.

    Args:
        images: levels 0 to 255, (*space) or (*space 3).
        headers: the name of each.
        shown: where at least one source shows something; the rest is cut away as far as a box allows.
        spacing_mm: voxel sides by axis; for a picture the sides of rows and columns.
    """
    lift, views, sides = form_of(shown.ndim, spacing_mm)
    images, shown = [lift(image) for image in images], lift(shown)
    box, center = bounding_box(shown), center_of([], shown)
    figure, axes = panel_grid(extents_mm(box, sides, views), len(images))
    for ax, header in zip(axes[0], headers, strict=True):
        ax.set_title(header, fontsize=8, color="white", pad=3)
    for line, view in zip(axes, views, strict=True):
        plane = _Colored(view, center[view.axis], box, sides)
        for ax, image in zip(line, images, strict=True):
            plane.levels(ax, image)
        if views == VIEWS:
            plane.letters(line[0])
    # Short, since there may be three columns only.
    note = f"planes at voxel {center[0]}, {center[1]}, {center[2]}; R = patient's right" if views == VIEWS else ""
    finish(figure, path, title, [], note)
