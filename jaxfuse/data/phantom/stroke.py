"""Phantom strokes in thick axial slices, T2 and diffusion-weighted, and the data set of them in folders of cases.

A diffusion-weighted image is a T2-weighted one (b = 0) times exp(-b ADC). An acute infarct holds back diffusion: its
ADC falls by a third to a half while its T2 rises little (Warach et al., Ann Neurol 37:231, 1995), so it is bright at
b = 1000 s/mm2. Three mimics are bright there too:

* T2 shine-through: old lesions of long T2 and raised ADC, bright on T2 and at b = 0 and mildly bright at b = 1000.
* Cortex, whose T2 is longer than that of white matter.
* Pile-up of signal near the base of the skull, in the echo-planar images only, equal at b = 0 and b = 1000.

Only b = 1000 against b = 0 and T2 tells them from the infarct. ADC of healthy tissue in 1e-3 mm2/s: gray matter 0.83,
white matter 0.75, fluid 3.0, within the ranges of Helenius et al. (AJNR 23:194, 2002) and of water at body temperature.
Those of disease are set between these by the order that radiology knows.

Slices are thick: the anatomy is drawn on voxels of the in-plane size and averaged along the slice axis, so that
lesions and mimics have partial volume. `make_stroke` is a pure function of (seed, index, grid).
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from jaxtyping import Bool, Float, Shaped, UInt8

from jaxfuse.data.phantom.anatomy import Anatomy, Position, draw_anatomy, draw_head, head_position
from jaxfuse.data.phantom.fields import Grid, Volume, ellipsoid_mm, smooth_field
from jaxfuse.data.phantom.signal import TISSUES_3T, Sequence, Tissue, rician, spin_echo
from jaxfuse.data.phantom.writing import VolumePhantoms, check_view, write_nifti

VERSION = 1
MODALITIES = ("t2", "dwi_b1000", "dwi_b0")
# A head with its tilt in the plane, and what the slices share: 32 slices of 5 mm.
FIELD_OF_VIEW_MM = (160.0, 184.0)
SLAB_MM = 160.0

_STREAMS = ("head", "position", "folds", "lesion", "mimics", "pile-up", "tissue", "acquisition", "noise")
_T2 = Sequence(5000, 100)
ECHO_PLANAR = Sequence(6000, 90)
B_S_MM2 = 1000.0
ADC_MM2_S: Mapping[str, float] = {"fluid": 3.0e-3, "gray": 0.83e-3, "white": 0.75e-3, "deep gray": 0.78e-3}


@dataclass(frozen=True)
class Spot:
    """A rough ellipsoid of one tissue; lengths in mm, head coordinates."""

    center: tuple[float, float, float]
    semi_mm: tuple[float, float, float]
    tissue: Tissue
    adc_mm2_s: float


def draw_infarct(rng: np.random.Generator) -> tuple[Spot, ...]:
    """One infarct: its main part in the territory of the middle cerebral artery, and up to 3 satellites."""
    tissue = Tissue(1500, float(rng.uniform(100, 135)), 0.87)
    adc = float(rng.uniform(0.42, 0.60) * 1e-3)
    side = float(rng.choice([-1.0, 1.0]))
    center = np.array([side * rng.uniform(22, 46), rng.uniform(-40, 35), rng.uniform(0, 34)])
    radius = math.exp(rng.uniform(math.log(13), math.log(26)))
    spots = [Spot(_triple(center), _triple(radius * rng.uniform(0.75, 1.3, 3)), tissue, adc)]
    for _ in range(int(rng.integers(0, 4))):
        direction = rng.standard_normal(3)
        away = center + direction / np.linalg.norm(direction) * (radius + rng.uniform(6, 14))
        spots.append(Spot(_triple(away), _triple(rng.uniform(5, 9) * rng.uniform(0.8, 1.25, 3)), tissue, adc))
    return tuple(spots)


def draw_shine_through(rng: np.random.Generator) -> tuple[Spot, ...]:
    """Two to five old lesions, each with its own long T2 and raised ADC."""
    spots = []
    for _ in range(int(rng.integers(2, 6))):
        place = rng.standard_normal(3)
        place *= rng.uniform(0.35, 0.8) / np.linalg.norm(place)
        center = np.array([58 * place[0], 72 * place[1], 10 + 38 * place[2]])
        semi = rng.uniform(6, 13) * rng.uniform(0.75, 1.3, 3)
        tissue = Tissue(1700, float(rng.uniform(170, 300)), 0.9)
        spots.append(Spot(_triple(center), _triple(semi), tissue, float(rng.uniform(0.90, 1.2) * 1e-3)))
    return tuple(spots)


def make_stroke(
    seed: int, index: int, *, shape: tuple[int, int, int] = (64, 64, 16), spacing_mm: float = 3.0
) -> tuple[dict[str, Float[np.ndarray, "d h w"]], UInt8[np.ndarray, "d h w"]]:
    """One phantom stroke.

    Args:
        seed, index: which case.
        shape, spacing_mm: voxels per axis, LPS, and their sides in the plane; the slices share `SLAB_MM`.

    Returns:
        Images by modality, arbitrary units, exactly 0 outside the brain and at least 1 inside; and the label: 1 in
        voxels of which the infarct fills more than half.

    Raises:
        UserError: the field of view does not hold a head.
    """
    check_view(shape, spacing_mm, FIELD_OF_VIEW_MM)
    fine = Grid((shape[0], shape[1], math.ceil(SLAB_MM / spacing_mm)), spacing_mm)
    thick = _averaging(fine.shape[2], spacing_mm, shape[2])
    head = draw_head(_stream(seed, index, "head"))
    position = head_position(_stream(seed, index, "position"), fine, head)
    anatomy = draw_anatomy(_stream(seed, index, "folds"), fine, head, position)
    lesion = _stream(seed, index, "lesion")
    infarct = draw_infarct(lesion)
    share = spot_share(lesion, fine, anatomy, position, infarct)
    old = _stream(seed, index, "mimics")
    mimics = [(spot_share(old, fine, anatomy, position, [spot]), spot) for spot in draw_shine_through(old)]
    # What is in a voxel, later ones displacing earlier ones: shares, tissues and diffusion.
    parts = [*mimics, (share, infarct[0])]
    brain = _thin(anatomy.brain.astype(np.float32), thick) > 0.5
    signals = _signals(_stream(seed, index, "tissue"), anatomy, parts)
    piled_up = pile_up(_stream(seed, index, "pile-up"), fine, anatomy)
    for modality in ("dwi_b1000", "dwi_b0"):
        signals[modality] = signals[modality] * piled_up
    scanner, noise = _stream(seed, index, "acquisition"), _stream(seed, index, "noise")
    images = {m: _acquired(scanner, noise, fine, signals[m], thick, brain) for m in MODALITIES}
    label = ((_thin(share, thick) > 0.5) & brain).astype(np.uint8)
    return images, label


def spot_share(
    rng: np.random.Generator,
    grid: Grid,
    anatomy: Anatomy,
    position: Position,
    spots: tuple[Spot, ...] | list[Spot],
) -> Volume:
    """Share of each voxel that lies in one of the spots; fluid is spared."""
    inside = np.max([ellipsoid_mm(position, spot.center, spot.semi_mm) for spot in spots], axis=0)
    rough = np.float32(1.8) * smooth_field(rng, grid, 12.0) + np.float32(0.8) * smooth_field(rng, grid, 6.0)
    return grid.occupancy(inside + rough) * (1 - anatomy.fractions["fluid"]) * anatomy.brain


def pile_up(rng: np.random.Generator, grid: Grid, anatomy: Anatomy) -> Volume:
    """Factor of the echo-planar images: up to 2 in patches near the base of the brain."""
    _, _, up = anatomy.position
    low = np.clip((np.float32(-8) - up) / 25, 0, 1)
    return 1 + np.float32(rng.uniform(0.6, 1.0)) * low * np.clip(smooth_field(rng, grid, 18.0), 0, 1)


def contents(
    rng: np.random.Generator, anatomy: Anatomy, parts: list[tuple[Volume, Spot]]
) -> Iterator[tuple[Volume, Tissue, float]]:
    """Contents of the voxels: shares that sum to 1 in the head, each of a tissue, and its diffusion in mm2/s.

    Of `parts` later ones displace earlier ones, and all of them the healthy tissues, which vary by 4 %.
    """
    remaining = np.ones(anatomy.brain.shape, np.float32)
    for share, spot in reversed(parts):
        yield share * remaining, spot.tissue, spot.adc_mm2_s
        remaining = remaining * (1 - share)
    for name, share in anatomy.fractions.items():
        t1, t2, adc = np.exp(0.04 * np.clip(rng.standard_normal(3), -2, 2))
        tissue = TISSUES_3T[name]
        varied = Tissue(tissue.t1_ms * float(t1), tissue.t2_ms * float(t2), tissue.density)
        yield share * remaining, varied, ADC_MM2_S[name] * float(adc)


def _signals(rng: np.random.Generator, anatomy: Anatomy, parts: list[tuple[Volume, Spot]]) -> dict[str, Volume]:
    """Noise-free signals by modality, on the fine grid."""
    signals = {modality: np.zeros(anatomy.brain.shape, np.float32) for modality in MODALITIES}
    for share, tissue, adc_mm2_s in contents(rng, anatomy, parts):
        t2, b0 = (
            float(spin_echo(tissue.density, tissue.t1_ms, tissue.t2_ms, tr_ms=s.tr_ms, te_ms=s.te_ms))
            for s in (_T2, ECHO_PLANAR)
        )
        for modality, level in (("t2", t2), ("dwi_b0", b0), ("dwi_b1000", b0 * math.exp(-B_S_MM2 * adc_mm2_s))):
            signals[modality] += share * np.float32(level)
    return signals


def _acquired(
    scanner: np.random.Generator,
    noise: np.random.Generator,
    fine: Grid,
    signal: Volume,
    thick: Float[np.ndarray, "slices fine"],
    brain: Bool[np.ndarray, "d h slices"],
) -> Float[np.ndarray, "d h slices"]:
    """The image of one modality: bias, thick slices, noise, units of its own, the brain cut out."""
    bias = np.exp(np.float32(scanner.uniform(0.05, 0.1)) * smooth_field(scanner, fine, 80.0))
    seen = _thin(signal * bias, thick)
    level = float(seen[brain].mean())
    gain = math.exp(scanner.uniform(math.log(200), math.log(600))) / level
    noisy = rician(seen, scanner.uniform(0.04, 0.06) * level, noise)
    return np.where(brain, np.maximum(noisy * gain, 1), 0).astype(np.float32)


def _averaging(count: int, spacing_mm: float, slices: int) -> Float[np.ndarray, "slices fine"]:
    """Weights of `count` thin layers in each of `slices` thick ones, both stacks centered; each row sums to 1."""
    low = (np.arange(count) - count / 2) * spacing_mm
    edges = (np.arange(slices + 1) / slices - 0.5) * SLAB_MM
    common = np.minimum(low + spacing_mm, edges[1:, None]) - np.maximum(low, edges[:-1, None])
    return (np.clip(common, 0, None) * slices / SLAB_MM).astype(np.float32)


def _thin(volume: Volume, thick: Float[np.ndarray, "slices fine"]) -> Float[np.ndarray, "d h slices"]:
    """The mean of a volume over each thick slice."""
    return volume @ thick.T


def _triple(values: Float[np.ndarray, " 3"]) -> tuple[float, float, float]:
    return float(values[0]), float(values[1]), float(values[2])


def _stream(seed: int, index: int, part: str) -> np.random.Generator:
    return np.random.default_rng((seed, index, _STREAMS.index(part)))


def _affine(shape: tuple[int, int, int], spacing_mm: float) -> Float[np.ndarray, "4 4"]:
    """Voxel to world in mm of an LPS array, the middle at the origin."""
    sides = np.array([-spacing_mm, -spacing_mm, SLAB_MM / shape[2]])
    affine = np.diag([*sides, 1.0])
    affine[:3, 3] = -sides * (np.array(shape) - 1) / 2
    return affine


def _place(index: int) -> Path:
    return Path(f"stroke_phantom_{index:03d}")


def _save(root: Path, index: int, arrays: Mapping[str, Shaped[np.ndarray, "d h w"]], grid: Grid) -> None:
    """Writes the files of a case into its folder."""
    folder = root / _place(index)
    folder.mkdir()
    for part, array in arrays.items():
        name = "lesion" if part == "label" else part
        write_nifti(folder / f"{folder.name}_{name}.nii.gz", array, _affine(grid.shape, grid.spacing_mm))


write_stroke_phantoms = VolumePhantoms(
    generator=__name__,
    version=VERSION,
    view_mm=FIELD_OF_VIEW_MM,
    shape=(64, 64, 16),
    spacing_mm=3.0,
    make=make_stroke,
    save=_save,
    place=_place,
)
