"""Contact sheet of one slice of a fused data set: its sources and mask, and every fused combination."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path

import numpy as np
from jaxtyping import Integer, UInt8
from matplotlib.colors import to_rgba

from jaxfuse.report.canvas import CLASS_COLORS, class_legend, finish, panel_grid

Levels = UInt8[np.ndarray, "r c"]
_MARGIN = 2  # pixels around the brain


def contact_sheet(
    path: Path,
    *,
    sources: Mapping[str, Levels],
    mask: Integer[np.ndarray, "r c"] | None,
    fused: Mapping[tuple[str, ...], Levels],
    classes: Sequence[str],
    title: str,
    note: str,
) -> None:
    """Draws sources and mask in the first line, pairs in the second, larger combinations below.

    All pictures have one gray scale, 0 to 255, and are cropped to where any source is not 0.

    Args:
        sources: modality -> gray levels.
        mask: class indices, drawn over the last source; None leaves its place empty.
        fused: combination -> gray levels.
        classes: class names by index; index 0 is the background.
    """
    pairs, larger = [], []
    for combo, levels in sorted(fused.items(), key=lambda item: len(item[0])):
        (pairs if len(combo) == 2 else larger).append(("+".join(combo), levels))
    columns = max(len(sources) + (mask is not None), len(pairs))
    lines = [list(sources.items()), *([pairs] if pairs else [])]
    lines += [larger[start : start + columns] for start in range(0, len(larger), columns)]
    box = _box(np.any(list(sources.values()), axis=0))
    height, width = (side.stop - side.start for side in box)
    figure, axes = panel_grid([(width, height)] * len(lines), columns)
    for line, cells in zip(axes, lines, strict=True):
        for ax, (name, levels) in zip(line, cells, strict=False):
            ax.imshow(levels[box], cmap="gray", vmin=0, vmax=255, interpolation="nearest")
            ax.set_title(name, fontsize=8, color="white", pad=3)
    if mask is not None:
        colors = np.array([to_rgba(CLASS_COLORS[i], 0.6 if i else 0.0) for i in range(len(classes))])
        ax = axes[0, len(sources)]
        ax.imshow(list(sources.values())[-1][box], cmap="gray", vmin=0, vmax=255, interpolation="nearest")
        ax.imshow(colors[mask[box]], interpolation="nearest")
        ax.set_title("mask", fontsize=8, color="white", pad=3)
    legend = class_legend(classes, outline=False) if mask is not None else []
    finish(figure, path, title, legend, note)


def _box(inside: np.ndarray) -> tuple[slice, slice]:
    sides = []
    for axis, length in enumerate(inside.shape):
        used = np.flatnonzero(inside.any(axis=1 - axis))
        first, last = (int(used[0]), int(used[-1])) if used.size else (0, length - 1)
        sides.append(slice(max(first - _MARGIN, 0), min(last + 1 + _MARGIN, length)))
    return sides[0], sides[1]
