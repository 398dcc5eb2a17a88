"""Images whose 0 is content, as of CT in Hounsfield units, and fused images of nothing."""

from dataclasses import dataclass

import numpy as np
import pytest

from jaxfuse.data.registered import fuse_volume, read_pictures, read_volumes
from jaxfuse.data.slices import AXES
from jaxfuse.engine.trained.slice_fuser import slice_fuser
from jaxfuse.io.png import write_png
from tests.engine.trained.test_slice_fuser import FLAT, Averager, fuses
from tests.faults.catalogue import given, table
from tests.made_cases import ellipsoid, save_volume
from tests.untrained_run import fixed_system

SHAPE = (24, 26, 20)
HEAD, CSF = ellipsoid(SHAPE, (10, 11, 8)), ellipsoid(SHAPE, (4, 4, 3))
RNG = np.random.default_rng(0)
TISSUE = np.where(HEAD, RNG.integers(20, 45, SHAPE), -1000)
BONE = HEAD & ~ellipsoid(SHAPE, (9, 10, 7))
MRI = np.where(HEAD, RNG.integers(100, 300, SHAPE), 0).astype(np.int16)


def ct(water, around=-1000):
    """A head with bone, and water of these Hounsfield units in its middle."""
    image = np.where(BONE, 900, np.where(CSF, water, TISSUE))
    return np.where(HEAD, image, around).astype(np.int16)


def volumes(folder, first):
    return read_volumes([save_volume(folder / "ct.nii", first), save_volume(folder / "t1.nii", MRI)], {})


CHESS = np.indices(SHAPE).sum(0) % 2


@table(
    "image, around",
    ("water of 0 and 1 HU in turn, air of -1000", "both look alike, and none is background", ct(CHESS), -1000),
    ("the same with a padding of -2000", "the same", ct(CHESS, -2000), -2000),
    ("the same, registered onto a grid that is padded with 0", "the same", ct(CHESS, 0), 0),
    ("the same with air that is noise", "the same", np.where(HEAD, ct(CHESS), RNG.integers(-1004, -996, SHAPE)), -1000),
)
def test_water_of_0_looks_like_water_of_1(tmp_path, image, around):
    images = volumes(tmp_path, image.astype(np.int16))
    np.testing.assert_array_equal(images.shown, HEAD)
    gray = images.gray[..., 0]
    assert gray[CSF].min() > 0
    assert np.ptp(gray[CSF]) < 0.01
    assert images.untold == ()


@given(
    "a picture with pixels of level 0 within the head", "they are shown, also under a color map, as those of level 1"
)
def test_dark_pixels_of_a_picture_are_no_background(tmp_path):
    picture = np.where(HEAD[:, :, 10], 120, 0).astype(np.uint8)
    picture[10:14, 11:15] = CHESS[10:14, 11:15, 0]
    paths = [tmp_path / name for name in ("a.png", "b.png")]
    for path in paths:
        write_png(path, picture)
    images = read_pictures(paths, {0: "viridis"})
    np.testing.assert_array_equal(images.shown, HEAD[:, :, 10])
    assert np.ptp(images.color[0][10:14, 11:15]) < 0.4
    assert images.color[0][10:14, 11:15].any(-1).all()
    assert not images.color[0][~images.shown].any()


@dataclass(frozen=True)
class Brighter(Averager):
    """Makes a quarter of nothing."""

    def fuse(self, state, inputs):
        return {"fused": super().fuse(state, inputs)["fused"] + 0.25}


@given("a network that makes something of a background of 0", "0 in fused volumes, pictures and slices of a data set")
def test_the_background_of_fused_images_is_0(tmp_path):
    fuse = slice_fuser(fuses(fixed_system(FLAT, "S", kind=Brighter, lacks=("attention",))))
    stack = RNG.uniform(0.1, 1, (2, 16, 16, 3)).astype(np.float32)
    stack[:, :5] = 0
    made = fuse(stack, np.ones(3))["fused"][..., 0]
    assert (made[:, 5:] > 0.25).all()
    assert not made[:, :5].any()
    shown = np.zeros((2, 16, 16), bool)
    shown[:, 3:9] = True
    np.testing.assert_array_equal(fuse(stack, np.ones(3), shown)["fused"][..., 0] > 0, shown)


@given("pictures and volumes of one head", "their fused images agree, background included")
@pytest.mark.parametrize("axis", AXES)
def test_pictures_and_volumes_agree(tmp_path, axis):
    images = volumes(tmp_path, ct(CHESS))
    fused = fuse_volume(lambda stack, shown: np.where(shown, stack.mean(-1) + 0.1, 0), images, AXES[axis])
    assert not fused[~HEAD].any()
    assert fused[HEAD].min() > 0.1
