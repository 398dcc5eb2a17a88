"""Planes of volumes as pictures, and the layers drawn on them: images, errors, classes, outlines.

Volumes come in the canonical axes d h w = x (to the right), y (to the front), z (upward). They are drawn in the
radiological convention, upright: the patient's right is on the left of the picture, the front or the crown on top.
Voxels that are 0 in every real modality lie outside the brain and are drawn black.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from jaxtyping import Bool, Float, Integer, Shaped
from matplotlib.axes import Axes
from matplotlib.colors import LogNorm, Normalize, to_rgba

from jaxfuse.report.canvas import CLASS_COLORS

RATIO_COLORS = "coolwarm"
CONVENTION = "radiological convention: R = patient's right, on the left of the picture"

Volume = Float[np.ndarray, "d h w"]
Labels = Integer[np.ndarray, "d h w"]
Spacing = tuple[float, float, float]
Box = tuple[slice, slice, slice]


@dataclass(frozen=True)
class View:
    """One anatomical plane: the array axis that it cuts, and the letters at the left, right, top and bottom."""

    name: str
    axis: int
    letters: str


AXIAL, CORONAL, SAGITTAL = View("axial", 2, "RLAP"), View("coronal", 1, "RLSI"), View("sagittal", 0, "APSI")
VIEWS = (AXIAL, CORONAL, SAGITTAL)


def plane(volume: np.ndarray, view: View, index: int) -> np.ndarray:
    """The picture (rows, columns, ...) of one slice of a canonical volume (d h w ...), upright and radiological."""
    picture = np.take(volume, index, axis=view.axis)
    return np.swapaxes(picture, 0, 1)[::-1, ::-1]


def as_volume(picture: Shaped[np.ndarray, "r c *m"]) -> Shaped[np.ndarray, "c r 1 *m"]:
    """The canonical volume of one slice whose axial plane is this picture, as a view."""
    return picture[::-1, ::-1].swapaxes(0, 1)[:, :, None]


def form_of(
    ndim: int, spacing_mm: tuple[float, ...] | None
) -> tuple[Callable[[np.ndarray], np.ndarray], tuple[View, ...], Spacing]:
    """The form in which arrays of 2 or 3 axes are drawn.

    Args:
        spacing_mm: voxel sides by axis; 1 mm where not given.

    Returns:
        The function that makes such an array a canonical volume, the planes of it to show, and its voxel sides in mm.
    """
    if ndim == 3:
        x, y, z = spacing_mm or (1.0, 1.0, 1.0)
        return np.asarray, VIEWS, (x, y, z)
    rows, columns = spacing_mm or (1.0, 1.0)
    return as_volume, (AXIAL,), (columns, rows, 1.0)


def center_of(labels: Sequence[Labels | None], brain: Bool[np.ndarray, "d h w"]) -> tuple[int, int, int]:
    """Per axis the slice (middle one of equals) with most of the first label map that has any, else most brain."""
    masks = [label > 0 for label in labels if label is not None]
    mask = next((m for m in masks if m.any()), brain)
    areas = [mask.sum(axis=tuple({0, 1, 2} - {axis})) for axis in range(3)]
    x, y, z = (int(equals[len(equals) // 2]) for equals in (np.flatnonzero(a == a.max()) for a in areas))
    return x, y, z


@dataclass(frozen=True)
class Plane:
    """One slice of a canonical volume, cropped to `box`, which draws layers on axes."""

    view: View
    index: int
    box: Box
    spacing_mm: Spacing

    def cut(self, volume: np.ndarray) -> np.ndarray:
        """The picture (rows, columns, ...) of this slice."""
        cropped = tuple(slice(None) if axis == self.view.axis else self.box[axis] for axis in range(3))
        return plane(volume[cropped], self.view, self.index)

    def _show(self, ax: Axes, picture: np.ndarray, **options: Any) -> None:
        across, up = (self.spacing_mm[axis] for axis in range(3) if axis != self.view.axis)
        ax.imshow(picture, interpolation="nearest", aspect=up / across, **options)
        ax.set_autoscale_on(False)  # or a contour at the edge would shift the picture against its neighbors

    def gray(self, ax: Axes, volume: Volume, brain: np.ndarray, like: Volume | None = None) -> None:
        """The volume in the gray scale (0.5 to 99.5 % inside the brain) of `like`, or its own."""
        inside = (volume if like is None else like)[brain]
        low, high = np.quantile(inside, (0.005, 0.995)) if inside.size else (0.0, 1.0)
        picture = np.where(self.cut(brain), self.cut(volume), low)
        self._show(ax, picture, cmap="gray", vmin=low, vmax=max(high, low + 1e-12))

    def error(self, ax: Axes, volume: Volume, brain: np.ndarray, norm: Normalize) -> None:
        """An error inside the brain, 0 outside."""
        self._show(ax, np.where(self.cut(brain), self.cut(volume), 0.0), cmap="inferno", norm=norm)

    def ratio(self, ax: Axes, volume: Volume, brain: np.ndarray, norm: Normalize) -> None:
        """Multiples of 1 inside the brain: gray at 1, red above, blue below. Values beyond the scale show its ends."""
        picture = np.clip(self.cut(volume), norm.vmin, norm.vmax)  # a logarithmic scale has no place for 0
        self._show(ax, np.ma.masked_where(~self.cut(brain), picture), cmap=RATIO_COLORS, norm=norm)

    def classes(self, ax: Axes, labels: Labels, count: int) -> None:
        """Fills each class in its color, half transparent, with a solid border."""
        picture = self.cut(labels)
        colors = np.array([to_rgba(CLASS_COLORS[i], 0.5 if i else 0.0) for i in range(count)])
        self._show(ax, colors[picture])
        for index in range(1, count):
            if (picture == index).any():
                _contour(ax, picture == index, CLASS_COLORS[index], 0.7)

    def borders(self, ax: Axes, labels: Labels, colors: Sequence[str], width: float) -> None:
        """A line around each class but the background, in the color at its index."""
        picture = self.cut(labels)
        for index in range(1, len(colors)):
            if (picture == index).any():
                _contour(ax, picture == index, colors[index], width)

    def outline(self, ax: Axes, labels: Labels) -> None:
        """A white line around the whole foreground."""
        if (picture := self.cut(labels) > 0).any():
            _contour(ax, picture, "black", 1.8)
            _contour(ax, picture, "white", 0.9)

    def letters(self, ax: Axes) -> None:
        """The letters of the patient's sides, at the four edges."""
        left, right, top, bottom = self.view.letters
        places = ((0.02, 0.5, left, "left", "center"), (0.98, 0.5, right, "right", "center"))
        places += ((0.5, 0.98, top, "center", "top"), (0.5, 0.02, bottom, "center", "bottom"))
        for x, y, letter, ha, va in places:
            ax.text(x, y, letter, ha=ha, va=va, transform=ax.transAxes, color="white", fontsize=7, weight="bold")


