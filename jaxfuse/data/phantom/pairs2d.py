"""Phantom pairs of axial slices, MRI with CT, PET or SPECT, written as PNG in the folders of the Harvard collection.

Every pair is the head of another patient with a glioma, in the anatomy of the volume phantoms, with a skull and a
scalp around it. What each modality shows:

* MRI: a T2-weighted spin echo; bone is dark. Fat of the scalp: T1 382 and T2 68 ms at 3 T (de Bazelaire et al.,
  Radiology 230:652, 2004).
* CT: a wide window, in which bone is white and soft tissues differ by a few levels. Hounsfield units of soft tissues
  have no single published table; they are set in the order that radiology knows (fluid, edema, white, gray).
* PET and SPECT: uptake in gray matter, white matter and fluid as 4 : 1 : 0, as in the phantom of Hoffman et al.
  (IEEE Trans Nucl Sci 37:616, 1990); raised in the rim of the tumor and low in what it encloses; blurred by the
  scanner and shown in the colors of a rainbow, whose luminance does not rise steadily with uptake.

`make_pair` is a pure function of (seed, index, partner, grid).
"""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import numpy as np
from jaxtyping import Float, UInt8
from scipy import ndimage

from jaxfuse.data.phantom.anatomy import Anatomy, Head, draw_anatomy, draw_head, head_position
from jaxfuse.data.phantom.fields import Grid, Volume, smooth_field
from jaxfuse.data.phantom.glioma import draw_glioma, glioma_maps
from jaxfuse.data.phantom.record import write_once
from jaxfuse.data.phantom.signal import SEQUENCES, TISSUES_3T, Tissue, rician, sequence_signal
from jaxfuse.errors import UserError
from jaxfuse.io.png import write_png

VERSION = 1
PARTNERS = ("ct", "pet", "spect")
# A tilted head with skull and scalp, rows x columns.
FIELD_OF_VIEW_MM = (212.0, 188.0)

Plane = Float[np.ndarray, "d h"]

_STREAMS = ("head", "position", "folds", "tumor", "tumor maps", "shell", "mri", "partner")
_MRI_TISSUES: Mapping[str, Tissue] = {**TISSUES_3T, "scalp": Tissue(382, 68, 0.9), "bone": Tissue(380, 0.5, 0.2)}
_HOUNSFIELD: Mapping[str, float] = {
    "fluid": 8,
    "edema": 22,
    "white": 29,
    "gray": 37,
    "deep gray": 38,
    "necrosis": 16,
    "non-enhancing": 30,
    "enhancing": 40,
    "bone": 1000,
    "scalp": -60,
}
_AIR_HU, _WINDOW_HU, _CT_NOISE_HU = -1000.0, (-200.0, 1000.0), 6.0
_UPTAKE: Mapping[str, float] = {
    "fluid": 0.0,
    "edema": 0.8,
    "white": 1.0,
    "gray": 4.0,
    "deep gray": 4.0,
    "necrosis": 0.3,
    "non-enhancing": 2.0,
    "enhancing": 5.0,
    "bone": 0.1,
    "scalp": 0.4,
}
# Full width at half maximum of a point, in mm.
_BLUR_MM: Mapping[str, tuple[float, float]] = {"pet": (5.0, 7.0), "spect": (8.0, 11.0)}
_FWHM_OF_SIGMA = 2.3548
_RAINBOW = np.array(
    [(0, 0, 0), (0, 0, 0.6), (0, 0.5, 1), (0, 0.9, 0.5), (0.6, 1, 0), (1, 0.8, 0), (1, 0.2, 0), (1, 1, 1)], np.float32
)


