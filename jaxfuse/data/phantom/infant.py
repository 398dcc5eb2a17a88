"""Phantom infant heads at the isointense age, T1 and T2, and the data set of them in the layout of iSeg.

At six to eight months gray and white matter have nearly one gray value on T1- and on T2-weighted images alike, while
fluid stands out on T2 (Wang et al., IEEE Trans Med Imaging 38:2219, 2019, on iSeg-2017). What is drawn follows the
known course of myelination (Barkovich, J Inherit Metab Dis 28:311, 2005), by which T1 contrast ripens months before T2
contrast, in the back of the brain before the front and in the middle before the surface:

* White matter is drawn between two states by a smooth map of ripeness. Unripe, it has the T1 of gray matter and still
  a longer T2: no contrast on T1, slightly bright on T2. Ripe, T1 is shorter and T2 that of gray matter: slightly bright
  on T1, no contrast on T2.
* The water of the tissue varies by a few per cent on a scale of a centimeter and coarser, in gray and white matter
  alike. More water is longer T1 and T2, darker on T1 and brighter on T2: a swing as large as the contrast of the
  tissues, which hides them in either image. In the sum of both images it cancels, and ripe and unripe white matter
  stand out alike: the tissues differ jointly.

Relaxation times at that age have no single published table; they are set so that these statements hold, T2 of gray
matter above the adult's. Ratios are what counts.

`make_infant` is a pure function of (seed, index, grid); each part of a case has its own random stream.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from pathlib import Path

import numpy as np
from jaxtyping import Float, Shaped, UInt8

from jaxfuse.data.phantom.anatomy import Anatomy, Head, draw_anatomy, head_position
from jaxfuse.data.phantom.fields import Grid, Volume, smooth_field
from jaxfuse.data.phantom.signal import SEQUENCES, Tissue, rician, sequence_signal
from jaxfuse.data.phantom.writing import VolumePhantoms, check_view
from jaxfuse.io.analyze import write_analyze

VERSION = 1
MODALITIES = ("t1", "t2")
# A head of six months with its tilt, in mm per array axis.
FIELD_OF_VIEW_MM = (143.0, 164.0, 123.0)
# File values of iSeg.
CSF, GRAY, WHITE = 10, 150, 250

_STREAMS = ("head", "position", "folds", "water", "ripeness", "acquisition", "noise")
_FLUID = Tissue(4163, 503, 1.00)
_GRAY = Tissue(1650, 120, 0.88)
_UNRIPE = Tissue(1660, 133, 0.88)
_RIPE = Tissue(1460, 120, 0.87)
_WATER_SHARE = 0.07  # standard deviation of T1 and T2 by water
_BIAS = 0.02  # what bias correction leaves
_NOISE = (0.025, 0.035)


def draw_infant_head(rng: np.random.Generator) -> Head:
    """Draws size, pose, ventricles and folding at six months: seven eighths of the adult's size, wide outer fluid."""
    scale = rng.uniform(0.84, 0.90) * rng.uniform(0.98, 1.02, 3)
    return Head(
        scale=(float(scale[0]), float(scale[1]), float(scale[2])),
        offset_mm=(float(rng.uniform(-2, 2)), float(rng.uniform(-2, 2)), float(rng.uniform(-2, 2))),
        angles=(float(rng.normal(0, 0.05)), float(rng.normal(0, 0.04)), float(rng.normal(0, 0.06))),
        warp_mm=float(rng.uniform(1.5, 2.5)),
        ventricles=float(rng.uniform(0.8, 1.15)),
        ventricle_asymmetry=float(rng.uniform(-0.15, 0.15)),
        cortex_mm=float(rng.uniform(3.0, 3.6)),
        sulcus_mm=float(rng.uniform(1.4, 2.2)),
        fissure_mm=float(rng.uniform(2.5, 4.0)),
    )