def ratio_scale(cases: Sequence[np.ndarray]) -> LogNorm:
    """A logarithmic scale from 1 / r to r for multiples of 1 in several pictures; r has two digits and is at least 1.1.

    99 % of the values above 0 of the middle case lie within it. An odd case, such as a slice that only touches the
    brain, does not make the others pale.
    """
    present = [values[values > 0] for values in cases]
    reaches = [np.quantile(np.abs(np.log(values)), 0.99) for values in present if values.size]
    reach = float(np.exp(np.median(reaches))) if reaches else 1.0
    reach = max(float(f"{reach:.2g}"), 1.1)
    return LogNorm(1 / reach, reach)


def _contour(ax: Axes, mask: np.ndarray, color: str, width: float) -> None:
    # Padded, so that a region that reaches the picture's edge is closed there.
    padded = np.pad(mask.astype(float), 1)
    rows, columns = (np.arange(-1, side + 1) for side in mask.shape)
    ax.contour(columns, rows, padded, levels=[0.5], colors=[color], linewidths=width)


def bounding_box(mask: Bool[np.ndarray, "d h w"], margin: int = 2) -> Box:
    """The box around the true voxels, with a margin; the whole volume where there are none."""
    if not mask.any():
        return slice(0, mask.shape[0]), slice(0, mask.shape[1]), slice(0, mask.shape[2])
    used = [np.flatnonzero(mask.any(axis=tuple({0, 1, 2} - {axis}))) for axis in range(3)]
    starts, stops = ([max(int(u[0]) - margin, 0) for u in used], [int(u[-1]) + 1 + margin for u in used])
    d, h, w = (slice(a, min(b, side)) for a, b, side in zip(starts, stops, mask.shape, strict=True))
    return d, h, w


def extents_mm(box: Box, spacing_mm: Spacing, views: Sequence[View]) -> list[tuple[float, float]]:
    """(width, height) of the cropped picture of each view."""
    sides = [(s.stop - s.start) * mm for s, mm in zip(box, spacing_mm, strict=True)]
    return [tuple(side for axis, side in enumerate(sides) if axis != view.axis) for view in views]  # pyright: ignore
