"""Cases: what a source finds on disk, what a reader makes of it, and how subjects are split."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from jaxtyping import Float, UInt8


@dataclass(frozen=True)
class CaseFiles:
    """Where one case lies: `images` by canonical modality name, `label` or None, `group` for stratified splits."""

    id: str
    images: Mapping[str, Path]
    label: Path | None = None
    group: str = ""


@dataclass(frozen=True)
class Case:
    """One case in memory, reoriented to the canonical axes (RAS+).

    Attributes:
        image: intensities as stored, channels in the order of `modalities`.
        label: class indices of the label scheme, or None for an unlabelled case.
        affine: 4 x 4, voxel to world in mm, of the canonical array.
        spacing_mm: voxel sides per array axis.
    """

    id: str
    modalities: tuple[str, ...]
    image: Float[np.ndarray, "d h w m"]
    label: UInt8[np.ndarray, "d h w"] | None
    affine: Float[np.ndarray, "4 4"]
    spacing_mm: tuple[float, float, float]