def make_infant(
    seed: int, index: int, *, shape: tuple[int, int, int] = (64, 72, 56), spacing_mm: float = 2.3
) -> tuple[dict[str, Float[np.ndarray, "d h w"]], UInt8[np.ndarray, "d h w"]]:
    """One phantom infant.

    Args:
        seed, index: which case.
        shape, spacing_mm: the grid, RAS. The anatomy is drawn in mm: another grid shows the same head.

    Returns:
        T1 and T2 images, arbitrary units, exactly 0 outside the brain and at least 1 inside; and the label in the
        file values of iSeg (0, 10 fluid, 150 gray matter, 250 white matter), each voxel by what fills most of it.

    Raises:
        UserError: the field of view does not hold a head.
    """
    check_view(shape, spacing_mm, FIELD_OF_VIEW_MM)
    grid = Grid(shape, spacing_mm)
    head = draw_infant_head(_stream(seed, index, "head"))
    position = head_position(_stream(seed, index, "position"), grid, head)
    anatomy = draw_anatomy(_stream(seed, index, "folds"), grid, head, position)
    water = _water(_stream(seed, index, "water"), grid)
    ripeness = ripeness_map(_stream(seed, index, "ripeness"), grid, anatomy)
    scanner, noise = _stream(seed, index, "acquisition"), _stream(seed, index, "noise")
    images = {}
    for modality in MODALITIES:
        signal = _signal(modality, anatomy, water, ripeness)
        level = float(signal[anatomy.brain].mean())
        bias = np.exp(np.float32(_BIAS) * smooth_field(scanner, grid, 60.0))
        gain = math.exp(scanner.uniform(math.log(200), math.log(600))) / level
        noisy = rician(signal * bias, scanner.uniform(*_NOISE) * level, noise)
        images[modality] = _upright(np.where(anatomy.brain, np.maximum(noisy * gain, 1), 0).astype(np.float32))
    return images, _upright(_label(anatomy))


def ripeness_map(rng: np.random.Generator, grid: Grid, anatomy: Anatomy) -> Volume:
    """Myelination of white matter, in [0, 1]: farther in the back, in the middle, and in older infants."""
    _, front, _ = anatomy.position
    age = float(rng.uniform(-0.1, 0.1))
    middle = np.clip(anatomy.hull_mm, 0, 40) / 40 - np.float32(0.4)
    ripe = np.float32(0.5 + age) - np.float32(0.3) * front / 80 + np.float32(0.3) * middle
    return np.clip(ripe + np.float32(0.15) * smooth_field(rng, grid, 30.0), 0, 1)


def _water(rng: np.random.Generator, grid: Grid) -> Volume:
    """Deviation of the water of the tissue from its mean, unit variance."""
    return np.float32(math.sqrt(0.5)) * (smooth_field(rng, grid, 9.0) + smooth_field(rng, grid, 22.0))


def _signal(modality: str, anatomy: Anatomy, water: Volume, ripeness: Volume) -> Volume:
    """Noise-free signal of one modality: the sum over tissues of share times signal."""
    wet = np.exp(np.float32(_WATER_SHARE) * np.clip(water, -2.5, 2.5))
    sequence, shares = SEQUENCES[modality], anatomy.fractions

    def signal(t1_ms: Volume | float, t2_ms: Volume | float, density: Volume | float) -> Volume:
        return np.asarray(sequence_signal(sequence, density, t1_ms * wet, t2_ms * wet), np.float32)

    white = signal(
        # Relaxation rates of water in two states add up.
        1 / (ripeness / _RIPE.t1_ms + (1 - ripeness) / _UNRIPE.t1_ms),
        1 / (ripeness / _RIPE.t2_ms + (1 - ripeness) / _UNRIPE.t2_ms),
        ripeness * _RIPE.density + (1 - ripeness) * _UNRIPE.density,
    )
    gray = signal(_GRAY.t1_ms, _GRAY.t2_ms, _GRAY.density)
    fluid = np.float32(sequence_signal(sequence, _FLUID.density, _FLUID.t1_ms, _FLUID.t2_ms))
    return shares["fluid"] * fluid + (shares["gray"] + shares["deep gray"]) * gray + shares["white"] * white


def _label(anatomy: Anatomy) -> UInt8[np.ndarray, "d h w"]:
    shares = anatomy.fractions
    most = np.argmax([shares["fluid"], shares["gray"] + shares["deep gray"], shares["white"]], axis=0)
    return np.where(anatomy.brain, np.array([CSF, GRAY, WHITE], np.uint8)[most], np.uint8(0))


def _upright(volume: np.ndarray) -> np.ndarray:
    """Turns the phantoms' grid, whose axes run left, back and up, to one whose axes run right, front and up."""
    return np.ascontiguousarray(volume[::-1, ::-1])


def _stream(seed: int, index: int, part: str) -> np.random.Generator:
    return np.random.default_rng((seed, index, _STREAMS.index(part)))


def _save(root: Path, index: int, arrays: Mapping[str, Shaped[np.ndarray, "d h w"]], grid: Grid) -> None:
    """Writes a subject as Analyze pairs `subject-N-{T1,T2,label}`."""
    for part, array in arrays.items():
        name = part if part == "label" else part.upper()
        write_analyze(root / f"subject-{index + 1}-{name}.hdr", array, (grid.spacing_mm,) * 3)


write_infant_phantoms = VolumePhantoms(
    generator=__name__,
    version=VERSION,
    view_mm=FIELD_OF_VIEW_MM,
    shape=(64, 72, 56),
    spacing_mm=2.3,
    make=make_infant,
    save=_save,
    place=lambda index: Path(f"subject-{index + 1}-T1.hdr"),
)
