"""NIfTI volumes, and Analyze pairs: read onto the canonical axes, written back on the grid of a reference file.

Arrays are canonical inside the library: their axes run along world x, y, z in ascending order (RAS+), up to
the obliqueness of the acquisition. Axes are only permuted and flipped, never resampled, so that the way
back is exact. Where a header's sform and qform disagree the sform counts, as the NIfTI standard advises for
registered images, and both are kept in what is written, as are its unit and its codes: what they mean is read by
`jaxfuse.io.geometry`.
"""

from __future__ import annotations

import gzip
import math
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import nibabel as nib
import numpy as np
from jaxtyping import Float, Shaped, UInt8
from nibabel.arrayproxy import ArrayProxy
from nibabel.orientations import apply_orientation, inv_ornt_aff, io_orientation, ornt_transform
from nibabel.spatialimages import SpatialImage

from jaxfuse.errors import UserError
from jaxfuse.io.analyze import is_pair, open_pair
from jaxfuse.io.forms import DAMAGE, GZIP_MAGIC, kind_of, unpacked
from jaxfuse.io.geometry import Steps, check_sides, inline, shift_in_voxels, spacing_of, standing_of, steps_of
from jaxfuse.io.whole_file import write_whole

_CANONICAL = np.array([[0, 1], [1, 1], [2, 1]])
# Types that few readers know, and what stands for them unless the caller names a type.
_ON_DISK = {
    "bool": np.dtype(np.uint8),
    "float16": np.dtype(np.float32),
    "float64": np.dtype(np.float32),
    "int64": np.dtype(np.int32),
    "uint64": np.dtype(np.int32),
}
_RGB24 = np.dtype([("R", np.uint8), ("G", np.uint8), ("B", np.uint8)])
# Greatest distance of corners of one grid, as a share of a voxel.
_ONE_GRID = 0.05
_RESAMPLE = "resample one onto the grid of the other"


@dataclass(frozen=True)
class Volume:
    """One volume on the canonical axes, with what is needed to write on its grid again.

    Attributes:
        path: the file that was read.
        channel: index along the fourth axis of a four-dimensional file; None for a file of one volume.
        array: integers as stored where the header scales nothing, else float32.
        affine: voxel to world in mm, of the canonical array.
        spacing_mm: voxel sides per canonical axis, from the affine.
        header: the header as stored.
        stored_affine: voxel to world in mm, of the array as stored.
        stored_shape: shape as stored, trailing singleton axes included.
        orientation: 3 x 2, stored axis -> canonical axis and flip, as in `nibabel.orientations`.
        oriented: whether the header states an orientation; else the axes as stored are taken for the canonical ones.
        unit: the header's unit of length; "" where it names none, which counts as mm.
    """

    path: Path
    array: Shaped[np.ndarray, "d h w"]
    affine: Float[np.ndarray, "4 4"]
    spacing_mm: tuple[float, float, float]
    header: nib.Nifti1Header
    stored_affine: Float[np.ndarray, "4 4"]
    stored_shape: tuple[int, ...]
    orientation: Float[np.ndarray, "3 2"]
    oriented: bool
    unit: str
    channel: int | None = None

    @property
    def name(self) -> str:
        """The file's name, and the channel where it has several, for sentences."""
        return self.path.name if self.channel is None else f"channel {self.channel} of {self.path.name}"

    @property
    def steps_mm(self) -> Steps:
        """Sides, or steps of axes that are not at right angles, by which distances and volumes are measured."""
        return steps_of(self.affine)


# The file of a volume, or a volume that was read, on whose grid others are written.
Grid = str | Path | Volume


