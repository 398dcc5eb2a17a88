"""Figures of single cases, as PNG files: segmentations, translations, rows side by side.

Volumes come in canonical axes (`jaxfuse.report.planes`); a 2D image is an axial slice that lies as it is to be drawn.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from jaxtyping import Float, Integer
from matplotlib.cm import ScalarMappable
from matplotlib.colors import Normalize
from matplotlib.figure import Figure

from jaxfuse.report.canvas import BAR_INCH, COLUMN_INCH, color_bar, finish, panel_grid
from jaxfuse.report.contours import FILLED, Overlay
from jaxfuse.report.planes import (
    AXIAL,
    CONVENTION,
    RATIO_COLORS,
    VIEWS,
    Plane,
    bounding_box,
    center_of,
    extents_mm,
    form_of,
)

Image = Float[np.ndarray, "*space"]
Channels = Float[np.ndarray, "*space m"]
Labels = Integer[np.ndarray, "*space"]


@dataclass(frozen=True)
class Ratios:
    """Multiples of 1 over the pixels of some modalities, each to be drawn below its modality, in one scale.

    Attributes:
        name: the title above each map.
        maps: modality -> its map, positive or 0.
        scale: logarithmic around 1 (`planes.ratio_scale`); values beyond it show its ends.
        meaning: the label of the color bar.
    """

    name: str
    maps: Mapping[str, Image]
    scale: Normalize
    meaning: str


def segmentation_panel(
    path: Path,
    *,
    image: Channels,
    modalities: Sequence[str],
    truth: Labels | None,
    predictions: Mapping[str, Labels],
    classes: Sequence[str],
    title: str,
    spacing_mm: tuple[float, ...] | None = None,
    below: Ratios | None = None,
    overlay: Overlay = FILLED,
) -> None:
    """Three planes through the tumor, or the one of a 2D case: modalities, truth, predictions with the truth's outline.

    Args:
        image: channels in the order of `modalities`; the last one lies under the label maps.
        truth: class indices, or None for an unlabeled case; the planes then follow the first prediction.
        predictions: name -> class indices, in the order of the columns.
        classes: class names by index; index 0 is the background.
        spacing_mm: voxel sides by axis; 1 mm where not given.
        below: gives each plane a second line, with these maps and the truth's outline.
        overlay: how label maps lie over the image.
    """
    legend = overlay.legend(classes, truth is not None)
    lift, views, sides = form_of(image.ndim - 1, spacing_mm)
    image, truth = lift(image), None if truth is None else lift(truth)
    predictions = {name: lift(labels) for name, labels in predictions.items()}
    brain = (image != 0).any(axis=-1)
    center = center_of([truth, *predictions.values()], brain)
    box = bounding_box(brain)
    maps = {**({"truth": truth} if truth is not None else {}), **predictions}
    figure, axes = _columns([*modalities, *maps], extents_mm(box, sides, views), below, overlay.column_inch)
    for cells, view in zip(axes, views, strict=True):
        show, line = Plane(view, center[view.axis], box, sides), cells[0]
        if below is not None:
            _ratios(show, dict(zip(modalities, cells[1], strict=False)), below, lift, brain, truth)
        for channel in range(len(modalities)):
            show.gray(line[channel], image[..., channel], brain)
        for ax, (name, labels) in zip(line[len(modalities) :], maps.items(), strict=True):
            show.gray(ax, image[..., -1], brain)
            overlay.draw(show, ax, labels, truth if name != "truth" else None, len(classes))
        show.letters(line[0])
    voxel = f"planes at voxel {center[0]}, {center[1]}, {center[2]}; " if views == VIEWS else ""
    finish(figure, path, title, legend, voxel + CONVENTION)


def _columns(
    headers: Sequence[str], extents: Sequence[tuple[float, float]], below: Ratios | None, column_inch: float
) -> tuple[Figure, np.ndarray]:
    """A figure with a column per header, and its axes (plane, line of the plane, column)."""
    lines = 1 if below is None else 2
    extents = [extent for extent in extents for _ in range(lines)]
    right = 0 if below is None else BAR_INCH
    figure, axes = panel_grid(extents, len(headers), right_inch=right, column_inch=column_inch)
    for ax, header in zip(axes[0], headers, strict=True):
        ax.set_title(header, fontsize=9, color="white", pad=3)
    if below is not None:
        color_bar(figure, axes, ScalarMappable(below.scale, RATIO_COLORS), below.meaning)
    return figure, axes.reshape(-1, lines, len(headers))


def _ratios(
    show: Plane,
    cells: Mapping[str, Any],
    below: Ratios,
    lift: Callable[[np.ndarray], np.ndarray],
    brain: np.ndarray,
    truth: Labels | None,
) -> None:
    """The maps in the cells of their modalities, with the outline of a truth that is lifted already."""
    for name, values in below.maps.items():
        cells[name].set_title(f"{below.name}: {name}", fontsize=8, color="white", pad=2)
        show.ratio(cells[name], lift(values), brain, below.scale)
        if truth is not None:
            show.outline(cells[name], truth)


def translation_panel(
    path: Path,
    *,
    real: Channels,
    fake: Channels,
    cycle: Channels,
    modalities: Sequence[str],
    pairs: tuple[Sequence[str], Sequence[str]],
    title: str,
    spacing_mm: tuple[float, ...] | None = None,
    label: Labels | None = None,
) -> None:
    """Both directions of a translation between two groups of modalities, on the axial slice with the most tumor.

    A line reads: real source, made target beside the real target, their absolute difference, the source made back
    and its difference. Each modality has one gray scale; the errors share one scale.

    Args:
        real, fake, cycle: channels in the order of `modalities`; fake: from the other group; cycle: there and back.
        pairs: modality names of group A and of group B; the two groups are equally large.
        label: class indices, to choose the slice by; None takes the slice with the most brain.
    """
    if len(pairs[0]) != len(pairs[1]) or sorted([*pairs[0], *pairs[1]]) != sorted(modalities):
        raise ValueError(f"two equal groups that make up {tuple(modalities)} were expected, got {pairs}")
    lift, _, sides = form_of(real.ndim - 1, spacing_mm)
    real, fake, cycle, label = lift(real), lift(fake), lift(cycle), None if label is None else lift(label)
    brain = (real != 0).any(axis=-1)
    box = bounding_box(brain)
    show = Plane(AXIAL, center_of([label], brain)[2], box, sides)
    errors = (np.abs(fake - real), np.abs(cycle - real))
    inside = np.concatenate([error[brain] for error in errors])
    norm = Normalize(0.0, max(float(np.quantile(inside, 0.99)), 1e-12) if inside.size else 1.0)
    lines = [("A", "B", *couple) for couple in zip(*pairs, strict=True)]
    lines += [("B", "A", target, source) for _, _, source, target in lines]
    figure, axes = panel_grid(extents_mm(box, sides, [AXIAL] * len(lines)), 6, right_inch=BAR_INCH)
    for line, (here, there, source, target) in zip(axes, lines, strict=True):
        s, t = (list(modalities).index(name) for name in (source, target))
        grays = {0: (real, s, f"real {here}"), 1: (fake, t, f"made {there}"), 2: (real, t, f"real {there}")}
        grays[4] = (cycle, s, f"back to {here}")
        for column, (volume, channel, what) in grays.items():
            show.gray(line[column], volume[..., channel], brain, like=real[..., channel])
            line[column].set_title(f"{what}: {modalities[channel]}", fontsize=8, color="white", pad=2)
        for column, volume, channel, what in ((3, errors[0], t, "|made − real|"), (5, errors[1], s, "|back − real|")):
            show.error(line[column], volume[..., channel], brain, norm)
            mean = f", mean {volume[..., channel][brain].mean():.3f}" if brain.any() else ""
            line[column].set_title(what + mean, fontsize=8, color="white", pad=2)
    show.letters(axes[0, 0])
    color_bar(figure, axes, ScalarMappable(norm, "inferno"), "absolute error, in units of the images")
    groups = f"A = {' + '.join(pairs[0])}, B = {' + '.join(pairs[1])}; means over the whole brain"
    finish(figure, path, title, [], f"{groups}; {CONVENTION}")


def comparison(
    path: Path,
    *,
    image: Image,
    modality: str,
    truth: Labels,
    predictions: Mapping[str, Labels],
    classes: Sequence[str],
    title: str,
    spacing_mm: tuple[float, ...] | None = None,
    overlay: Overlay = FILLED,
) -> None:
    """One axial slice: the image (`modality` is its name), the truth, and one prediction per row of a table."""
    legend = overlay.legend(classes, True)
    lift, views, sides = form_of(image.ndim, spacing_mm)
    image, truth = lift(image), lift(truth)
    predictions = {name: lift(labels) for name, labels in predictions.items()}
    brain = image != 0
    box = bounding_box(brain)
    show = Plane(AXIAL, center_of([truth, *predictions.values()], brain)[2], box, sides)
    cells: list[tuple[str, Labels | None]] = [(modality, None), ("truth", truth), *predictions.items()]
    columns = min(int(6 * COLUMN_INCH / overlay.column_inch), len(cells))
    lines = -(-len(cells) // columns)
    figure, axes = panel_grid(extents_mm(box, sides, [AXIAL] * lines), columns, column_inch=overlay.column_inch)
    for ax in axes.flat[len(cells) :]:
        ax.set_visible(False)
    for ax, (name, labels) in zip(axes.flat, cells, strict=False):
        show.gray(ax, image, brain)
        ax.set_title(name, fontsize=9, color="white", pad=3)
        if labels is not None:
            overlay.draw(show, ax, labels, truth if name != "truth" else None, len(classes))
    show.letters(axes[0, 0])
    where = f"axial slice {show.index}; " if views == VIEWS else ""
    finish(figure, path, title, legend, where + CONVENTION)
