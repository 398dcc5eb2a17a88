"""A glioma grown into a head: edema, non-enhancing tumor, enhancing rim, necrotic core, and mass effect."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from jaxtyping import UInt8
from scipy import ndimage

from jaxfuse.data.phantom.anatomy import Anatomy, Position
from jaxfuse.data.phantom.fields import Grid, Volume, ellipsoid_mm, smooth_field, smooth_field_length_mm

# File values of BraTS 2018.
CORE, EDEMA, ENHANCING = 1, 2, 4
_GAP_MM = 18.0


@dataclass(frozen=True)
class Glioma:
    """One tumor; lengths in mm, head coordinates.

    Attributes:
        semi_mm: half axes of the core (all that is not edema).
        lobe_center, lobe_mm: a non-enhancing lobe that grows out of the core.
        extent_mm: how far edema reaches into white matter beyond the core.
        rim_mm: thickness of the enhancing rim; 0 for a low-grade tumor, which does not enhance.
        rim_gap: the rim is missing where a smooth unit-variance field exceeds this value.
        concentration_mmol_l: mean gadolinium in the rim.
        push_mm: largest displacement of the tissue around.
        size: of all lengths, beside the usual ones.
    """

    center: tuple[float, float, float]
    semi_mm: tuple[float, float, float]
    lobe_center: tuple[float, float, float]
    lobe_mm: float
    roughness_mm: float
    extent_mm: float
    rim_mm: float
    rim_gap: float
    concentration_mmol_l: float
    push_mm: float
    size: float = 1.0

    def displace(self, position: Position) -> Position:
        """Mass effect: tissue now at a position came from nearer the center of the tumor."""
        reach = 1.5 * float(np.mean(self.semi_mm))
        offset = [q - np.float32(c) for q, c in zip(position, self.center, strict=True)]
        distance = np.sqrt(sum(o**2 for o in offset)) + np.float32(1e-3)
        # Zero at the center, largest at `reach`, fading beyond: u exp(1 - u) has its maximum, 1, at u = 1.
        u = distance / np.float32(reach)
        back = np.float32(self.push_mm) * u * np.exp(1 - u) / distance
        x, y, z = (q - o * back for q, o in zip(position, offset, strict=True))
        return x, y, z


@dataclass(frozen=True)
class GliomaMaps:
    """A drawn glioma.

    Attributes:
        fractions: tissue name -> share of each voxel taken by that part of the tumor (sum at most 1).
        label: file values 0, 1 (necrotic and non-enhancing core), 2 (edema), 4 (enhancing).
        concentration_mmol_l: gadolinium in the enhancing part.
    """

    fractions: dict[str, Volume]
    label: UInt8[np.ndarray, "d h w"]
    concentration_mmol_l: Volume


def draw_glioma(rng: np.random.Generator, *, low_grade: bool, size: float = 1.0) -> Glioma:
    """Draws place, size, shape and enhancement; high-grade tumors enhance and carry more edema.

    All its lengths are multiplied by `size`; where it lies does not depend on it.
    """
    side = rng.choice([-1.0, 1.0])
    center = (side * rng.uniform(24, 40), rng.uniform(-42, 38), rng.uniform(2, 30))
    radius = rng.uniform(14, 20) * size
    semi = radius * rng.uniform(0.85, 1.2, 3)
    direction = rng.standard_normal(3)
    direction /= np.linalg.norm(direction)
    lobe = float(radius * rng.uniform(0.45, 0.7))
    lobe_center = np.asarray(center) + direction * radius * rng.uniform(0.75, 1.0)
    shape = {
        "center": tuple(float(c) for c in center),
        "semi_mm": tuple(float(s) for s in semi),
        "lobe_center": tuple(float(c) for c in lobe_center),
        "lobe_mm": lobe if low_grade or rng.uniform() < 0.7 else 0.0,
        "roughness_mm": float(rng.uniform(2.0, 3.5)) * size,
        "push_mm": float(rng.uniform(2, 6)) * size,
        "size": size,
    }
    if low_grade:
        extent_mm = float(rng.uniform(3, 8)) * size
        return Glioma(**shape, extent_mm=extent_mm, rim_mm=0.0, rim_gap=0.0, concentration_mmol_l=0.0)
    return Glioma(
        **shape,
        extent_mm=float(rng.uniform(5, 11)) * size,
        rim_mm=float(rng.uniform(6.5, 9.0)) * size,
        rim_gap=float(rng.uniform(0.7, 1.6)),
        # Drops T1 from 1500 ms by 700 to 950 ms.
        concentration_mmol_l=float(rng.uniform(0.12, 0.23)),
    )


def _largest_component(mask: np.ndarray) -> np.ndarray:
    parts, count = ndimage.label(mask)  # pyright: ignore[reportGeneralTypeIssues]
    if count <= 1:
        return mask
    return parts == 1 + np.argmax(np.bincount(parts.ravel())[1:])


def _core_parts(
    rng: np.random.Generator, grid: Grid, core_mm: Volume, share: Volume, glioma: Glioma
) -> dict[str, Volume]:
    """Splits the core's share of each voxel: the rim enhances except in gaps, and what it encloses is necrotic."""
    if glioma.rim_mm == 0:
        return {"non-enhancing": share}
    rim_mm = np.float32(glioma.rim_mm) + np.float32(0.8 * glioma.size) * smooth_field(rng, grid, 12.0)
    gap = smooth_field(rng, grid, _GAP_MM) - np.float32(glioma.rim_gap)
    enclosed = grid.occupancy(core_mm - rim_mm)
    closed = grid.occupancy(-np.float32(smooth_field_length_mm(_GAP_MM)) * gap)
    enhancing = grid.occupancy(core_mm) * (1 - enclosed) * closed * share
    necrosis = enclosed * share
    return {"non-enhancing": share - enhancing - necrosis, "enhancing": enhancing, "necrosis": necrosis}


