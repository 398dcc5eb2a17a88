"""Files of volumes as bytes: unpacked, told apart, and their form read from the header alone."""

from __future__ import annotations

import gzip
import re
import zlib
from dataclasses import dataclass
from pathlib import Path

import nibabel as nib
import numpy as np
from nibabel.filebasedimages import ImageFileError
from nibabel.spatialimages import HeaderDataError

from jaxfuse.io.analyze import files_of, is_pair

GZIP_MAGIC = b"\x1f\x8b"
# The method, deflate, and five flags of bits follow.
_GZIP_MEMBER = re.compile(rb"\x1f\x8b\x08[\x00-\x1f]", re.DOTALL)
# Of the longer of the two kinds.
_HEADER_BYTES = 540
# A byte of deflate holds no more.
_MOST_PACKED = 1032
# What gzip, zlib and nibabel raise for damaged bytes.
DAMAGE = (
    gzip.BadGzipFile,
    zlib.error,
    EOFError,
    OSError,
    ValueError,
    ImageFileError,
    HeaderDataError,
)


@dataclass(frozen=True)
class Form:
    """The form of a volume's file, as its header tells it.

    Attributes:
        shape: as stored.
        dtype: of a voxel as stored.
        scaled: whether the header scales intensities, so that they are read as floating point.
        sides_mm: of a voxel, as stored.
    """

    shape: tuple[int, ...]
    dtype: np.dtype
    scaled: bool
    sides_mm: tuple[float, ...]


def form_of(path: str | Path) -> Form | None:
    """Reads the form of a volume without its voxels; None where the header cannot be read, as reading will tell."""
    path = Path(path)
    try:
        if is_pair(path):
            header, scaled = nib.Spm2AnalyzeHeader(files_of(path)[0].read_bytes()[:348], check=False), True
        else:
            with path.open("rb") as file:
                content = file.read(_HEADER_BYTES)
            if content[:2] == GZIP_MAGIC:
                content = zlib.decompressobj(16 + zlib.MAX_WBITS).decompress(content, _HEADER_BYTES)
            if (kind := kind_of(content)) is None:
                return None
            header = kind.header_class(content[: kind.header_class.sizeof_hdr], check=False)
            scaled = tuple(header.get_slope_inter()) not in ((1, 0), (None, None))
        shape = tuple(map(int, header.get_data_shape()))
        sides = tuple(abs(float(side)) or 1.0 for side in header["pixdim"][1:4])
        return Form(shape, np.dtype(header.get_data_dtype()), scaled, sides)
    except DAMAGE:
        return None


def unpacked(packed: bytes) -> bytes:
    """Unpacks a gzip file.

    Memory of the right size is taken at once, by the length that its last bytes state: this halves the time. They
    state that of the last member; what may be a file of several is unpacked member by member.
    """
    stated = int.from_bytes(packed[-4:], "little")
    if stated <= _MOST_PACKED * len(packed) and not _GZIP_MEMBER.search(packed, 1):
        content = zlib.decompress(packed, 16 + zlib.MAX_WBITS, stated)
        if len(content) == stated:
            return content
    return gzip.decompress(packed)


def kind_of(content: bytes) -> type[nib.Nifti1Image] | None:
    """The kind of a single-file volume, by its magic."""
    if content[344:347] == b"n+1":
        return nib.Nifti1Image
    return nib.Nifti2Image if content[4:7] == b"n+2" else None
