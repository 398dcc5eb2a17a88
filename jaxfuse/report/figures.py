"""Figures of a run, as PNG files: learning curves, segmentations, translations, rows side by side.

Volumes come in the canonical axes d h w = x (to the right), y (to the front), z (upward). They are drawn in the
radiological convention, upright: the patient's right is on the left of the picture, the front or the crown on top.
Voxels that are 0 in every real modality lie outside the brain and are drawn black.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from jaxtyping import Bool, Float, Integer
from matplotlib.axes import Axes
from matplotlib.cm import ScalarMappable
from matplotlib.colors import Normalize, to_rgba
from matplotlib.figure import Figure
from matplotlib.lines import Line2D
from matplotlib.patches import Patch
from matplotlib.ticker import MaxNLocator

# Okabe and Ito's colors, told apart with any color vision; by class index, so that a class never changes its color.
CLASS_COLORS = ("#000000", "#D55E00", "#56B4E9", "#F0E442", "#CC79A7", "#009E73", "#E69F00", "#0072B2")
_LINES = ("#0072B2", "#D55E00", "#009E73", "#CC79A7", "#E69F00", "#56B4E9")
_STYLES = ("-", "--", ":", "-.")
_LOSSES, _VAL_LOSSES, _SCORES = "training losses", "validation losses", "validation scores"
_ERRORS = ("mae", "mse", "loss")
# Rows of the training split that are not losses: they would only flatten the others.
_NOT_LOSSES = ("lr", "learning_rate", "grad_norm", "seconds", "step_s", "steps_per_s", "examples_per_s", "wait_share")
_CONVENTION = "radiological convention: R = patient's right, on the left of the picture"
_COLUMN_INCH, _TOP_INCH, _BOTTOM_INCH = 1.55, 0.34, 0.5

Volume = Float[np.ndarray, "d h w"]
Volumes = Float[np.ndarray, "d h w m"]
Labels = Integer[np.ndarray, "d h w"]
Spacing = tuple[float, float, float]


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


def center_of(labels: Sequence[Labels | None], brain: Bool[np.ndarray, "d h w"]) -> tuple[int, int, int]:
    """Per axis the slice (middle one of equals) with most of the first label map that has any, else most brain."""
    masks = [label > 0 for label in labels if label is not None]
    mask = next((m for m in masks if m.any()), brain)
    areas = [mask.sum(axis=tuple({0, 1, 2} - {axis})) for axis in range(3)]
    x, y, z = (int(equals[len(equals) // 2]) for equals in (np.flatnonzero(a == a.max()) for a in areas))
    return x, y, z


def curves(rows: Sequence[Mapping[str, Any]], path: Path, *, dark: bool = False) -> None:
    """Draws metric rows ({"step", "phase", "split", name: value, ...}), one row of axes per phase.

    First the losses of the training split (faint: each row; solid: moving mean), then the validation values, one
    axes per kind of quantity. Names that differ only before their first "/" share a color and differ in line style.
    `dark` is for a dark page.
    """
    phases = list(dict.fromkeys(row["phase"] for row in rows))
    if not phases:
        raise ValueError("there are no metric rows to draw")
    groups = [_groups([row for row in rows if row["phase"] == phase]) for phase in phases]
    columns = max(1, *map(len, groups))
    figure = Figure(figsize=(3.7 * columns, 3.3 * len(phases)), layout="constrained", dpi=150)
    figure.patch.set_alpha(0.0)
    ink = "#d8dade" if dark else "#33363b"
    axes = figure.subplots(len(phases), columns, squeeze=False)
    for line, phase, group in zip(axes, phases, groups, strict=True):
        for ax in line[len(group) :]:
            ax.set_axis_off()
        for ax, (what, series) in zip(line, group.items(), strict=False):
            _curve_axes(ax, what, series, ink)
            ax.set_title(f"{phase}: {what} by step", loc="left", fontsize=9, color=ink, weight="bold")
    _save(figure, path)


Series = dict[str, tuple[np.ndarray, np.ndarray]]


def _groups(rows: Sequence[Mapping[str, Any]]) -> dict[str, Series]:
    """Series (steps, values) of one phase, by the axes that they belong to; values that are not finite are left out."""
    groups: dict[str, Series] = {}
    trained = {name for row in rows if row["split"] == "train" for name in row}
    for split in ("train", "val"):
        chosen = [row for row in rows if row["split"] == split]
        names = dict.fromkeys(name for row in chosen for name in row if name not in ("step", "phase", "split"))
        for name in names:
            points = np.array([(row["step"], row[name]) for row in chosen if name in row], dtype=float)
            steps, values = points[np.isfinite(points[:, 1])].T
            if len(steps) and not (split == "train" and name.rsplit("/", 1)[-1] in _NOT_LOSSES):
                # What has a training curve of the same name is a loss.
                held_out = _VAL_LOSSES if name in trained else _quantity(name, values)
                what = _LOSSES if split == "train" else held_out
                groups.setdefault(what, {})[name] = (steps, values)
    return groups


def _quantity(name: str, values: np.ndarray) -> str:
    """The kind of a validation value, by its unit or name, so that each kind has its own scale."""
    if "_mm" in name or "_db" in name:
        return "validation in mm" if "_mm" in name else "validation in dB"
    if any(word in name for word in _ERRORS):
        return "validation errors"
    return _SCORES if values.min() >= 0 and values.max() <= 1 else "validation, other"


def _curve_axes(ax: Axes, what: str, series: Series, ink: str) -> None:
    smooth = what == _LOSSES
    parts = {name: (name.partition("/")[0], name.partition("/")[2]) if "/" in name else ("", name) for name in series}
    owners = list(dict.fromkeys(owner for owner, _ in parts.values()))
    quantities = list(dict.fromkeys(quantity for _, quantity in parts.values()))
    for name, (steps, values) in series.items():
        owner, quantity = parts[name]
        turn, number = divmod(quantities.index(quantity), len(_LINES))
        color, style = _LINES[number], _STYLES[(owners.index(owner) + turn) % len(_STYLES)]
        window = max(1, len(values) // 25) if smooth else 1
        if window > 1:
            ax.plot(steps, values, color=color, alpha=0.2, linewidth=0.7)
        mean_steps, mean = (np.convolve(v, np.full(window, 1.0 / window), mode="valid") for v in (steps, values))
        look = {"color": color, "linestyle": style, "linewidth": 1.4, "marker": "o" if len(mean) < 25 else ""}
        ax.plot(mean_steps, mean, **look, markersize=2.5, label=f"{name}  {mean[-1]:.3g}")
    everything = np.concatenate([values for _, values in series.values()])
    if smooth and everything.min() > 0 and everything.max() > 50 * np.median(everything):
        ax.set_yscale("log")
    if what == _SCORES:
        ax.set_ylim(0, 1)
    ax.xaxis.set_major_locator(MaxNLocator(5, integer=True))
    ax.tick_params(labelsize=8, colors=ink, length=2)
    ax.grid(axis="y", color=ink, alpha=0.15, linewidth=0.6)
    ax.patch.set_alpha(0.0)
    ax.spines[["top", "right"]].set_visible(False)
    ax.spines[["left", "bottom"]].set_color(ink)
    # Below the axes, with the last value: ten names never hide a curve there.
    below = {"loc": "upper left", "bbox_to_anchor": (-0.12, -0.1), "ncols": 2, "columnspacing": 0.6}
    ax.legend(**below, fontsize=7, handlelength=2.3, frameon=False, labelcolor=ink)


def segmentation_panel(
    path: Path,
    *,
    image: Volumes,
    modalities: Sequence[str],
    truth: Labels | None,
    predictions: Mapping[str, Labels],
    classes: Sequence[str],
    title: str,
    spacing_mm: Spacing = (1.0, 1.0, 1.0),
) -> None:
    """Three planes through the tumor: every modality, the truth, and each prediction with the truth's outline.

    Args:
        image: channels in the order of `modalities`; the last one lies under the label maps.
        truth: class indices, or None for an unlabelled case; the planes then follow the first prediction.
        predictions: name -> class indices, in the order of the columns.
        classes: class names by index; index 0 is the background.
    """
    legend = _class_legend(classes, outline=truth is not None)
    brain = (image != 0).any(axis=-1)
    center = center_of([truth, *predictions.values()], brain)
    box = _bounding_box(brain)
    maps = {**({"truth": truth} if truth is not None else {}), **predictions}
    headers = [*modalities, *maps]
    figure, axes = _panel_grid(_extents_mm(box, spacing_mm, VIEWS), len(headers))
    for ax, header in zip(axes[0], headers, strict=True):
        ax.set_title(header, fontsize=9, color="white", pad=3)
    for line, view in zip(axes, VIEWS, strict=True):
        show = _Plane(view, center[view.axis], box, spacing_mm)
        for channel in range(len(modalities)):
            show.grey(line[channel], image[..., channel], brain)
        for ax, (name, labels) in zip(line[len(modalities) :], maps.items(), strict=True):
            show.grey(ax, image[..., -1], brain)
            show.classes(ax, labels, len(classes))
            if truth is not None and name != "truth":
                show.outline(ax, truth)
        show.letters(line[0])
    voxel = f"planes at voxel {center[0]}, {center[1]}, {center[2]}"
    _finish(figure, path, title, legend, f"{voxel}; {_CONVENTION}")


def translation_panel(
    path: Path,
    *,
    real: Volumes,
    fake: Volumes,
    cycle: Volumes,
    modalities: Sequence[str],
    pairs: tuple[Sequence[str], Sequence[str]],
    title: str,
    spacing_mm: Spacing = (1.0, 1.0, 1.0),
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
    brain = (real != 0).any(axis=-1)
    box = _bounding_box(brain)
    show = _Plane(AXIAL, center_of([label], brain)[2], box, spacing_mm)
    errors = (np.abs(fake - real), np.abs(cycle - real))
    inside = np.concatenate([error[brain] for error in errors])
    norm = Normalize(0.0, max(float(np.quantile(inside, 0.99)), 1e-12) if inside.size else 1.0)
    lines = [("A", "B", *couple) for couple in zip(*pairs, strict=True)]
    lines += [("B", "A", target, source) for _, _, source, target in lines]
    figure, axes = _panel_grid(_extents_mm(box, spacing_mm, [AXIAL] * len(lines)), 6, right_inch=0.8)
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
    _finish(figure, path, title, [], f"{groups}; {_CONVENTION}")


def comparison(
    path: Path,
    *,
    image: Volume,
    modality: str,
    truth: Labels,
    predictions: Mapping[str, Labels],
    classes: Sequence[str],
    title: str,
    spacing_mm: Spacing = (1.0, 1.0, 1.0),
) -> None:
    """One axial slice: the image (`modality` is its name), the truth, and one prediction per row of a table."""
    legend = _class_legend(classes, outline=True)
    brain = image != 0
    box = _bounding_box(brain)
    show = _Plane(AXIAL, center_of([truth, *predictions.values()], brain)[2], box, spacing_mm)
    cells: list[tuple[str, Labels | None]] = [(modality, None), ("truth", truth), *predictions.items()]
    columns = min(6, len(cells))
    lines = -(-len(cells) // columns)
    figure, axes = _panel_grid(_extents_mm(box, spacing_mm, [AXIAL] * lines), columns)
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
    _finish(figure, path, title, legend, f"axial slice {show.index}; {_CONVENTION}")


Box = tuple[slice, slice, slice]


@dataclass(frozen=True)
class _Plane:
    """One slice of a canonical volume, cropped to `box`, and how layers are drawn on it."""

    view: View
    index: int
    box: Box
    spacing_mm: Spacing

    def cut(self, volume: np.ndarray) -> np.ndarray:
        cropped = tuple(slice(None) if axis == self.view.axis else self.box[axis] for axis in range(3))
        return plane(volume[cropped], self.view, self.index)

    def _show(self, ax: Axes, picture: np.ndarray, **options: Any) -> None:
        across, up = (self.spacing_mm[axis] for axis in range(3) if axis != self.view.axis)
        ax.imshow(picture, interpolation="nearest", aspect=up / across, **options)
        ax.set_autoscale_on(False)  # or a contour at the edge would shift the picture against its neighbors

    def grey(self, ax: Axes, volume: Volume, brain: np.ndarray, like: Volume | None = None) -> None:
        """The volume in the grey scale (0.5 to 99.5 % inside the brain) of `like`, or its own."""
        inside = (volume if like is None else like)[brain]
        low, high = np.quantile(inside, (0.005, 0.995)) if inside.size else (0.0, 1.0)
        picture = np.where(self.cut(brain), self.cut(volume), low)
        self._show(ax, picture, cmap="gray", vmin=low, vmax=max(high, low + 1e-12))

    def error(self, ax: Axes, volume: Volume, brain: np.ndarray, norm: Normalize) -> None:
        self._show(ax, np.where(self.cut(brain), self.cut(volume), 0.0), cmap="inferno", norm=norm)

    def classes(self, ax: Axes, labels: Labels, count: int) -> None:
        """Each class filled in its color, half transparent, with a solid border."""
        picture = self.cut(labels)
        colors = np.array([to_rgba(CLASS_COLORS[i], 0.5 if i else 0.0) for i in range(count)])
        self._show(ax, colors[picture])
        for index in range(1, count):
            if (picture == index).any():
                _contour(ax, picture == index, CLASS_COLORS[index], 0.7)

    def outline(self, ax: Axes, labels: Labels) -> None:
        """A white line around the whole foreground."""
        if (picture := self.cut(labels) > 0).any():
            _contour(ax, picture, "black", 1.8)
            _contour(ax, picture, "white", 0.9)

    def letters(self, ax: Axes) -> None:
        left, right, top, bottom = self.view.letters
        places = ((0.02, 0.5, left, "left", "center"), (0.98, 0.5, right, "right", "center"))
        places += ((0.5, 0.98, top, "center", "top"), (0.5, 0.02, bottom, "center", "bottom"))
        for x, y, letter, ha, va in places:
            ax.text(x, y, letter, ha=ha, va=va, transform=ax.transAxes, color="white", fontsize=7, weight="bold")


def _contour(ax: Axes, mask: np.ndarray, color: str, width: float) -> None:
    # Padded, so that a region that reaches the picture's edge is closed there.
    padded = np.pad(mask.astype(float), 1)
    rows, columns = (np.arange(-1, side + 1) for side in mask.shape)
    ax.contour(columns, rows, padded, levels=[0.5], colors=[color], linewidths=width)


def _bounding_box(mask: Bool[np.ndarray, "d h w"], margin: int = 2) -> Box:
    if not mask.any():
        return slice(0, mask.shape[0]), slice(0, mask.shape[1]), slice(0, mask.shape[2])
    used = [np.flatnonzero(mask.any(axis=tuple({0, 1, 2} - {axis}))) for axis in range(3)]
    starts, stops = ([max(int(u[0]) - margin, 0) for u in used], [int(u[-1]) + 1 + margin for u in used])
    d, h, w = (slice(a, min(b, side)) for a, b, side in zip(starts, stops, mask.shape, strict=True))
    return d, h, w


def _extents_mm(box: Box, spacing_mm: Spacing, views: Sequence[View]) -> list[tuple[float, float]]:
    """(width, height) of the cropped picture of each view."""
    sides = [(s.stop - s.start) * mm for s, mm in zip(box, spacing_mm, strict=True)]
    return [tuple(side for axis, side in enumerate(sides) if axis != view.axis) for view in views]  # pyright: ignore


def _panel_grid(extents: Sequence[tuple[float, float]], columns: int, right_inch: float = 0) -> tuple[Figure, Any]:
    """A black figure with one line of axes per extent, as high as its picture is, and so many columns.

    `right_inch` is kept free for a color bar; the title and the legend have their own strips above and below.
    """
    widest = max(across for across, _ in extents)
    heights = [up / widest for _, up in extents]
    width = _COLUMN_INCH * columns + right_inch
    height = _COLUMN_INCH * sum(heights) + 0.2 * len(heights) + _TOP_INCH + _BOTTOM_INCH
    figure = Figure(figsize=(width, height), layout="constrained", dpi=130, facecolor="black")
    rect = (0.0, _BOTTOM_INCH / height, 1.0, 1.0 - (_TOP_INCH + _BOTTOM_INCH) / height)
    figure.set_layout_engine("constrained", w_pad=0.01, h_pad=0.01, wspace=0.01, hspace=0.01, rect=rect)
    axes = figure.subplots(len(heights), columns, squeeze=False, height_ratios=heights)
    for ax in axes.flat:
        ax.set_axis_off()
    return figure, axes


def _class_legend(classes: Sequence[str], *, outline: bool) -> list[Patch | Line2D]:
    if len(classes) > len(CLASS_COLORS):
        raise ValueError(f"label maps of at most {len(CLASS_COLORS)} classes can be drawn, got {len(classes)}")
    pairs = list(zip(CLASS_COLORS, classes, strict=False))[1:]
    handles: list[Patch | Line2D] = [Patch(facecolor=color, label=name) for color, name in pairs]
    if outline:
        handles.append(Line2D([], [], color="white", linewidth=1.0, label="outline of the truth"))
    return handles


def _finish(figure: Figure, path: Path, title: str, handles: Sequence[Patch | Line2D], note: str) -> None:
    width, height = figure.get_size_inches()
    left = 0.08 / width
    figure.text(left, 1 - 0.08 / height, title, fontsize=10, color="white", weight="bold", va="top")
    figure.text(left, 0.06 / height, note, fontsize=7, color="#b0b0b0", va="bottom")
    if handles:
        place = {"loc": "lower left", "bbox_to_anchor": (left, 0.18 / height), "borderpad": 0.2, "borderaxespad": 0.0}
        figure.legend(handles=list(handles), ncols=len(handles), fontsize=8, frameon=False, labelcolor="white", **place)
    _save(figure, path)


def _save(figure: Figure, path: Path) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    figure.savefig(path, format="png")
