"""Phantom gliomas in four modalities, and the data set of them in the layout of BraTS 2018.

`make_case` is a pure function of (seed, index, grid, grade). Each part of a case has its own random stream,
keyed by (seed, index, part), so that a change of one part leaves the draws of the others alone, and case i is
the same in a data set of any size.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import numpy as np
from jaxtyping import Float, Shaped, UInt8

from jaxfuse.data.phantom.anatomy import Anatomy, draw_anatomy, draw_head, head_position
from jaxfuse.data.phantom.fields import Grid, Volume, smooth_field
from jaxfuse.data.phantom.glioma import draw_glioma, glioma_maps
from jaxfuse.data.phantom.looks import PLAIN, Looks
from jaxfuse.data.phantom.mimics import bleedings, choroid_plexus, draw_mimics, gliosis, vessels
from jaxfuse.data.phantom.signal import (
    R1_BLOOD,
    R1_PLASMA,
    SCANNER_3T,
    SEQUENCES,
    Scanner,
    Tissue,
    flow_remaining,
    rician,
    sequence_signal,
    shortened_t1_ms,
)
from jaxfuse.data.phantom.writing import VolumePhantoms, check_view, write_nifti
from jaxfuse.errors import UserError

VERSION = 1
MODALITIES = ("flair", "t1", "t1ce", "t2")
FOLDER = "MICCAI_BraTS_2018_Data_Training"
# A head with its tilt, in mm per array axis.
FIELD_OF_VIEW_MM = (160.0, 184.0, 138.0)

_STREAMS = ("head", "position", "folds", "tumor", "tumor maps", "mimics", "tissue", "acquisition", "noise")

# Gadolinium in mmol/l some minutes after a standard dose, by tissue; the enhancing rim has its own map.
# Edema: its T1 then drops by the measured 123 +- 74 ms (see signal.py).
_CONCENTRATION_MMOL_L: Mapping[str, float] = {
    "blood": 0.5,
    "choroid plexus": 0.25,
    "edema": 0.010,
    "non-enhancing": 0.012,
    "necrosis": 0.010,
    "gray": 0.004,
    "deep gray": 0.004,
    "white": 0.002,
}
_BLOOD_VELOCITY_MM_S = 60.0
_SLICE_MM = 5.0


def _stream(seed: int, index: int, part: str) -> np.random.Generator:
    return np.random.default_rng((seed, index, _STREAMS.index(part)))


def is_low_grade(index: int, fraction: float) -> bool:
    """Whether case `index` is low-grade: the share among the first n cases is `fraction`, rounded down, for every n."""
    return math.floor((index + 1) * fraction + 1e-9) > math.floor(index * fraction + 1e-9)


def _take(fractions: dict[str, Volume], name: str, share: Volume) -> None:
    """Gives `share` of every voxel to `name`, at the cost of what is there in proportion."""
    for other in fractions:
        fractions[other] = fractions[other] * (1 - share)
    fractions[name] = fractions.get(name, np.float32(0)) + share


def _tissue_fractions(
    seed: int, index: int, grid: Grid, anatomy: Anatomy, tumor: dict[str, Volume], times_mimics: float
) -> dict[str, Volume]:
    """Shares of all tissues of a case; later ones displace earlier ones, and the shares keep their sum of 1."""
    rng = _stream(seed, index, "mimics")
    amounts = draw_mimics(rng, times=times_mimics)
    fractions = dict(anatomy.fractions)
    _take(fractions, "gliosis", gliosis(rng, grid, anatomy, amounts))
    _take(fractions, "choroid plexus", choroid_plexus(rng, grid, anatomy, amounts))
    spots = bleedings(rng, grid, anatomy, amounts)
    vascular = vessels(rng, grid, anatomy, amounts)
    present = sum(tumor.values())
    for name in fractions:
        fractions[name] = fractions[name] * (1 - present)
    fractions.update(tumor)
    # Tumors bleed, but push large vessels aside.
    _take(fractions, "methemoglobin", spots)
    _take(fractions, "blood", vascular * (1 - np.clip(present, 0, 1)))
    return fractions


def _case_tissues(rng: np.random.Generator, table: Mapping[str, Tissue]) -> dict[str, Tissue]:
    """The tissue table of one case: T1 and T2 vary by 4 %, those of diseased tissue by 5 %."""
    varied = {}
    for name, tissue in table.items():
        spread = 0.04 if name in ("fluid", "gray", "white", "deep gray", "blood") else 0.05
        t1, t2 = np.exp(spread * np.clip(rng.standard_normal(2), -2, 2))
        varied[name] = Tissue(tissue.t1_ms * float(t1), tissue.t2_ms * float(t2), tissue.density)
    return varied


def _modality_signal(
    modality: str, fractions: dict[str, Volume], tissues: dict[str, Tissue], rim_mmol_l: Volume
) -> Volume:
    """Noise-free signal of one modality: the sum over tissues of share times signal."""
    sequence = SEQUENCES[modality]
    total = np.zeros(rim_mmol_l.shape, np.float32)
    for name, share in fractions.items():
        where = np.nonzero(share)
        tissue = tissues[name]
        t1_ms: Any = tissue.t1_ms
        if modality == "t1ce":
            dose: Any = rim_mmol_l[where] if name == "enhancing" else _CONCENTRATION_MMOL_L.get(name, 0.0)
            t1_ms = shortened_t1_ms(tissue.t1_ms, dose, r1=R1_BLOOD if name == "blood" else R1_PLASMA)
        signal = sequence_signal(sequence, tissue.density, t1_ms, tissue.t2_ms)
        if name == "blood":
            signal *= flow_remaining(_BLOOD_VELOCITY_MM_S, te_ms=sequence.te_ms, slice_mm=_SLICE_MM)
        total[where] += share[where] * signal
    return total


def make_case(
    seed: int,
    index: int,
    *,
    shape: tuple[int, int, int] = (64, 64, 48),
    spacing_mm: float = 3.0,
    low_grade: bool = False,
    noise: bool = True,
    scanner: Scanner = SCANNER_3T,
    looks: Looks = PLAIN,
) -> tuple[dict[str, Float[np.ndarray, "d h w"]], UInt8[np.ndarray, "d h w"]]:
    """One phantom glioma.

    Args:
        seed, index: which case.
        shape, spacing_mm: the grid, LPS. The anatomy is drawn in mm: another grid shows the same head.
        low_grade: a tumor without enhancement.
        noise: without it, the same images as a scanner without noise would give them.
        scanner: by which they are taken; another one shows the same head.
        looks: how hard the tumor is to find, in the same head.

    Returns:
        Images by modality (flair, t1, t1ce, t2), arbitrary units, exactly 0 outside the brain and at least 1
        inside; and the label in the file values of BraTS 2018 (0, 1, 2, 4).

    Raises:
        UserError: the field of view does not hold a head.
    """
    check_view(shape, spacing_mm, FIELD_OF_VIEW_MM)
    grid = Grid(shape, spacing_mm)
    head = draw_head(_stream(seed, index, "head"))
    position = head_position(_stream(seed, index, "position"), grid, head)
    glioma = draw_glioma(_stream(seed, index, "tumor"), low_grade=low_grade, size=looks.size)
    anatomy = draw_anatomy(_stream(seed, index, "folds"), grid, head, position, glioma.displace)
    tumor = glioma_maps(_stream(seed, index, "tumor maps"), grid, anatomy, position, glioma)
    fractions = _tissue_fractions(seed, index, grid, anatomy, tumor.fractions, looks.mimics)
    rim_mmol_l = tumor.concentration_mmol_l * np.float32(looks.contrast)
    tissues = _case_tissues(_stream(seed, index, "tissue"), looks.faded(scanner.tissues))
    acquisition, thermal = _stream(seed, index, "acquisition"), _stream(seed, index, "noise")
    images = {}
    for modality in MODALITIES:
        signal = _modality_signal(modality, fractions, tissues, rim_mmol_l)
        level = float(signal[anatomy.brain].mean())
        bias = np.exp(np.float32(acquisition.uniform(*scanner.bias)) * smooth_field(acquisition, grid, 80.0))
        least, most = (math.log(gain) for gain in scanner.gain)
        gain = math.exp(acquisition.uniform(least, most)) / level
        sigma = acquisition.uniform(*scanner.noise) * level * looks.noise_scale
        measured = rician(signal * bias, sigma, thermal) if noise else signal * bias
        images[modality] = np.where(anatomy.brain, np.maximum(measured * gain, 1), 0).astype(np.float32)
    return images, tumor.label


def _place(index: int, fraction: float) -> Path:
    return Path(FOLDER, "LGG" if is_low_grade(index, fraction) else "HGG", f"Brats18_PHANTOM_{index:03d}_1")


def _phantoms(fraction: float, scanner: Scanner, looks: Looks) -> VolumePhantoms:
    """The data set by this scanner in which this share of cases has no enhancing tumor."""

    def make(seed: int, index: int, *, shape: tuple[int, int, int], spacing_mm: float) -> Any:
        drawn = {"low_grade": is_low_grade(index, fraction), "scanner": scanner, "looks": looks}
        return make_case(seed, index, shape=shape, spacing_mm=spacing_mm, **drawn)

    def save(root: Path, index: int, arrays: Mapping[str, Shaped[np.ndarray, "d h w"]], grid: Grid) -> None:
        folder = root / _place(index, fraction)
        folder.mkdir(parents=True)
        for part, array in arrays.items():
            name = "seg" if part == "label" else part
            write_nifti(folder / f"{folder.name}_{name}.nii.gz", array, grid.affine())

    other = looks.told | ({} if scanner == SCANNER_3T else {"scanner": repr(scanner)})
    return VolumePhantoms(
        generator=__name__,
        version=VERSION,
        view_mm=FIELD_OF_VIEW_MM,
        shape=(64, 64, 48),
        spacing_mm=3.0,
        make=make,
        save=save,
        place=lambda index: _place(index, fraction),
        options={"low_grade_fraction": float(fraction), **other},
    )


def write_brats_phantoms(
    root: Path,
    *,
    cases: int,
    seed: int,
    shape: tuple[int, int, int] = (64, 64, 48),
    spacing_mm: float = 3.0,
    low_grade_fraction: float = 0.2,
    scanner: Scanner = SCANNER_3T,
    looks: Looks = PLAIN,
    on_case: Callable[[int, int], None] | None = None,
) -> list[Path]:
    """Writes `cases` phantoms under `root` in the layout of BraTS 2018, or finds them there.

    Args:
        root, cases, seed, shape, spacing_mm, on_case: as of `VolumePhantoms`.
        low_grade_fraction: share of cases without enhancing tumor, in [0, 1].
        scanner: by which they are taken.
        looks: how hard the tumors are to find.

    Returns:
        The case folders, in the order of their index.

    Raises:
        UserError: `root` holds something else, or an argument is out of range.
    """
    if cases < 1 or seed < 0 or not 0 <= low_grade_fraction <= 1:
        raise UserError(
            "phantoms need at least 1 case, a seed of at least 0 and a low-grade fraction within 0 and 1;"
            f" came {cases}, {seed} and {low_grade_fraction}"
        )
    write = _phantoms(low_grade_fraction, scanner, looks)
    folders = write(root, cases=cases, seed=seed, shape=shape, spacing_mm=spacing_mm, on_case=on_case)
    if lost := [str(folder.relative_to(root)) for folder in folders if not folder.is_dir()]:
        raise UserError(f"{root} is not whole: {len(lost)} of {cases} cases are missing ({lost[0]} ...); delete it")
    return folders
