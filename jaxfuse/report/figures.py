"""Figures of single cases, as PNG files: segmentations, translations, rows side by side.

Volumes come in canonical axes (`jaxfuse.report.planes`); a 2D image is an axial slice that lies as it is to be drawn.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from pathlib import Path

import numpy as np
from jaxtyping import Float, Integer
from matplotlib.cm import ScalarMappable
from matplotlib.colors import Normalize

from jaxfuse.report.canvas import class_legend, finish, panel_grid
from jaxfuse.report.planes import (
    AXIAL,
    CONVENTION,
    VIEWS,
    Plane,
    Spacing,
    View,
    as_volume,
    bounding_box,
    center_of,
    extents_mm,
)

Image = Float[np.ndarray, "*space"]
Channels = Float[np.ndarray, "*space m"]
Labels = Integer[np.ndarray, "*space"]


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
) -> None:
    """Three planes through the tumor, or the one of a 2D case: modalities, truth, predictions with the truth's outline.

    Args:
        image: channels in the order of `modalities`; the last one lies under the label maps.
        truth: class indices, or None for an unlabelled case; the planes then follow the first prediction.
        predictions: name -> class indices, in the order of the columns.
        classes: class names by index; index 0 is the background.
        spacing_mm: voxel sides by axis; 1 mm where not given.
    """
    legend = class_legend(classes, outline=truth is not None)
    lift, views, sides = _form(image.ndim - 1, spacing_mm)
    image, truth = lift(image), None if truth is None else lift(truth)
    predictions = {name: lift(labels) for name, labels in predictions.items()}
    brain = (image != 0).any(axis=-1)
    center = center_of([truth, *predictions.values()], brain)
    box = bounding_box(brain)
    maps = {**({"truth": truth} if truth is not None else {}), **predictions}
    headers = [*modalities, *maps]
    figure, axes = panel_grid(extents_mm(box, sides, views), len(headers))
    for ax, header in zip(axes[0], headers, strict=True):
        ax.set_title(header, fontsize=9, color="white", pad=3)
    for line, view in zip(axes, views, strict=True):
        show = Plane(view, center[view.axis], box, sides)
        for channel in range(len(modalities)):
            show.grey(line[channel], image[..., channel], brain)
        for ax, (name, labels) in zip(line[len(modalities) :], maps.items(), strict=True):
            show.grey(ax, image[..., -1], brain)
            show.classes(ax, labels, len(classes))
            if truth is not None and name != "truth":
                show.outline(ax, truth)
        show.letters(line[0])
    voxel = f"planes at voxel {center[0]}, {center[1]}, {center[2]}; " if views == VIEWS else ""
    finish(figure, path, title, legend, voxel + CONVENTION)


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
    and its difference. Each modality has one grey scale; the errors share one scale.

    Args:
        real, fake, cycle: channels in the order of `modalities`; fake: from the other group; cycle: there and back.
        pairs: modality names of group A and of group B; the two groups are equally large.
        label: class indices, to choose the slice by; None takes the slice with the most brain.
    """
    if len(pairs[0]) != len(pairs[1]) or sorted([*pairs[0], *pairs[1]]) != sorted(modalities):
        raise ValueError(f"two equal groups that make up {tuple(modalities)} were expected, got {pairs}")
    lift, _, sides = _form(real.ndim - 1, spacing_mm)
    real, fake, cycle, label = lift(real), lift(fake), lift(cycle), None if label is None else lift(label)
    brain = (real != 0).any(axis=-1)
    box = bounding_box(brain)
    show = Plane(AXIAL, center_of([label], brain)[2], box, sides)
    errors = (np.abs(fake - real), np.abs(cycle - real))
    inside = np.concatenate([error[brain] for error in errors])
    norm = Normalize(0.0, max(float(np.quantile(inside, 0.99)), 1e-12) if inside.size else 1.0)
    lines = [("A", "B", *couple) for couple in zip(*pairs, strict=True)]
    lines += [("B", "A", target, source) for _, _, source, target in lines]
    figure, axes = panel_grid(extents_mm(box, sides, [AXIAL] * len(lines)), 6, right_inch=0.8)
    for line, (here, there, source, target) in zip(axes, lines, strict=True):
        s, t = (list(modalities).index(name) for name in (source, target))
        greys = {0: (real, s, f"real {here}"), 1: (fake, t, f"made {there}"), 2: (real, t, f"real {there}")}
        greys[4] = (cycle, s, f"back to {here}")
        for column, (volume, channel, what) in greys.items():
            show.grey(line[column], volume[..., channel], brain, like=real[..., channel])
            line[column].set_title(f"{what}: {modalities[channel]}", fontsize=8, color="white", pad=2)
        for column, volume, channel, what in ((3, errors[0], t, "|made − real|"), (5, errors[1], s, "|back − real|")):
            show.error(line[column], volume[..., channel], brain, norm)
            mean = f", mean {volume[..., channel][brain].mean():.3f}" if brain.any() else ""
            line[column].set_title(what + mean, fontsize=8, color="white", pad=2)
    show.letters(axes[0, 0])
    bar = figure.colorbar(ScalarMappable(norm, "inferno"), ax=axes, shrink=0.6, aspect=40, pad=0.01)
    bar.set_label("absolute error, in units of the images", color="white", fontsize=8)
    bar.ax.tick_params(colors="white", labelsize=7)
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
) -> None:
    """One axial slice: the image (`modality` is its name), the truth, and one prediction per row of a table."""
    legend = class_legend(classes, outline=True)
    lift, views, sides = _form(image.ndim, spacing_mm)
    image, truth = lift(image), lift(truth)
    predictions = {name: lift(labels) for name, labels in predictions.items()}
    brain = image != 0
    box = bounding_box(brain)
    show = Plane(AXIAL, center_of([truth, *predictions.values()], brain)[2], box, sides)
    cells: list[tuple[str, Labels | None]] = [(modality, None), ("truth", truth), *predictions.items()]
    columns = min(6, len(cells))
    lines = -(-len(cells) // columns)
    figure, axes = panel_grid(extents_mm(box, sides, [AXIAL] * lines), columns)
    for ax in axes.flat[len(cells) :]:
        ax.set_visible(False)
    for ax, (name, labels) in zip(axes.flat, cells, strict=False):
        show.grey(ax, image, brain)
        ax.set_title(name, fontsize=9, color="white", pad=3)
        if labels is not None:
            show.classes(ax, labels, len(classes))
            if name != "truth":
                show.outline(ax, truth)
    show.letters(axes[0, 0])
    where = f"axial slice {show.index}; " if views == VIEWS else ""
    finish(figure, path, title, legend, where + CONVENTION)


def _form(
    ndim: int, spacing_mm: tuple[float, ...] | None
) -> tuple[Callable[[np.ndarray], np.ndarray], tuple[View, ...], Spacing]:
    """How arrays of so many axes become volumes, which planes of them are shown, and their voxel sides."""
    if ndim == 3:
        x, y, z = spacing_mm or (1.0, 1.0, 1.0)
        return np.asarray, VIEWS, (x, y, z)
    rows, columns = spacing_mm or (1.0, 1.0)
    return as_volume, (AXIAL,), (columns, rows, 1.0)
