"""Mimics, which look like tumor in one modality and are none: vessels, choroid plexus, old bleedings, gliosis.

Vessels and choroid plexus take up contrast agent without being tumor; methemoglobin is bright on T1 with and
without contrast; gliosis (white matter hyperintensities and the caps of the ventricles) is bright on T2 and
FLAIR like edema. Every one of them can be told from tumor, with a second modality or by its place.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from jaxfuse.data.phantom.anatomy import Anatomy
from jaxfuse.data.phantom.fields import Grid, Volume, ellipsoid_mm, smooth_field, smooth_field_length_mm

_BRANCH_MM = 26.0
_VEIN_MM = 34.0


@dataclass(frozen=True)
class Mimics:
    """Amounts of each mimic in one head.

    Attributes:
        sinus_mm: radius of the superior sagittal sinus, as far as skull stripping leaves it.
        vessel_mm: radius of the surface and Sylvian vessels.
        plexus_mm: thickness of the choroid plexus.
        caps_mm: thickness of the periventricular caps.
        lesions: number of deep white matter hyperintensities.
        bleedings: number of methemoglobin spots.
    """

    sinus_mm: float
    vessel_mm: float
    plexus_mm: float
    caps_mm: float
    lesions: int
    bleedings: int


def draw_mimics(rng: np.random.Generator, *, times: float = 1.0) -> Mimics:
    """Draws the amounts; hyperintensities and caps grow together, as with age and small-vessel disease.

    There are `times` as many hyperintensities and bleedings as usual.
    """
    load = rng.uniform()
    return Mimics(
        sinus_mm=float(rng.uniform(3.5, 5.0)),
        vessel_mm=float(rng.uniform(1.1, 1.7)),
        plexus_mm=float(rng.uniform(1.5, 2.5)),
        caps_mm=float(0.8 + 2.7 * load),
        lesions=round(int(rng.integers(2, 6) + 10 * load) * times),
        bleedings=round(int(rng.integers(1, 5)) * times),
    )


def vessels(rng: np.random.Generator, grid: Grid, anatomy: Anatomy, mimics: Mimics) -> Volume:
    """Share of blood in large vessels: sinus at the top of the fissure, and tubes on the surface and in clefts.

    A tube runs where two independent smooth fields vanish together.
    """
    x, y, z = anatomy.position
    # Along the inner side of the outline, from the forehead over the vertex to the back.
    over = np.sqrt(x**2 + (anatomy.hull_mm - 1) ** 2)
    sinus = np.where((z > 8) | (y < -60), np.float32(mimics.sinus_mm) - over, np.float32(-99))
    tubes = np.full(grid.shape, -99, np.float32)
    for scale, radius in ((_BRANCH_MM, mimics.vessel_mm), (_VEIN_MM, 1.2 * mimics.vessel_mm)):
        across = np.hypot(smooth_field(rng, grid, scale), smooth_field(rng, grid, scale))
        tubes = np.maximum(tubes, np.float32(radius) - across * np.float32(smooth_field_length_mm(scale)))
    shallow = np.float32(7) - anatomy.hull_mm
    return grid.occupancy(np.maximum(sinus, np.minimum(tubes, shallow))) * anatomy.brain


def choroid_plexus(rng: np.random.Generator, grid: Grid, anatomy: Anatomy, mimics: Mimics) -> Volume:
    """Share of choroid plexus: tufts on the floor and in the atria of the ventricles."""
    _, y, z = anatomy.position
    floor = np.float32(mimics.plexus_mm) - np.abs(z - 13 + np.float32(0.006) * (y + 2) ** 2)
    tuft = floor + 1.0 * smooth_field(rng, grid, 8.0)
    behind = np.float32(0.3) * (2 - y)
    return grid.occupancy(np.minimum(np.minimum(tuft, behind), anatomy.ventricle_mm)) * anatomy.brain


def _spots(
    rng: np.random.Generator, grid: Grid, anatomy: Anatomy, count: int, radius_mm: tuple[float, float]
) -> Volume:
    """Signed distance to `count` small ellipsoids placed at random inside the cerebrum."""
    union = np.full(grid.shape, -99, np.float32)
    for _ in range(count):
        u = rng.standard_normal(3)
        u *= rng.uniform(0.35, 0.8) / np.linalg.norm(u)
        semi = rng.uniform(*radius_mm) * rng.uniform(0.8, 1.25, 3)
        center = (float(62 * u[0]), float(78 * u[1]), float(12 + 42 * u[2]))
        union = np.maximum(
            union, ellipsoid_mm(anatomy.position, center, (float(semi[0]), float(semi[1]), float(semi[2])))
        )
    return union


def gliosis(rng: np.random.Generator, grid: Grid, anatomy: Anatomy, mimics: Mimics) -> Volume:
    """Share of gliosis, in white matter only: caps along the ventricles and scattered round lesions."""
    caps = anatomy.ventricle_mm + np.float32(mimics.caps_mm) * (1 + np.float32(0.6) * smooth_field(rng, grid, 20.0))
    spots = _spots(rng, grid, anatomy, mimics.lesions, (2.0, 4.5)) + 0.6 * smooth_field(rng, grid, 6.0)
    return grid.occupancy(np.maximum(caps, spots)) * anatomy.fractions["white"] * np.float32(0.85)


def bleedings(rng: np.random.Generator, grid: Grid, anatomy: Anatomy, mimics: Mimics) -> Volume:
    """Share of methemoglobin: small old bleedings in parenchyma."""
    spots = _spots(rng, grid, anatomy, mimics.bleedings, (3.0, 6.0)) + 0.6 * smooth_field(rng, grid, 6.0)
    return grid.occupancy(spots) * (1 - anatomy.fractions["fluid"]) * anatomy.brain
