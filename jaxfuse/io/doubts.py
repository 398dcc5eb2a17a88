"""Doubts about the geometry of a volume that can be read, for a person to look at."""

from __future__ import annotations

import math

import numpy as np
from nibabel.spatialimages import HeaderDataError

from jaxfuse.io.analyze import files_of, is_pair
from jaxfuse.io.geometry import is_sheared, largest_cosine, shift_in_voxels, sides_told, spacing_of
from jaxfuse.io.nifti import Volume

# Shares of a voxel, and of a side.
_ONE_PLACE = 0.05
_ONE_SIDE = 0.01
# Place of the byte of orientation in an Analyze header.
_ORIENT = 252
# Sides beyond these are rather a header in another unit than a picture of a head.
_USUAL_MM = (0.05, 50.0)


def geometry_warnings(volume: Volume) -> list[str]:
    """Lists, in a clause each, what is unusual about the place of one volume; an assumed orientation is not told here.

    A `Volume` of which all is known and usual gives none.
    """
    name, found = volume.name, []
    if forms_disagree(volume):
        found.append(f"{name}: qform and sform place the volume differently; the sform is used")
    if sides_disagree(volume):
        sides = sides_told([float(side) for side in volume.header["pixdim"][1:4]])
        own = sides_told(spacing_of(volume.stored_affine))
        found.append(f"{name}: its header gives voxels of {sides}, its affine of {own} mm; the affine is used")
    if volume.unit not in ("", "mm"):
        sides = sides_told(volume.spacing_mm)
        found.append(f"{name}: its header is in {volume.unit}; lengths are converted to mm, so that voxels are {sides}")
    elif not all(_USUAL_MM[0] <= side <= _USUAL_MM[1] for side in volume.spacing_mm):
        sides = sides_told(volume.spacing_mm)
        found.append(f"{name}: voxels of {sides} mm are unusual; see that the header's lengths are mm")
    if is_sheared(volume.affine):
        angle = math.degrees(math.acos(largest_cosine(volume.affine)))
        found.append(
            f"{name}: axes meet at {angle:.3g} degrees, not at right angles: networks see a sheared head; distances "
            "and volumes are measured in mm all the same"
        )
    if is_pair(volume.path) and not volume.oriented:
        found += _unread(volume)
    if 1 in volume.array.shape:
        found.append(f"{name}: a single slice; distances are measured in its plane")
    return found


def _unread(volume: Volume) -> list[str]:
    """Signs of an orientation that belong to an Analyze pair, and that are not read since programs disagree on them."""
    header, _ = files_of(volume.path)
    found, beside = [], header.with_suffix(".mat")
    if beside.is_file():
        found.append(f"{volume.name}: {beside.name} of SPM lies beside it, which may turn the axes and is not read")
    with header.open("rb") as file:
        orient = file.read(_ORIENT + 1)[_ORIENT]
    if orient:
        found.append(f"{volume.name}: its header has the orientation code {orient}, which is not read")
    return found


def forms_disagree(volume: Volume) -> bool:
    """Tells whether the header gives both a qform and an sform, and they place the volume differently."""
    header = volume.header
    if not (int(header["qform_code"]) and int(header["sform_code"])):
        return False
    try:
        qform = np.array(header.get_qform(), np.float64)
    except (ValueError, HeaderDataError):
        return True  # quaternions that are no rotation agree with nothing
    sform = np.array(header.get_sform(), np.float64)
    return shift_in_voxels(qform, sform, volume.stored_shape[:3]) > _ONE_PLACE


def sides_disagree(volume: Volume) -> bool:
    """Tells whether an sform that counts has other voxel sides than the header names beside it."""
    header = volume.header
    if not int(header["sform_code"]) or int(header["qform_code"]):
        return False
    named = np.abs(np.asarray(header["pixdim"][1:4], np.float64))
    own = np.linalg.norm(np.array(header.get_sform(), np.float64)[:3, :3], axis=0)
    return not np.allclose(named, own, rtol=_ONE_SIDE, atol=0)
