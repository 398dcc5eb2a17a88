"""Runs that were never trained and small cases, for tests of commands that synthesize a modality."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import nibabel as nib
import numpy as np
from nibabel.orientations import axcodes2ornt, ornt_transform

from configs import cmff, hinet
from jaxfuse.recipes import volume_data
from tests.untrained_run import write_untrained_run

MODALITIES = ("t1", "t1ce", "t2", "flair")
RANGES = {"t1": (0.0, 500.0), "t1ce": (0.0, 600.0), "t2": (0.0, 700.0), "flair": (0.0, 800.0)}
SPACING_MM = (1.0, 1.5, 2.0)
TRAIN = {"Brats18_0_1_z010": "k"}


def synthesis_run(folder: Path, text: str = "tiny", *, seed: int = 0, **data: Any) -> Path:
    """A run of `configs/hinet.py`."""
    config = hinet.get_config(text)
    config.data.cache = str(folder / "cache")
    config.data.update(data)
    return write_untrained_run(folder, config, "synthesis", train=TRAIN, seed=seed, ranges=RANGES)


def labeling_run(folder: Path, modalities: Sequence[str] = MODALITIES, source: str = "slices", **data: Any) -> Path:
    """A run of a small 2D network that labels what BraTS labels."""
    config = cmff.get_config("tiny,row=voc")
    config.schedule = config.result = ("voc",)
    config.network.base = config.network.levels = 2
    config.voc.patch, config.voc.validation.tile_batch = (16, 16), 8
    config.voc.data = volume_data(source=source, modalities=tuple(modalities), cases=1, shape=(8, 8, 8), spacing_mm=1)
    config.voc.data.update({"cache": str(folder / "cache"), **data})
    return write_untrained_run(folder, config, "voc", train=TRAIN)


def head(shape: tuple[int, int, int], seed: int) -> dict[str, np.ndarray]:
    """Four modalities, from 100 to 400 in an ellipsoid, with a brighter ball in it, and 0 around."""
    rng = np.random.default_rng(seed)
    grid = np.moveaxis(np.indices(shape), 0, -1) - (np.array(shape) - 1) / 2
    brain = ((grid / (np.array(shape) / 2 - 1)) ** 2).sum(-1) < 1
    ball = ((grid / (np.array(shape) / 5)) ** 2).sum(-1) < 1
    made = {name: rng.integers(100, 200, shape) + 50 * number * ball for number, name in enumerate(MODALITIES, start=1)}
    return {name: np.where(brain, image, 0).astype(np.int16) for name, image in made.items()}


def save(path: Path, canonical: np.ndarray, axes: str = "RAS") -> None:
    """Writes an RAS array as stored along other axes."""
    affine = np.diag([*SPACING_MM, 1.0])
    affine[:3, 3] = (-7.0, 12.5, 3.25)
    change = ornt_transform(axcodes2ornt("RAS"), axcodes2ornt(tuple(axes)))
    image = nib.Nifti1Image(canonical, affine).as_reoriented(change)
    image.header["descrip"] = b"as the scanner wrote it"
    path.parent.mkdir(parents=True, exist_ok=True)
    image.to_filename(path)


def write_case(root: Path, name: str, images: Mapping[str, np.ndarray], axes: str = "RAS") -> Path:
    """A case in the form of BraTS; returns its folder."""
    for modality, image in images.items():
        save(root / name / f"{name}_{modality}.nii.gz", image, axes)
    return root / name
