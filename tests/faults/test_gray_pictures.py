"""A gray picture that is stored in color is refused or fused as colored for the noise that JPEG left in it.

"Gray" means that the channels of no pixel differ by more than four levels, which no eye sees.
"""

import io
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from jaxfuse.data.color import nearly_gray_content
from jaxfuse.data.registered import read_pictures
from jaxfuse.data.sources.pairs2d import find_pairs, load_pair
from jaxfuse.engine.display import Display
from jaxfuse.engine.trained import fused_files
from jaxfuse.engine.trained.fused_files import ImageFuser, fuse_images, fuse_pairs
from jaxfuse.engine.trained.phases import TrainedPhase
from jaxfuse.engine.trained.slice_fuser import SliceFuser
from jaxfuse.errors import UserError
from jaxfuse.io.png import read_png, write_png
from tests.faults.catalogue import given, table

RNG = np.random.default_rng(0)
LEVELS = np.add.outer(np.arange(24), np.arange(20)).astype(np.uint8) * 5
STORED = np.repeat(LEVELS[..., None], 3, axis=-1)


def off_by_one() -> np.ndarray:
    """One channel of one pixel differs by a level."""
    pixels = STORED.copy()
    pixels[7, 7, 2] += 1
    return pixels


def noisy() -> np.ndarray:
    """Every channel differs from gray by up to two levels."""
    return np.clip(STORED + RNG.integers(-2, 3, STORED.shape), 0, 255).astype(np.uint8)


def through_jpeg() -> np.ndarray:
    """The picture as a JPEG file gives it back, its chrominance one level off neutral."""
    shifted = STORED.astype(np.int16) + np.array([1, 0, -1])
    packed = io.BytesIO()
    Image.fromarray(np.clip(shifted, 0, 255).astype(np.uint8)).save(packed, "JPEG", quality=90, subsampling=0)
    return np.array(Image.open(packed))


def with_a_mark() -> np.ndarray:
    """Gray but for a small red mark."""
    pixels = STORED.copy()
    pixels[3:5, 3:5] = 200, 20, 20
    return pixels


def tinted() -> np.ndarray:
    """Brownish throughout, by eight levels."""
    return np.clip(STORED.astype(np.int16) + np.array([4, 0, -4]), 0, 255).astype(np.uint8)


def pair(folder: Path, mri: np.ndarray, name: str = "a") -> Path:
    """Writes a pair of MRI and CT; returns the folder around the collection."""
    write_png(folder / "MRI_CT" / "MRI" / f"{name}.png", mri)
    write_png(folder / "MRI_CT" / "CT" / f"{name}.png", LEVELS)
    return folder


@table(
    "pixels",
    ("an MRI picture stored as RGB, one channel of one pixel a level off", "gray", off_by_one()),
    ("an MRI picture stored as RGB, channels off by up to two levels", "gray", noisy()),
    ("an MRI picture that went through JPEG", "gray", through_jpeg()),
)
def test_noise_is_no_color(tmp_path, pixels):
    files = find_pairs(pair(tmp_path, pixels), ("mri", "ct"))[0]
    read = load_pair(files, ("mri", "ct"))
    assert (read.color, read.nearly_gray) == ({}, (files.images["mri"].path,))
    np.testing.assert_allclose(read.gray["mri"] * 255, pixels @ [0.299, 0.587, 0.114], atol=0.51)
    images = read_pictures([files.images[name].path for name in ("mri", "ct")], {0: "hot"})
    assert (list(images.color), images.nearly_gray) == ([0], ("MRI",))


@table(
    "pixels",
    ("an MRI picture with a small red mark", "refused as colored", with_a_mark()),
    ("an MRI picture tinted by eight levels", "refused as colored", tinted()),
    ("a PET picture in the place of MRI", "refused as colored", RNG.integers(0, 256, (24, 20, 3), np.uint8)),
)
def test_color_is_color(tmp_path, pixels):
    files = find_pairs(pair(tmp_path, pixels), ("mri", "ct"))[0]
    with pytest.raises(UserError, match=r"MRI/a\.png has color, and a gray image is expected of mri"):
        load_pair(files, ("mri", "ct"))
    images = read_pictures([files.images[name].path for name in ("mri", "ct")], {})
    assert (list(images.color), images.nearly_gray) == ([0], ())


def test_what_is_gray_already_is_not_meant():
    assert nearly_gray_content(LEVELS) is None
    assert nearly_gray_content(STORED) is None


@given("a folder of such MRI pictures for fuse", "fused in gray, and said once")
def test_it_is_said_once(tmp_path, monkeypatch, capsys):
    slices = SliceFuser(1, lambda images, *_: {"fused": images[..., :1]})
    first = ImageFuser("run:fusion", ("t1", "t2"), 2, slices, "fused")
    monkeypatch.setattr(fused_files, "image_fuser", lambda phase, count, **how: first)
    monkeypatch.setattr(fused_files, "untrained_count", lambda phase, count: "")
    phase = object.__new__(TrainedPhase)  # of which nothing is asked
    for name in "abc":
        pair(tmp_path / "in", noisy(), name)
    fuse_pairs(phase, tmp_path / "in", tmp_path / "out", Display())
    assert capsys.readouterr().out.count("taken for gray") == 1
    paths = [tmp_path / "in" / "MRI_CT" / name / "a.png" for name in ("MRI", "CT")]
    fuse_images(phase, paths, tmp_path / "a.png", Display())
    said = capsys.readouterr().out
    assert said.count("MRI: stored in color, with channels that differ by a few levels; taken for gray") == 1
    for path in (tmp_path / "a.png", tmp_path / "out" / "MRI_CT" / "a.png"):
        assert read_png(path).ndim == 2
