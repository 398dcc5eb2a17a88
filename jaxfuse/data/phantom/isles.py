"""Phantom strokes in T1, T2, DWI and FLAIR, and the data set of them in the layout of ISLES 2015 (SISS).

Heads, infarcts and old lesions are those of `jaxfuse.data.phantom.stroke`, drawn on cubic voxels: the images of that
challenge lie on one fine grid. DWI is echo-planar at b = 1000 s/mm2, with pile-up of signal near the base of the skull;
the other sequences are spin echoes.

`make_isles` is a pure function of (seed, index, grid).
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from pathlib import Path

import numpy as np
from jaxtyping import Bool, Float, Shaped, UInt8

from jaxfuse.data.phantom.anatomy import Anatomy, draw_anatomy, draw_head, head_position
from jaxfuse.data.phantom.brats import FIELD_OF_VIEW_MM
from jaxfuse.data.phantom.fields import Grid, Volume, smooth_field
from jaxfuse.data.phantom.signal import SEQUENCES, rician, sequence_signal
from jaxfuse.data.phantom.stroke import (
    B_S_MM2,
    ECHO_PLANAR,
    Spot,
    contents,
    draw_infarct,
    draw_shine_through,
    pile_up,
    spot_share,
)
from jaxfuse.data.phantom.writing import VolumePhantoms, check_view, write_nifti

VERSION = 1
MODALITIES = ("t1", "t2", "dwi", "flair")
FOLDER = "training"

_STREAMS = ("head", "position", "folds", "lesion", "mimics", "pile-up", "tissue", "acquisition", "noise")
_PARTS = {"t1": "MR_T1", "t2": "MR_T2", "dwi": "MR_DWI", "flair": "MR_Flair", "label": "OT"}
# The numbers of uploads, which go up from one file to the next.
_FIRST_UPLOAD = 70001


def make_isles(
    seed: int, index: int, *, shape: tuple[int, int, int] = (64, 64, 48), spacing_mm: float = 3.0
) -> tuple[dict[str, Float[np.ndarray, "d h w"]], UInt8[np.ndarray, "d h w"]]:
    """One phantom stroke.

    Args:
        seed, index: which case.
        shape, spacing_mm: the grid, LPS. The anatomy is drawn in mm: another grid shows the same head.

    Returns:
        Images by modality (t1, t2, dwi, flair), arbitrary units, exactly 0 outside the brain and at least 1 inside;
        and the label: 1 in voxels of which the infarct fills more than half.

    Raises:
        UserError: the field of view does not hold a head.
    """
    check_view(shape, spacing_mm, FIELD_OF_VIEW_MM)
    grid = Grid(shape, spacing_mm)
    head = draw_head(_stream(seed, index, "head"))
    position = head_position(_stream(seed, index, "position"), grid, head)
    anatomy = draw_anatomy(_stream(seed, index, "folds"), grid, head, position)
    lesion, old = _stream(seed, index, "lesion"), _stream(seed, index, "mimics")
    infarct = draw_infarct(lesion)
    share = spot_share(lesion, grid, anatomy, position, infarct)
    mimics = [(spot_share(old, grid, anatomy, position, [spot]), spot) for spot in draw_shine_through(old)]
    # What is in a voxel, later ones displacing earlier ones.
    signals = _signals(_stream(seed, index, "tissue"), anatomy, [*mimics, (share, infarct[0])])
    signals["dwi"] = signals["dwi"] * pile_up(_stream(seed, index, "pile-up"), grid, anatomy)
    scanner, noise = _stream(seed, index, "acquisition"), _stream(seed, index, "noise")
    images = {m: _acquired(scanner, noise, grid, signals[m], anatomy.brain) for m in MODALITIES}
    return images, ((share > 0.5) & anatomy.brain).astype(np.uint8)


def _signals(
    rng: np.random.Generator, anatomy: Anatomy, parts: list[tuple[Volume, Spot]]
) -> dict[str, Float[np.ndarray, "d h w"]]:
    """Noise-free signals by modality."""
    signals = {modality: np.zeros(anatomy.brain.shape, np.float32) for modality in MODALITIES}
    for share, tissue, adc_mm2_s in contents(rng, anatomy, parts):
        for modality, signal in signals.items():
            sequence = ECHO_PLANAR if modality == "dwi" else SEQUENCES[modality]
            level = float(sequence_signal(sequence, tissue.density, tissue.t1_ms, tissue.t2_ms))
            signal += share * np.float32(level * math.exp(-B_S_MM2 * adc_mm2_s) if modality == "dwi" else level)
    return signals


def _acquired(
    scanner: np.random.Generator,
    noise: np.random.Generator,
    grid: Grid,
    signal: Volume,
    brain: Bool[np.ndarray, "d h w"],
) -> Float[np.ndarray, "d h w"]:
    """The image of one modality: bias, noise, units of its own, the brain cut out."""
    level = float(signal[brain].mean())
    bias = np.exp(np.float32(scanner.uniform(0.05, 0.1)) * smooth_field(scanner, grid, 80.0))
    gain = math.exp(scanner.uniform(math.log(200), math.log(1000))) / level
    noisy = rician(signal * bias, scanner.uniform(0.03, 0.05) * level, noise)
    return np.where(brain, np.maximum(noisy * gain, 1), 0).astype(np.float32)


def _stream(seed: int, index: int, part: str) -> np.random.Generator:
    return np.random.default_rng((seed, index, _STREAMS.index(part)))


def _place(index: int) -> Path:
    return Path(FOLDER, str(index + 1))


def _save(root: Path, index: int, arrays: Mapping[str, Shaped[np.ndarray, "d h w"]], grid: Grid) -> None:
    """Writes the files of a case, each in a folder of its own name."""
    for number, (part, array) in enumerate(arrays.items(), start=_FIRST_UPLOAD + index * len(arrays)):
        name = f"VSD.Brain.XX.O.{_PARTS[part]}.{number}"
        folder = root / _place(index) / name
        folder.mkdir(parents=True)
        write_nifti(folder / f"{name}.nii", array, grid.affine())


write_isles_phantoms = VolumePhantoms(
    generator=__name__,
    version=VERSION,
    view_mm=FIELD_OF_VIEW_MM,
    shape=(64, 64, 48),
    spacing_mm=3.0,
    make=make_isles,
    save=_save,
    place=_place,
)
