"""Small pictures and tables of results for notebooks, as pieces of HTML."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from html import escape
from pathlib import Path
from tempfile import TemporaryDirectory

import numpy as np
from jaxtyping import Integer, Shaped

from jaxfuse.labels import LabelScheme
from jaxfuse.report.contours import FILLED, overlay_of
from jaxfuse.report.embedded import data_uri
from jaxfuse.report.figures import segmentation_panel
from jaxfuse.report.planes import AXIAL, plane

_NUMBERS = 'style="text-align: right"'


def three_planes(
    images: Mapping[str, Shaped[np.ndarray, "d h w"]],
    labels: Mapping[str, Integer[np.ndarray, "d h w"]],
    scheme: LabelScheme | None,
    *,
    title: str,
    spacing_mm: tuple[float, ...],
) -> str:
    """Draws volumes on their canonical axes in three planes, as an image of a page.

    Args:
        images: by name; label maps lie over the last one.
        labels: class indices by name, of the scheme.
    """
    image = np.stack([np.asarray(one, np.float32) for one in images.values()], axis=-1)
    image, maps = np.where(np.isfinite(image), image, 0), dict(labels)
    if image.shape[2] == 1:
        image, spacing_mm = plane(image, AXIAL, 0), (spacing_mm[1], spacing_mm[0])
        maps = {name: plane(one, AXIAL, 0) for name, one in maps.items()}
    with TemporaryDirectory() as folder:
        path = Path(folder) / "planes.png"
        segmentation_panel(
            path,
            image=image,
            modalities=[_literal(name) for name in images],
            truth=None,
            predictions=maps,
            classes=scheme.classes if scheme else ("background",),
            title=_literal(title),
            spacing_mm=spacing_mm,
            overlay=overlay_of(scheme) if scheme else FILLED,
        )
        return f'<img alt="{escape(title)}" src="{data_uri(path)}">'


def table(rows: Sequence[Mapping[str, object]]) -> str:
    """Renders rows of texts and numbers, the columns as those of the first one; nothing where there is none."""
    if not rows:
        return ""
    head = "".join(f"<th>{escape(str(name))}</th>" for name in rows[0])
    lines = ["".join(_cell(value) for value in row.values()) for row in rows]
    return f"<table><tr>{head}</tr>{''.join(f'<tr>{line}</tr>' for line in lines)}</table>"


def _cell(value: object) -> str:
    if isinstance(value, int | float):
        return f"<td {_NUMBERS}>{value:.4g}</td>"
    return f"<td>{value.__html__() if hasattr(value, '__html__') else escape(str(value))}</td>"  # pyright: ignore


def _literal(name: str) -> str:
    """The name in a figure, where dollar signs would else begin a formula."""
    return name.replace("$", r"\$")