def read_volume(path: str | Path, *, channel: int | None = None, as_it_lies: bool = False) -> Volume:
    """Reads a single-file NIfTI (`.nii`, `.nii.gz`) or a pair (`jaxfuse.io.analyze`) onto the closest canonical axes.

    Lengths are converted to mm. Without a stated orientation the axes as stored are taken for the canonical ones.

    The whole file is read, so that a damaged gzip stream is found here and not later.

    Args:
        path: the file.
        channel: index along the fourth axis of a four-dimensional file; None expects one volume.
        as_it_lies: True leaves the voxels in the memory order of the file, in an array that may be read-only: turning
            them takes as long as unpacking them. False gives an array in C order of its own.

    Raises:
        UserError: names the file where it is missing, damaged, of another kind, not numeric, not three-dimensional,
            without that channel, or without usable sides, affine or unit.
    """
    path = Path(path)
    return _placed(path, *_read(path), channel, as_it_lies)


def read_channels(path: str | Path, channels: Sequence[int], *, as_it_lies: bool = False) -> list[Volume]:
    """Reads several volumes of a four-dimensional file, which is decoded once; else like `read_volume`."""
    path = Path(path)
    image, values = _read(path)
    return [_placed(path, image, values, channel, as_it_lies) for channel in channels]


def volume_in_memory(image: SpatialImage, name: str, *, as_it_lies: bool = False) -> Volume:
    """Returns the volume of an image that nibabel holds, as `read_volume` returns that of its file.

    Args:
        image: of any kind that nibabel knows; one that is no NIfTI is converted.
        name: stands for the file in sentences.
        as_it_lies: as of `read_volume`.

    Raises:
        UserError: as of `read_volume`.
    """
    path = Path(name)
    if not isinstance(image, nib.Nifti1Image | nib.Nifti2Image):
        image = nib.Nifti1Image.from_image(image)
    check_sides(path, image.header)
    return _placed(path, image, _values(path, image, b""), None, as_it_lies)


def as_stored(array: Shaped[np.ndarray, "d h w *k"], reference: Volume) -> Shaped[np.ndarray, "_ _ _ *k"]:
    """Returns a canonical array, with or without channels behind, on the axes of a volume as it is stored."""
    back = ornt_transform(_CANONICAL, reference.orientation)
    return np.ascontiguousarray(apply_orientation(array, back))


def _placed(path: Path, image: nib.Nifti1Image, stored: np.ndarray, channel: int | None, as_it_lies: bool) -> Volume:
    """One volume of a file on its canonical axes."""
    shape = stored.shape
    stored = _one_volume(path, stored) if channel is None else _channel(path, stored, channel)
    standing = standing_of(path, image.header, stored.shape)
    orientation = io_orientation(standing.affine)
    canonical = standing.affine @ inv_ornt_aff(orientation, stored.shape)
    turned = apply_orientation(stored, orientation)
    return Volume(
        path=path,
        array=turned if as_it_lies else np.array(turned, order="C"),
        affine=canonical,
        spacing_mm=spacing_of(canonical),
        header=image.header.copy(),
        stored_affine=standing.affine,
        stored_shape=shape,
        orientation=orientation,
        oriented=standing.oriented,
        unit=standing.unit,
        channel=channel,
    )


def _one_volume(path: Path, stored: np.ndarray) -> np.ndarray:
    """The three axes of a file of one volume, trailing ones of length 1 left out."""
    shape = stored.shape
    while stored.ndim > 3 and stored.shape[-1] == 1:
        stored = stored[..., 0]
    if stored.ndim != 3 or 0 in stored.shape:
        advice = "give a slice a third axis of length 1" if stored.ndim == 2 else "split it into one per file"
        raise UserError(f"{path} has shape {shape}; one three-dimensional volume is expected: {advice}")
    return stored


def _channel(path: Path, stored: np.ndarray, channel: int) -> np.ndarray:
    """One volume of a four-dimensional file."""
    if stored.ndim != 4 or 0 in stored.shape or not 0 <= channel < stored.shape[-1]:
        raise UserError(
            f"{path} has shape {stored.shape}, and channel {channel} of a four-dimensional file is expected; "
            "check that it is the file that its name says"
        )
    return stored[..., channel]