def _label(whole: np.ndarray, core_share: Volume, parts: dict[str, Volume]) -> UInt8[np.ndarray, "d h w"]:
    """File values by majority: core where it fills more than half the voxel, enhancing where it leads in the core."""
    label = np.where(whole, EDEMA, 0).astype(np.uint8)
    core = whole & (core_share > 0.5)
    label[core] = CORE
    if "enhancing" in parts:
        label[core & (parts["enhancing"] > parts["non-enhancing"] + parts["necrosis"])] = ENHANCING
    return label


def glioma_maps(
    rng: np.random.Generator, grid: Grid, anatomy: Anatomy, position: Position, glioma: Glioma
) -> GliomaMaps:
    """Grows the tumor.

    The core is a rough ellipsoid with a lobe. Edema spreads from it, farther in white matter than in cortex,
    and never into fluid. The gaps of the enhancing rim and the lobe are non-enhancing tumor.

    Args:
        position: head coordinates without displacement: the tumor sits where the tissue was pushed away.
    """
    size = np.float32(glioma.size)
    rough = np.float32(glioma.roughness_mm) * smooth_field(rng, grid, 14.0) + size * smooth_field(rng, grid, 7.0)
    core_mm = ellipsoid_mm(position, glioma.center, glioma.semi_mm) + rough
    solid_mm = core_mm
    if glioma.lobe_mm > 0:
        lobe = ellipsoid_mm(position, glioma.lobe_center, (glioma.lobe_mm, glioma.lobe_mm, glioma.lobe_mm))
        solid_mm = np.maximum(core_mm, lobe + rough)
    white = ndimage.gaussian_filter(anatomy.fractions["white"], 3.0 / grid.spacing_mm)
    ripple = size * (2.5 * smooth_field(rng, grid, 16.0) + 1.2 * smooth_field(rng, grid, 8.0))
    # A thin edema varies less than a broad one.
    spread = np.float32(glioma.extent_mm) * (np.float32(0.3) + white) + ripple * np.float32(
        min(1.0, glioma.extent_mm / (8 * glioma.size))
    )
    whole_mm = np.maximum(solid_mm, solid_mm + spread)

    inside = grid.occupancy(np.minimum(anatomy.hull_mm, -anatomy.ventricle_mm))
    core_share = grid.occupancy(solid_mm) * inside * anatomy.brain
    wet_share = grid.occupancy(whole_mm) * (1 - anatomy.fractions["fluid"]) * anatomy.brain
    whole = _largest_component((wet_share > 0.5) | (core_share > 0.5))
    near = ndimage.binary_dilation(whole)
    core_share = core_share * near
    parts = _core_parts(rng, grid, core_mm, core_share, glioma)
    # Edema is water between cells that remain: it takes 70 to 100 % of the voxel, more towards the tumor.
    density = np.clip(np.float32(0.7) + whole_mm * np.float32(0.05), 0, 1)
    texture = np.exp(np.float32(0.2) * smooth_field(rng, grid, 8.0))
    return GliomaMaps(
        fractions={"edema": np.minimum(wet_share, 1 - core_share) * near * density, **parts},
        label=_label(whole, core_share, parts),
        concentration_mmol_l=np.float32(glioma.concentration_mmol_l) * texture,
    )
