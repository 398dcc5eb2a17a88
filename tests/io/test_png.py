"""PNG images of 8 bits, gray and RGB; everything else is refused."""

import struct
import zlib

import numpy as np
import pytest
from PIL import Image

from jaxfuse.io.png import png_size, read_png, write_png
from tests.refusals import refused

GRAY = np.arange(6, dtype=np.uint8).reshape(2, 3) * 51
COLOR = np.stack([GRAY, GRAY[::-1], 255 - GRAY], axis=-1)


def chunk(kind: bytes, content: bytes) -> bytes:
    return struct.pack(">I", len(content)) + kind + content + struct.pack(">I", zlib.crc32(kind + content))


def png_bytes(rows: list[bytes], width: int, bits: int, kind: int) -> bytes:
    """A PNG by its specification, each row unfiltered."""
    header = struct.pack(">IIBBBBB", width, len(rows), bits, kind, 0, 0, 0)
    pixels = zlib.compress(b"".join(b"\0" + row for row in rows))
    return b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", header) + chunk(b"IDAT", pixels) + chunk(b"IEND", b"")


@pytest.mark.parametrize("pixels", [GRAY, COLOR], ids=["gray", "color"])
def test_what_is_written_is_read(tmp_path, pixels):
    path = tmp_path / "deep" / "er" / "a.png"
    write_png(path, pixels)
    back = read_png(path)
    np.testing.assert_array_equal(back, pixels)
    assert (back.dtype, back.flags.writeable) == (np.uint8, True)
    assert png_size(path) == (2, 3)
    # Another reader sees the same.
    np.testing.assert_array_equal(np.asarray(Image.open(path)), pixels)
    assert [p.name for p in path.parent.iterdir()] == ["a.png"]


def test_rows_lie_as_the_format_says_and_views_are_written_as_they_look(tmp_path):
    one, other = tmp_path / "a.png", tmp_path / "b.png"
    one.write_bytes(png_bytes([b"\x01\x02\x03", b"\x04\x05\x06"], 3, 8, 0))
    np.testing.assert_array_equal(read_png(one), [[1, 2, 3], [4, 5, 6]])
    write_png(one, GRAY.T[::-1])
    write_png(other, np.ascontiguousarray(GRAY.T[::-1]))
    np.testing.assert_array_equal(read_png(one), GRAY.T[::-1])
    assert one.read_bytes() == other.read_bytes()


@pytest.mark.parametrize(
    ("bits", "kind", "row", "said"),
    [
        (16, 0, b"\1\2" * 2, "holds gray of 16 bits"),
        # Pillow alone would cut these to 8 bits without a word.
        (16, 2, b"\1\2" * 6, "holds RGB of 16 bits"),
        (8, 6, b"\1\2\3\4" * 2, "holds RGB with transparency of 8 bits"),
        (8, 4, b"\1\2" * 2, "holds gray with transparency of 8 bits"),
        (1, 0, b"\x80", "holds gray of 1 bits"),
        (8, 3, b"\0\0", "holds a palette of 8 bits"),
    ],
)
def test_other_kinds_of_pixels_are_refused(tmp_path, bits, kind, row, said):
    path = tmp_path / "a.png"
    path.write_bytes(png_bytes([row], 2, bits, kind))
    refused(said, read_png, path)


def test_missing_foreign_and_damaged_files_are_refused(tmp_path):
    path = tmp_path / "a.png"
    refused("a.png cannot be read .*check the path", read_png, path)
    Image.fromarray(COLOR).save(path, format="JPEG")
    for read in (read_png, png_size):
        refused("a.png is no PNG image", read, path)
    write_png(path, np.random.default_rng(0).integers(0, 255, (20, 20), np.uint8))
    whole = path.read_bytes()
    for end in (30, 60, len(whole) - 30):
        path.write_bytes(whole[:end])
        refused("a.png is damaged or cut short", read_png, path)


@pytest.mark.parametrize(
    "pixels",
    [GRAY.astype(np.float32) / 255, GRAY.astype(np.int64), GRAY[0], COLOR[..., :2], np.zeros((0, 3), np.uint8)],
)
def test_other_types_and_shapes_are_not_written(tmp_path, pixels):
    refused("of type uint8 are expected", write_png, tmp_path / "a.png", pixels)
    refused("does not end in .png", write_png, tmp_path / "a.jpg", GRAY)
    assert list(tmp_path.iterdir()) == []