def write_like(
    path: str | Path,
    array: Shaped[np.ndarray, "d h w"],
    reference: Grid,
    *,
    channel: int | None = None,
    dtype: np.dtype | type | str | None = None,
    description: str | None = None,
) -> None:
    """Writes a canonical array in the orientation and geometry of the file `reference`, or of its `channel`.

    Affine, qform and sform with their codes, zooms and units are the reference's. Intensity scaling, display range
    and header extensions (which may hold patient data) are not taken over. The file appears in one piece or not at
    all, and equal arrays give equal bytes.

    Args:
        path: the file, `.nii` or `.nii.gz`.
        array: values on the canonical axes.
        reference: a volume on the grid to write on: its file, or as it was read.
        channel: index along the fourth axis of the reference; None expects one volume.
        dtype: type on disk; by default the array's own, with booleans as uint8, float64 as float32 and 64-bit integers
            as int32.
        description: at most 80 characters of ASCII, in place of the reference's.

    Raises:
        UserError: values do not fit the type, shapes differ, or the name ends otherwise.
    """
    path = Path(path)
    _write_on_grid(path, _cast(path, np.asarray(array), dtype), reference, channel, description)


def write_rgb_like(path: str | Path, rgb: UInt8[np.ndarray, "d h w 3"], reference: Grid) -> None:
    """Writes a canonical color volume as RGB24 (NIfTI data type 128); else like `write_like`.

    Each voxel is one value of red, green and blue of 8 bits, so that the volume has three axes like its reference.
    """
    voxels = np.ascontiguousarray(rgb).view(_RGB24)[..., 0]
    _write_on_grid(Path(path), voxels, reference)


def write_channels_like(
    path: str | Path,
    array: Float[np.ndarray, "d h w k"],
    reference: Grid,
    *,
    channel: int | None = None,
    description: str | None = None,
) -> None:
    """Writes several canonical volumes as one four-dimensional file of float32; else like `write_like`."""
    path = Path(path)
    _write_on_grid(path, _cast(path, np.asarray(array), np.float32), reference, channel, description)


def _write_on_grid(
    path: Path,
    array: np.ndarray,
    grid: Grid,
    channel: int | None = None,
    description: str | None = None,
) -> None:
    """Writes values (d h w) or (d h w k) of the type that is to be on disk."""
    if not path.name.endswith((".nii", ".nii.gz")):
        raise UserError(f"{path} does not end in .nii or .nii.gz; name the output so")
    reference = grid if isinstance(grid, Volume) else read_volume(grid, channel=channel)
    if array.shape[:3] != reference.array.shape:
        raise UserError(
            f"the array for {path} has shape {array.shape}, its reference {reference.path} has "
            f"{reference.array.shape} on the canonical axes; write on the grid of the case's own image"
        )
    stored = as_stored(array, reference)
    header = reference.header.copy()
    header.extensions.clear()
    header.set_data_dtype(stored.dtype)
    header["cal_min"] = header["cal_max"] = 0
    if description is not None:
        header["descrip"] = description.encode("ascii")
    kind = nib.Nifti2Image if isinstance(header, nib.Nifti2Header) else nib.Nifti1Image
    # Without an affine nibabel leaves that of the header, its codes and its unit as they are.
    content = kind(stored, None, header).to_bytes()
    # A fixed time stamp: two runs that agree give files that agree.
    write_whole(path, gzip.compress(content, 4, mtime=0) if path.name.endswith(".gz") else content)


