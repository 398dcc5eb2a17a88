"""The place of a volume in the world, as far as its header tells, and what follows: sides, angles, steps in mm.

Lengths inside the library are mm. A header in meters or micrometers is converted, one without a unit counts as mm,
as programs of this field take it. An orientation that no code of the header states is assumed (`Standing`).
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import nibabel as nib
import numpy as np
from jaxtyping import Float

from jaxfuse.errors import UserError

Affine = Float[np.ndarray, "4 4"]
# A voxel's side per array axis in mm; or, where axes are not at right angles, the step of each array axis as a row.
Steps = tuple[float, ...] | Float[np.ndarray, "axes world"]

# Codes of the NIfTI standard: name, and mm in one of it.
_UNITS: Mapping[int, tuple[str, float]] = {1: ("meters", 1e3), 2: ("mm", 1.0), 3: ("micrometers", 1e-3)}
_LENGTH_BITS = 7
# A header in another unit than mm is believed where it makes voxels of these sides.
_BELIEVED_MM = (0.01, 100.0)
# Cosine of the angle of two axes; below it, what sides alone say of a distance is right to a tenth of a percent.
_RIGHT_ANGLE = 1e-3
# Least volume of a voxel as a share of that of a box of its sides.
_FLAT = 1e-6


@dataclass(frozen=True)
class Standing:
    """The place of a volume as far as its header tells.

    Attributes:
        affine: voxel to world in mm, of the array as stored.
        oriented: whether a code states the orientation. Where none does (Analyze pairs, NIfTI with both codes 0) the
            axes as stored are taken for the canonical ones, the middle of the volume at the origin. So volumes of one
            array order agree with each other, and only with volumes of that kind.
        unit: the header's unit of length; "" where it names none, which counts as mm.
    """

    affine: Affine
    oriented: bool
    unit: str


def standing_of(path: Path, header: nib.Nifti1Header, shape: Sequence[int]) -> Standing:
    """Reads the place of the volume of a file.

    Raises:
        UserError: the affine is not finite or has no volume, or the unit makes voxels that no image of a head has.
    """
    unit, in_mm = _UNITS.get(int(header["xyzt_units"]) & _LENGTH_BITS, ("", 1.0))
    oriented = bool(int(header["sform_code"]) or int(header["qform_code"]))
    sides = np.asarray(header["pixdim"][1:4], np.float64)
    affine = np.array(header.get_best_affine(), np.float64) if oriented else centered_affine(shape[:3], np.abs(sides))
    if not _has_volume(affine):
        raise UserError(f"{path} has no usable affine ({inline(affine)}); correct its sform or qform")
    affine[:3] *= in_mm
    low, high = _BELIEVED_MM
    found = spacing_of(affine)
    if in_mm != 1 and not all(low <= side <= high for side in found):
        raise UserError(
            f"the header of {path} is in {unit}, which makes voxels of {sides_told(found)} mm; if its numbers are mm, "
            "set its unit (xyzt_units) to mm"
        )
    return Standing(affine, oriented, unit)


def check_sides(path: Path, header: nib.AnalyzeHeader) -> None:
    """Refuses voxel sides that are 0 or no number, where the place of the volume follows from them.

    `header`: as stored, before nibabel puts 1 for a side of 0. Where there is an sform it alone counts.
    """
    if isinstance(header, nib.Nifti1Header) and int(header["sform_code"]):
        return
    sides = np.asarray(header["pixdim"][1:4], np.float64)
    if not (np.isfinite(sides).all() and sides.all()):
        raise UserError(
            f"{path} has voxels of {sides_told(sides.tolist())} by its header; sides are numbers that are not 0: "
            "correct its pixdim"
        )


def centered_affine(shape: Sequence[int], sides_mm: Sequence[float] | Float[np.ndarray, " n"]) -> Affine:
    """Returns voxel to world in mm along the canonical axes, the middle of the volume at the origin."""
    affine = np.diag([*sides_mm, 1.0])
    affine[:3, 3] = [-(n - 1) / 2 * side for n, side in zip(shape, sides_mm, strict=True)]
    return affine


def spacing_of(affine: Affine) -> tuple[float, float, float]:
    """Returns the voxel sides in mm per array axis."""
    x, y, z = np.linalg.norm(affine[:3, :3], axis=0)
    return float(x), float(y), float(z)


def largest_cosine(affine: Float[np.ndarray, "4 _"]) -> float:
    """Returns the largest cosine, without sign, between two array axes: 0 where all are at right angles."""
    axes = affine[:3, :-1] / np.linalg.norm(affine[:3, :-1], axis=0)
    return float(np.abs(axes.T @ axes - np.eye(axes.shape[1])).max())


def is_sheared(affine: Float[np.ndarray, "4 _"]) -> bool:
    """Tells whether axes are not at right angles, so that sides alone give neither distances nor volumes."""
    return largest_cosine(affine) > _RIGHT_ANGLE


def steps_of(affine: Float[np.ndarray, "4 _"]) -> Steps:
    """Returns what distances and volumes are measured by: the sides, or the steps of axes not at right angles."""
    if is_sheared(affine):
        return np.ascontiguousarray(affine[:3, :-1].T)
    return tuple(float(side) for side in np.linalg.norm(affine[:3, :-1], axis=0))


def shift_in_voxels(a: Affine, b: Affine, shape: Sequence[int]) -> float:
    """Returns how far the corners of a grid lie apart under two affines, at most, in voxels of `b` per axis."""
    ends = np.array([[0.0, max(n - 1, 0)] for n in shape])
    corners = np.stack([*(one.ravel() for one in np.meshgrid(*ends, indexing="ij")), np.ones(8)])
    apart = np.linalg.solve(b[:3, :3], (a[:3] - b[:3]) @ corners)
    return float(np.abs(apart).max())


def sides_told(sides_mm: Sequence[float]) -> str:
    """The sides of a voxel for sentences, such as 1 x 1 x 5."""
    return " x ".join(f"{side:.4g}" for side in sides_mm)


def inline(affine: Affine) -> str:
    """An affine in one line, for sentences."""
    return "[" + "; ".join(" ".join(f"{v:g}" for v in row) for row in affine[:3]) + "]"


def _has_volume(affine: Affine) -> bool:
    if not np.isfinite(affine).all():
        return False
    box = float(np.prod(np.linalg.norm(affine[:3, :3], axis=0)))
    return box > 0 and abs(float(np.linalg.det(affine[:3, :3]))) > _FLAT * box
