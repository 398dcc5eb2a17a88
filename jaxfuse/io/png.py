"""PNG images of 8 bits: gray ones as (h w), color ones as (h w 3), rows before columns, top row first."""

from __future__ import annotations

import io
import struct
from pathlib import Path

import numpy as np
from jaxtyping import Shaped, UInt8
from PIL import Image

from jaxfuse.errors import UserError
from jaxfuse.io.whole_file import write_whole

Pixels = UInt8[np.ndarray, "h w *rgb"]

_MAGIC = b"\x89PNG\r\n\x1a\n"
_HEADER = struct.Struct(">8s4x4sIIBB")  # signature, IHDR, width, height, bits, color type
_GRAY, _RGB = 0, 2
_KINDS = {
    _GRAY: "gray",
    _RGB: "RGB",
    3: "a palette",
    4: "gray with transparency",
    6: "RGB with transparency",
}
# Errors that Pillow raises for damaged bytes.
_DAMAGE = (OSError, SyntaxError, ValueError, EOFError, struct.error, Image.DecompressionBombError)


def read_png(path: str | Path) -> Pixels:
    """The pixels of a gray (h w) or RGB (h w 3) file.

    Raises:
        UserError: the file is missing, damaged, no PNG, or of another kind. Other kinds would have to be changed to fit
            8 bits, and a reader must not do that unasked.
    """
    path = Path(path)
    content = _bytes(path)
    _, _, bits, kind = _header(path, content)
    if bits != 8 or kind not in (_GRAY, _RGB):
        raise UserError(
            f"{path} holds {_KINDS.get(kind, 'an unknown kind of pixel')} of {bits} bits; convert it to gray or RGB "
            "of 8 bits without transparency"
        )
    try:
        with Image.open(io.BytesIO(content), formats=("PNG",)) as image:
            pixels = np.array(image)
    except _DAMAGE as error:
        raise UserError(f"{path} is damaged or cut short ({error}); copy or download it again") from error
    return pixels


def png_size(path: str | Path) -> tuple[int, int]:
    """Rows and columns, from the header alone.

    Raises:
        UserError: the file is missing or no PNG.
    """
    path = Path(path)
    rows, columns, _, _ = _header(path, _bytes(path, _HEADER.size))
    return rows, columns


def write_png(path: str | Path, pixels: Shaped[np.ndarray, ...]) -> None:
    """Writes a gray (h w) or RGB (h w 3) image of type uint8; its folder is made if need be.

    The file appears in one piece or not at all, and equal pixels give equal bytes.

    Raises:
        UserError: another type or shape, or a name that does not end in `.png`.
    """
    path = Path(path)
    if path.suffix != ".png":
        raise UserError(f"{path} does not end in .png; name the output so")
    fits = pixels.ndim == 2 or (pixels.ndim == 3 and pixels.shape[2] == 3)
    if pixels.dtype != np.uint8 or not fits or 0 in pixels.shape:
        raise UserError(
            f"the image for {path} has shape {pixels.shape} and type {pixels.dtype}; rows x columns, or rows x columns "
            "x 3 for color, of type uint8 are expected"
        )
    packed = io.BytesIO()
    Image.fromarray(np.ascontiguousarray(pixels)).save(packed, format="PNG")
    write_whole(path, packed.getvalue())


def _bytes(path: Path, count: int = -1) -> bytes:
    try:
        with path.open("rb") as file:
            return file.read(count)
    except OSError as error:
        raise UserError(f"{path} cannot be read ({error.strerror}); check the path") from error


def _header(path: Path, content: bytes) -> tuple[int, int, int, int]:
    """Rows, columns, bits per channel and color type."""
    if len(content) >= _HEADER.size:
        magic, chunk, columns, rows, bits, kind = _HEADER.unpack(content[: _HEADER.size])
        if magic == _MAGIC and chunk == b"IHDR":
            return rows, columns, bits, kind
    raise UserError(f"{path} is no PNG image; convert it to PNG, or leave it out")