def make_pair(
    seed: int, index: int, partner: str, *, shape: tuple[int, int] = (256, 256), spacing_mm: float = 0.9
) -> dict[str, UInt8[np.ndarray, "h w *rgb"]]:
    """One pair of slices at the height of the tumor: `mri` (h w), `ct` (h w), `pet` and `spect` (h w 3).

    Levels are 0 outside the head. The front is on top, the patient's right on the left.

    Args:
        seed, index, partner: which pair; each partner has patients of its own.
        shape, spacing_mm: rows, columns and side of a pixel. The same pair on another grid shows the same head.

    Raises:
        UserError: an unknown partner, or a field of view that does not hold a head.
    """
    _check(partner, shape, spacing_mm)
    rng = {part: _stream(seed, index, partner, part) for part in _STREAMS}
    # One slice of the volume phantoms; the array axes of their grid run to the left and to the back.
    grid = Grid((shape[1], shape[0], 1), spacing_mm)
    glioma = draw_glioma(rng["tumor"], low_grade=False)
    level_mm = glioma.center[2] + float(rng["tumor"].uniform(-6, 6))
    head = draw_head(rng["head"])
    right, front, up = head.offset_mm
    position = head_position(rng["position"], grid, dataclasses.replace(head, offset_mm=(right, front, up - level_mm)))
    anatomy = draw_anatomy(rng["folds"], grid, head, position, glioma.displace)
    tumor = glioma_maps(rng["tumor maps"], grid, anatomy, position, glioma).fractions
    healthy = 1 - sum(tumor.values())
    tissues = {name: share * healthy for name, share in anatomy.fractions.items()} | tumor
    tissues |= _shell(rng["shell"], grid, head, anatomy)
    air = np.all([share == 0 for share in tissues.values()], axis=(0, -1))
    draw = _ct if partner == "ct" else _emission
    images = {"mri": _mri(rng["mri"], grid, tissues), partner: draw(rng["partner"], grid, tissues, partner)}
    for image in images.values():
        image[air] = 0
    return {name: _as_picture(image) for name, image in images.items()}


def _stream(seed: int, index: int, partner: str, part: str) -> np.random.Generator:
    return np.random.default_rng((seed, index, PARTNERS.index(partner), _STREAMS.index(part)))


def _check(partner: str, shape: tuple[int, int], spacing_mm: float) -> None:
    if partner not in PARTNERS:
        raise UserError(f"a phantom of MRI with {partner!r} was asked for; choose one of {', '.join(PARTNERS)}")
    if len(shape) != 2 or not spacing_mm > 0:
        raise UserError(f"a slice needs two sizes and a positive spacing; came {tuple(shape)} and {spacing_mm} mm")
    if any(n * spacing_mm < least for n, least in zip(shape, FIELD_OF_VIEW_MM, strict=True)):
        need = max(least / n for n, least in zip(shape, FIELD_OF_VIEW_MM, strict=True))
        raise UserError(
            f"a head with its skull needs {FIELD_OF_VIEW_MM[0]:g} x {FIELD_OF_VIEW_MM[1]:g} mm; {shape[0]} x "
            f"{shape[1]} pixels of {spacing_mm:g} mm are too few: use a spacing of at least {need:.2f} mm"
        )


def _shell(rng: np.random.Generator, grid: Grid, head: Head, anatomy: Anatomy) -> dict[str, Volume]:
    """Shares of bone and of scalp: layers outside the brain with the fluid that surrounds it."""
    outside = ~anatomy.brain
    height_mm = -anatomy.hull_mm - np.float32(head.sulcus_mm)
    skull_mm = np.float32(rng.uniform(5, 7.5)) + np.float32(0.8) * smooth_field(rng, grid, 40.0)
    scalp_mm = skull_mm + np.float32(rng.uniform(4, 6))
    bone = grid.occupancy(skull_mm - height_mm) * outside
    return {"bone": bone, "scalp": grid.occupancy(scalp_mm - height_mm) * outside * (1 - bone)}


def _mri(rng: np.random.Generator, grid: Grid, tissues: Mapping[str, Volume]) -> Plane:
    """A T2-weighted slice in [0, 1]."""
    signal = np.zeros(grid.shape, np.float32)
    for name, share in tissues.items():
        tissue = _MRI_TISSUES[name]
        signal += share * np.float32(sequence_signal(SEQUENCES["t2"], tissue.density, tissue.t1_ms, tissue.t2_ms))
    bias = np.exp(np.float32(rng.uniform(0.04, 0.1)) * smooth_field(rng, grid, 80.0))
    level = float(np.percentile(signal[signal > 0], 99.5))
    noisy = rician((signal * bias)[..., 0], 0.02 * level, rng)
    return np.clip(noisy / level, 0, 1)


