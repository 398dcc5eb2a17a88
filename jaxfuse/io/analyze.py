"""Volumes stored as a pair of files, NAME.hdr and NAME.img: Analyze 7.5, and NIfTI-1 in the same form.

An Analyze header holds sizes, voxel sides and (as SPM writes it) a scale of intensities, but no orientation that
programs agree on; its byte for one is seldom set and seldom read, and is not read here, nor is a .mat file of SPM. So
**the axes as stored are taken for the canonical ones** (`jaxfuse.io.geometry`): axis 0 to the right, axis 1 to the
front, axis 2 up. Left and right may be the other way round, and nothing in the file can tell; what is written on the
grid of a pair states no orientation either, so that every program takes it as it takes the pair. A NIfTI-1 pair has its
orientation in its header.
"""

from __future__ import annotations

import io
from collections.abc import Sequence
from pathlib import Path

import nibabel as nib
import numpy as np
from jaxtyping import Shaped
from nibabel.fileholders import FileHolder

from jaxfuse.errors import UserError
from jaxfuse.io.geometry import check_sides

EXTENSIONS = (".hdr", ".img")
_NIFTI_MAGIC = b"ni1"
_HEADER_BYTES = 348


def is_pair(path: Path) -> bool:
    """Tells whether a name is that of one file of a pair."""
    return path.suffix in EXTENSIONS


def files_of(path: Path) -> tuple[Path, ...]:
    """Returns the files that a volume is stored in: header and voxels of a pair, by the name of either; else one."""
    return tuple(path.with_suffix(extension) for extension in EXTENSIONS) if is_pair(path) else (path,)


def open_pair(path: Path) -> nib.Nifti1Image:
    """Reads a pair as a NIfTI image in memory, on the axes that the head of this module names.

    Raises:
        UserError: one of the two files is missing or cannot be read.
        ValueError, ImageFileError, HeaderDataError: the files are damaged, as nibabel says it.
    """
    header, voxels = (_content(part) for part in files_of(path))
    if len(header) < _HEADER_BYTES:
        raise ValueError(f"its header has {len(header)} of {_HEADER_BYTES} bytes")
    kind = nib.Nifti1Pair if header[344:347] == _NIFTI_MAGIC else nib.Spm2AnalyzeImage
    check_sides(path, kind.header_class(header[:_HEADER_BYTES], check=False))
    # nibabel looks for SPM's file of an orientation as well: none.
    stored = kind.from_file_map({"header": _holder(header), "image": _holder(voxels), "mat": _holder(b"")})
    array = np.asanyarray(stored.dataobj)
    if isinstance(stored, nib.Nifti1Pair):
        return nib.Nifti1Image(array, None, _single(stored.header))
    image = nib.Nifti1Image(array, None)  # of no orientation, as the pair
    image.header.set_zooms([abs(float(side)) for side in stored.header.get_zooms()])
    image.header.set_xyzt_units("mm")
    return image


def _single(header: nib.Nifti1Header) -> nib.Nifti1Header:
    """The header of a pair as that of one file; the values that it belongs to are scaled already."""
    single = nib.Nifti1Header(header.binaryblock, header.endianness, check=False).as_byteswapped("<")
    single["magic"], single["vox_offset"] = nib.Nifti1Header.single_magic, 0
    single.set_slope_inter(1, 0)
    return single


def write_analyze(path: Path, array: Shaped[np.ndarray, "d h w"], sides_mm: Sequence[float]) -> None:
    """Writes an Analyze 7.5 pair, `path` being that of the header, with the trailing axis of length 1 of iSeg's files.

    The type on disk is the array's: uint8, int16, int32 or float32. Equal arrays give equal bytes.
    """
    header = nib.AnalyzeHeader(endianness="<")
    header.set_data_dtype(array.dtype)
    header.set_data_shape((*array.shape, 1))
    header.set_zooms((*(float(side) for side in sides_mm), 1.0))
    header_path, voxels_path = files_of(path)
    header_path.write_bytes(header.binaryblock)
    voxels_path.write_bytes(array.astype(array.dtype.newbyteorder("<")).tobytes(order="F"))


def _holder(content: bytes) -> FileHolder:
    return FileHolder(fileobj=io.BytesIO(content))


def _content(path: Path) -> bytes:
    try:
        return path.read_bytes()
    except OSError as error:
        raise UserError(f"{path} cannot be read ({error.strerror}); a pair needs both .hdr and .img") from error
