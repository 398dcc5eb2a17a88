"""A head without disease: brain outline, fissures, folded cortex, white matter, deep nuclei, ventricles.

All sizes are in mm of an adult brain (about 145 x 170 x 125). The shapes are drawn as signed distances in
head coordinates (x to the right, y forwards, z up, origin between the thalami) and turned into tissue
fractions per voxel, so partial volume appears at every border.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Protocol, runtime_checkable

import numpy as np
from jaxtyping import Bool

from jaxfuse.data.phantom.fields import Grid, Volume, ellipsoid_mm, smooth_field, smooth_field_length_mm

Position = tuple[Volume, Volume, Volume]
_FOLD_MM = 8.5
_CEREBELLUM_FOLD_MM = 6.0


@runtime_checkable
class Displacement(Protocol):
    """Returns the position that the tissue now there would have without a mass."""

    def __call__(self, position: Position) -> Position: ...


@dataclass(frozen=True)
class Head:
    """Variation between healthy heads; lengths in mm, angles in radians, factors relative to the average."""

    scale: tuple[float, float, float]
    offset_mm: tuple[float, float, float]
    angles: tuple[float, float, float]
    warp_mm: float
    ventricles: float
    ventricle_asymmetry: float
    cortex_mm: float
    sulcus_mm: float
    fissure_mm: float


@dataclass(frozen=True)
class Anatomy:
    """A drawn head.

    Attributes:
        brain: voxels kept by skull stripping.
        fractions: tissue name -> share of each voxel; the shares sum to 1 in the brain and to 0 outside.
        position: head coordinates of each voxel, after the displacement by a mass.
        pial_mm: depth below the nearest surface that fluid touches (outline, fissure, sulcus); fluid < 0.
        hull_mm: depth below the outline of the brain.
        ventricle_mm: signed distance to the ventricles, inside > 0.
    """

    brain: Bool[np.ndarray, "d h w"]
    fractions: dict[str, Volume]
    position: Position
    pial_mm: Volume
    hull_mm: Volume
    ventricle_mm: Volume


def draw_head(rng: np.random.Generator) -> Head:
    """Draws size, pose, ventricles and folding of an adult head; older heads have wider ventricles and sulci."""
    age = rng.uniform()
    size = rng.uniform(0.94, 1.01)
    scale = size * rng.uniform(0.98, 1.02, 3)
    return Head(
        scale=(float(scale[0]), float(scale[1]), float(scale[2])),
        offset_mm=(float(rng.uniform(-3, 3)), float(rng.uniform(-3, 3)), float(rng.uniform(-2, 2))),
        angles=(float(rng.normal(0, 0.05)), float(rng.normal(0, 0.04)), float(rng.normal(0, 0.06))),
        warp_mm=float(rng.uniform(1.5, 3.0)),
        ventricles=float(0.75 + 0.6 * age + rng.uniform(-0.1, 0.1)),
        ventricle_asymmetry=float(rng.uniform(-0.15, 0.15)),
        cortex_mm=float(rng.uniform(2.8, 3.4)),
        sulcus_mm=float(1.0 + 1.2 * age),
        fissure_mm=float(2.0 + 1.5 * age),
    )


def head_position(rng: np.random.Generator, grid: Grid, head: Head) -> Position:
    """Head coordinates in mm of every voxel: rotated, scaled, shifted and bent by a smooth warp."""
    a, b, c = head.angles
    turn_x = np.array([[1, 0, 0], [0, np.cos(a), -np.sin(a)], [0, np.sin(a), np.cos(a)]])
    turn_y = np.array([[np.cos(b), 0, np.sin(b)], [0, 1, 0], [-np.sin(b), 0, np.cos(b)]])
    turn_z = np.array([[np.cos(c), -np.sin(c), 0], [np.sin(c), np.cos(c), 0], [0, 0, 1]])
    matrix = (np.diag(1 / np.array(head.scale)) @ turn_x @ turn_y @ turn_z).astype(np.float32)
    right, front, up = (
        (axis - np.float32(o)).reshape([-1 if i == j else 1 for j in range(3)])
        for i, (axis, o) in enumerate(zip(grid.axes_mm(), head.offset_mm, strict=True))
    )
    x, y, z = (
        row[0] * right + row[1] * front + row[2] * up + np.float32(head.warp_mm) * smooth_field(rng, grid, 45.0)
        for row in matrix
    )
    return x, y, z


@dataclass(frozen=True)
class _Outline:
    hull_mm: Volume
    crease_mm: Volume  # > 0 in the gaps between lobes, and between cerebrum and cerebellum
    cerebellum_mm: Volume
    stem_mm: Volume


def _outline(position: Position) -> _Outline:
    x, y, z = position
    # The head is wider behind than in front, and flat below.
    tapered = (x / (1 - np.float32(0.0011) * y), y, np.where(z < 6, (z - 6) * np.float32(1.35) + 6, z))
    cerebrum = ellipsoid_mm(tapered, (0, 0, 6), (67, 84, 57), power=2.3)
    side = (np.abs(x), y, z)
    temporal = ellipsoid_mm(side, (41, 6, -24), (23, 40, 19))
    cerebellum = ellipsoid_mm((np.abs(x) * np.float32(0.94), y, z), (0, -50, -34), (46, 31, 22))
    stem = ellipsoid_mm(position, (0, -22, -40), (13, 13, 26))
    upper = np.maximum(cerebrum, temporal)
    # Where two lobes meet, their equidistant surface is a cleft filled with fluid.
    lateral = np.where(np.abs(x) > 24, 1.2 - 0.5 * np.abs(cerebrum - temporal), np.float32(-99))
    tent = np.where(stem > 0, np.float32(-99), 1.4 - 0.5 * np.abs(upper - cerebellum))
    return _Outline(
        hull_mm=np.maximum(np.maximum(upper, cerebellum), stem),
        crease_mm=np.maximum(lateral, tent),
        cerebellum_mm=cerebellum - np.maximum(upper, stem),
        stem_mm=stem,
    )


def _fissure_mm(position: Position, head: Head) -> Volume:
    """Signed distance to the gap between the hemispheres; it ends above, before and behind the corpus callosum."""
    x, y, z = position
    joined = 1 - (y / 46) ** 2 - ((z - 4) / 24) ** 2
    below = np.clip(-14 - z, 0, None)
    return head.fissure_mm / 2 - np.abs(x) - 25 * np.clip(joined, 0, None) - below


def _ventricle_mm(position: Position, head: Head) -> Volume:
    """Signed distance to the lateral (bodies, atria, frontal and temporal horns), third and fourth ventricles."""
    x, y, z = position
    v = np.float32(head.ventricles)
    wide = v * (1 + np.float32(head.ventricle_asymmetry) * np.sign(x))
    # The body arches over the thalamus and spreads outwards towards the atrium.
    arch = (
        np.abs(x) - 8 - np.float32(0.0045) * np.clip(6 - y, 0, None) ** 2,
        y,
        z - 15 + np.float32(0.006) * (y + 2) ** 2,
    )
    arch = (arch[0] / wide, arch[1], arch[2] / v)
    body = ellipsoid_mm(arch, (0, -2, 0), (5.5, 40, 7.0))
    horn = ellipsoid_mm((np.abs(x), y, z), (33, -14, -13), (3.5 * float(v), 18, 3.5 * float(v)))
    third = ellipsoid_mm(position, (0, -6, 0), (1.6 * float(v), 14, 9))
    fourth = ellipsoid_mm(position, (0, -37, -32), (6.5 * float(v), 5, 9))
    return np.maximum(np.maximum(body, horn), np.maximum(third, fourth))


def _deep_gray_mm(position: Position) -> Volume:
    """Signed distance to caudate, putamen with pallidum, and thalamus of both sides."""
    x, y, z = position
    side = (np.abs(x), y, z)
    caudate = ellipsoid_mm(
        (np.abs(x) + np.float32(0.25) * y, y, z + np.float32(0.006) * y**2), (19, 14, 10), (5, 19, 8)
    )
    putamen = ellipsoid_mm(side, (27, 2, 1), (6.5, 18, 10))
    thalamus = ellipsoid_mm(side, (11, -16, 5), (8.5, 14, 9))
    return np.maximum(np.maximum(caudate, putamen), thalamus)


def _sulcus_mm(rng: np.random.Generator, grid: Grid, depth_mm: Volume, outline: _Outline, head: Head) -> Volume:
    """Signed distance to the sulci: zero surfaces of smooth fields, closing at a depth of about 15 mm."""
    cerebral = np.abs(smooth_field(rng, grid, _FOLD_MM)) * np.float32(smooth_field_length_mm(_FOLD_MM))
    folia = np.abs(smooth_field(rng, grid, _CEREBELLUM_FOLD_MM)) * np.float32(
        smooth_field_length_mm(_CEREBELLUM_FOLD_MM)
    )
    reach = 15 + 4 * smooth_field(rng, grid, 25.0)
    distance = np.where(outline.cerebellum_mm > 0, folia + np.float32(0.4), cerebral)
    closing = np.float32(0.5) * np.clip(depth_mm - reach, 0, None)
    sulcus = np.float32(head.sulcus_mm / 2) - distance - closing
    return np.where(outline.stem_mm > -1, np.float32(-99), sulcus)


def draw_anatomy(
    rng: np.random.Generator, grid: Grid, head: Head, position: Position, displace: Displacement | None = None
) -> Anatomy:
    """Draws the tissue fractions of a head.

    Args:
        rng: draws the folds.
        position: head coordinates of each voxel, from `head_position`.
        displace: a mass that pushes tissue aside; None for a healthy head. The outline of the brain, held by
            the skull, does not move.
    """
    skull = _outline(position)
    hull = skull.hull_mm
    if displace is not None:
        position = displace(position)
    outline = skull if displace is None else _outline(position)
    fissure = np.maximum(_fissure_mm(position, head), outline.crease_mm)
    depth = np.minimum(hull, -fissure)
    pial = np.minimum(depth, -_sulcus_mm(rng, grid, depth, outline, head))
    ventricle = _ventricle_mm(position, head)
    brain = hull > -head.sulcus_mm
    cortex = np.where(outline.stem_mm > 0, np.float32(0.5), np.float32(head.cortex_mm))
    tissue = grid.occupancy(pial)
    white = np.minimum(grid.occupancy(pial - cortex), tissue)
    deep = np.minimum(grid.occupancy(_deep_gray_mm(position)), white)
    fluid = np.maximum(1 - tissue, grid.occupancy(ventricle)) * brain
    solid = (1 - fluid) / np.maximum(tissue, np.float32(1e-6)) * brain
    fractions = {
        "fluid": fluid,
        "gray": np.where(tissue > 0, (tissue - white) * solid, 0),
        "white": np.where(tissue > 0, (white - deep) * solid, 0),
        "deep gray": np.where(tissue > 0, deep * solid, 0),
    }
    return Anatomy(brain, fractions, position, pial, hull, ventricle)