def _ct(rng: np.random.Generator, grid: Grid, tissues: Mapping[str, Volume], partner: str) -> Plane:
    """A slice of Hounsfield units in a wide window, in [0, 1]."""
    del partner
    units = np.full(grid.shape, _AIR_HU, np.float32)
    for name, share in tissues.items():
        units += share * np.float32(_HOUNSFIELD[name] - _AIR_HU)
    units += np.float32(_CT_NOISE_HU) * rng.standard_normal(grid.shape, dtype=np.float32)
    low, high = _WINDOW_HU
    return np.clip((units[..., 0] - low) / (high - low), 0, 1)


def _emission(
    rng: np.random.Generator, grid: Grid, tissues: Mapping[str, Volume], partner: str
) -> Float[np.ndarray, "d h 3"]:
    """Uptake, blurred in the plane, as colors in [0, 1]."""
    uptake = np.zeros(grid.shape, np.float32)
    for name, share in tissues.items():
        uptake += share * np.float32(_UPTAKE[name])
    fwhm_mm = float(rng.uniform(*_BLUR_MM[partner]))
    # Noise of a reconstructed image is as coarse as its resolution.
    grainy = uptake * (1 + np.float32(0.08) * smooth_field(rng, grid, max(fwhm_mm, 6.0)))
    seen = ndimage.gaussian_filter(grainy[..., 0], fwhm_mm / _FWHM_OF_SIGMA / grid.spacing_mm)
    return _colored(np.clip(seen / np.float32(1.05 * seen.max()), 0, 1))


def _colored(share: Plane) -> Float[np.ndarray, "d h 3"]:
    """Values in [0, 1] in colors from black over blue, green and yellow to red and white."""
    places = np.linspace(0, 1, len(_RAINBOW))
    return np.stack([np.interp(share, places, _RAINBOW[:, c]) for c in range(3)], axis=-1).astype(np.float32)


def _as_picture(plane: Float[np.ndarray, "d h *rgb"]) -> UInt8[np.ndarray, "h d *rgb"]:
    """Levels of a plane of the phantoms' grid, whose axes run to the left and to the back, rows first."""
    return np.ascontiguousarray(np.rint(plane.swapaxes(0, 1) * 255).astype(np.uint8))


def write_pair_phantoms(
    root: str | Path,
    *,
    pairs: int,
    seed: int,
    partners: tuple[str, ...] = PARTNERS,
    shape: tuple[int, int] = (256, 256),
    spacing_mm: float = 0.9,
    on_pair: Callable[[int, int], None] | None = None,
) -> dict[str, Path]:
    """Writes `pairs` phantoms of each partner under `root`, or finds them there: the folder of each collection.

    `root/MRI_CT/{MRI,CT}/0000.png` and so on, with `phantom.json` beside the folders; nothing is written where that
    holds this request already. `on_pair(done, total)` is called after every pair.

    Raises:
        UserError: `root` holds something else, or an argument is out of range.
    """
    root = Path(root)
    if pairs < 1 or seed < 0 or not partners or len(set(partners)) < len(partners):
        raise UserError(
            "pair phantoms need at least 1 pair, a seed of at least 0 and each partner once;"
            f" came {pairs}, {seed} and {tuple(partners)}"
        )
    for partner in partners:
        _check(partner, shape, spacing_mm)
    request: dict[str, Any] = {
        "generator": "jaxfuse.data.phantom.pairs2d",
        "version": VERSION,
        "pairs": pairs,
        "seed": seed,
        "partners": list(partners),
        "shape": [int(n) for n in shape],
        "spacing_mm": float(spacing_mm),
    }

    def fill(partial: Path) -> None:
        for number, partner in enumerate(partners):
            for index in range(pairs):
                for name, image in make_pair(seed, index, partner, shape=shape, spacing_mm=spacing_mm).items():
                    write_png(partial / f"MRI_{partner.upper()}" / name.upper() / f"{index:04d}.png", image)
                if on_pair is not None:
                    on_pair(number * pairs + index + 1, pairs * len(partners))

    write_once(root, request, fill)
    return {partner: root / f"MRI_{partner.upper()}" for partner in partners}
