"""The figure of a case that was scored, for a page."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from tempfile import TemporaryDirectory

import numpy as np

from jaxfuse.labels import LabelScheme
from jaxfuse.report.contours import overlay_of
from jaxfuse.report.embedded import data_uri
from jaxfuse.report.figures import segmentation_panel
from jaxfuse.report.pictured import Pictured
from jaxfuse.report.planes import AXIAL, plane

_HEADER = 20  # characters that fit above a picture


def panel(case: str, shown: Pictured, scheme: LabelScheme) -> str:
    """The address of a figure of three planes: the image, the truth, and each method with the outline of the truth."""
    # Without an image all of the picture is as dark.
    image = shown.shown.astype(np.float32) if shown.image is None else shown.image.astype(np.float32)
    modalities = () if shown.image is None else (shown.beneath,)
    truth, maps = shown.truth, dict(zip(_headers(list(shown.predictions)), shown.predictions.values(), strict=True))
    spacing: tuple[float, ...] = shown.spacing_mm
    image = np.where(np.isfinite(image), image, 0)[..., None]
    if image.shape[2] == 1:
        # A single slice is a picture, which has no other planes.
        image, truth, spacing = plane(image, AXIAL, 0), plane(truth, AXIAL, 0), (spacing[1], spacing[0])
        maps = {name: plane(labels, AXIAL, 0) for name, labels in maps.items()}
    with TemporaryDirectory() as folder:
        path = Path(folder) / "panel.png"
        segmentation_panel(
            path,
            image=image,
            modalities=modalities,
            truth=truth,
            predictions=maps,
            classes=scheme.classes,
            title=_literal(case),
            spacing_mm=spacing,
            overlay=overlay_of(scheme),
        )
        return data_uri(path)


def _headers(names: Sequence[str]) -> list[str]:
    """The names of methods above their pictures, short, and numbered where that would leave two alike."""
    short = [name if len(name) <= _HEADER else f"{name[: _HEADER - 1]}…" for name in names]
    if len({"truth", *short}) <= len(short):
        short = [f"{number}. {name}" for number, name in enumerate(short, start=1)]
    return [_literal(name) for name in short]


def _literal(name: str) -> str:
    """The name in a figure, where dollar signs would else begin a formula."""
    return name.replace("$", r"\$")