def geometry_mismatch(a: Volume, b: Volume) -> str:
    """Returns a clause with both values and what to do where two volumes are not known to lie on one grid, else "".

    Corners are compared in voxels: headers that were written by different tools differ in the last digits of a float.
    A volume whose orientation is assumed lies on one grid with others of that kind only.
    """
    if a.oriented != b.oriented:
        assumed, stated = (b, a) if a.oriented else (a, b)
        return (
            f"the orientation of {assumed.name} is assumed, for its header states none, and that of {stated.name} is "
            "stated, so that left and right may differ; convert both from one kind of file by one program"
        )
    if a.array.shape != b.array.shape:
        return f"shape {a.array.shape} of {a.name} differs from {b.array.shape} of {b.name}; {_RESAMPLE}"
    shift = shift_in_voxels(a.affine, b.affine, a.array.shape)
    if shift > _ONE_GRID:
        return (
            f"affine {inline(a.affine)} of {a.name} differs from {inline(b.affine)} of {b.name} by {shift:.3g} voxels; "
            f"{_RESAMPLE}"
        )
    return ""


def _read(path: Path) -> tuple[nib.Nifti1Image, np.ndarray]:
    """The image of a file, and its voxels on the axes as stored, which may be read-only."""
    if is_pair(path):
        try:
            image = open_pair(path)
        except UserError:  # a file of the pair is missing
            raise
        except DAMAGE as error:
            raise UserError(f"{path} is damaged or cut short ({error}); copy or download it again") from error
        return image, _values(path, image, b"")
    try:
        content = path.read_bytes()
    except OSError as error:
        raise UserError(f"{path} cannot be read ({error.strerror}); check the path") from error
    try:
        if content[:2] == GZIP_MAGIC:
            content = unpacked(content)
        kind = kind_of(content)
        if kind is not None:
            size = kind.header_class.sizeof_hdr
            check_sides(path, kind.header_class(content[:size], check=False))
            image = kind.from_bytes(content)
            return image, _values(path, image, content)
    except UserError:
        raise
    except DAMAGE as error:
        raise UserError(f"{path} is damaged or cut short ({error}); copy or download it again") from error
    raise UserError(f"{path} is not a single-file NIfTI volume; convert it to .nii or .nii.gz")


def _values(path: Path, image: nib.Nifti1Image, content: bytes) -> np.ndarray:
    """The voxels of an image; without a copy where `content`, its file, holds them as they are meant."""
    kind = np.dtype(image.get_data_dtype())
    if kind.kind not in "iuf":
        raise UserError(f"{path} holds values of type {kind}; real numbers, one per voxel, are expected")
    try:
        array = _in_place(image, content)
        array = np.asanyarray(image.dataobj) if array is None else array
    except DAMAGE as error:
        raise UserError(f"{path} is damaged or cut short ({error}); copy or download it again") from error
    if array.dtype.kind == "f":
        return array.astype(np.float32, copy=False)
    return array.astype(array.dtype.newbyteorder("="), copy=False)


def _in_place(image: nib.Nifti1Image, content: bytes) -> np.ndarray | None:
    """The voxels where they lie in a file's content; None where they are scaled, or not all there."""
    stored = image.dataobj
    if not (isinstance(stored, ArrayProxy) and (stored.slope, stored.inter) == (1, 0)):
        return None
    count = math.prod(stored.shape)
    if len(content) < stored.offset + count * stored.dtype.itemsize:
        return None
    return np.frombuffer(content, stored.dtype, count, stored.offset).reshape(stored.shape, order="F")


def _cast(path: Path, array: np.ndarray, dtype: np.dtype | type | str | None) -> np.ndarray:
    target = np.dtype(dtype) if dtype is not None else _ON_DISK.get(array.dtype.name, array.dtype)
    if target.kind not in "iuf":
        raise UserError(f"{path} cannot be written as {target}; choose an integer or floating type")
    if target.kind == "f":
        return array.astype(target)
    limits = np.iinfo(target.name)
    if array.dtype.kind == "f" and not np.array_equal(array, np.rint(array)):
        raise UserError(
            f"the array for {path} has values that are not whole numbers; write it as float32, not {target}"
        )
    if array.size and (array.min() < limits.min or array.max() > limits.max):
        raise UserError(f"the array for {path} runs from {array.min()} to {array.max()}, beyond the range of {target}")
    return array.astype(target)
