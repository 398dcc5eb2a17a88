"""A network fuses into colors of its own, which files, tables and data sets of gray images are not made for."""

from dataclasses import dataclass

import jax.numpy as jnp
import nibabel as nib
import numpy as np
import pytest

from jaxfuse.brats_fuse.__main__ import read_combos
from jaxfuse.brats_fuse.build import make_data_set
from jaxfuse.brats_fuse.plan import Order
from jaxfuse.engine.display import Display
from jaxfuse.engine.trained.fused_files import fuse_images
from jaxfuse.io.png import read_png, write_png
from tests.engine.trained.test_slice_fuser import FLAT, Averager, fuses
from tests.faults.catalogue import given, table
from tests.made_cases import head, save_volume, write_case
from tests.refusals import refused
from tests.untrained_run import fixed_system

RNG = np.random.default_rng(0)
FIRST, SECOND = RNG.integers(1, 256, (2, 8, 8), np.uint8)


@dataclass(frozen=True)
class Tinted(Averager):
    """Shows the first image in red and the second in cyan."""

    def fuse(self, state, inputs):
        return {"fused": jnp.asarray(inputs["image"])[..., :2]}


@pytest.fixture
def phase():
    return fuses(fixed_system(FLAT, "S", kind=Tinted, lacks=("attention",)))


@pytest.fixture
def pictures(tmp_path):
    paths = [tmp_path / f"{name}.png" for name in ("a", "b", "PET")]
    for path, pixels in zip(paths, (FIRST, SECOND, RNG.integers(60, 190, (8, 8, 3), np.uint8)), strict=True):
        write_png(path, pixels)
    return paths


@given("gray pictures, fused by a run into red and cyan", "a picture in color, the first in red and the second in cyan")
def test_pictures_are_written_in_color(phase, pictures, tmp_path):
    fuse_images(phase, pictures[:2], tmp_path / "out.png", Display(), preview=tmp_path / "look.png")
    np.testing.assert_array_equal(read_png(tmp_path / "out.png"), np.stack([FIRST, SECOND, SECOND], axis=-1))
    assert (tmp_path / "look.png").is_file()


@given("volumes, fused by the same run", "a volume of RGB24 on the grid of the first one, black where nothing is shown")
def test_volumes_are_written_in_color(phase, tmp_path):
    paths, inside = [tmp_path / f"{name}.nii.gz" for name in ("t1", "t2")], head((8, 8, 6), 0)["t1"] > 0
    for seed, path in enumerate(paths):
        save_volume(path, head((8, 8, 6), seed)["t1"])
    fuse_images(phase, paths, tmp_path / "out.nii.gz", Display())
    made = nib.load(tmp_path / "out.nii.gz")
    red, green, blue = (np.asarray(made.dataobj)[name] for name in "RGB")
    assert made.shape == nib.load(paths[0]).shape
    np.testing.assert_array_equal(green, blue)
    assert (red != green).any()
    assert not red[~inside].any()


@table(
    "images,options",
    ("the same with a picture in color", "refused: gray images, or a run that fuses to gray", (0, 2), {}),
    ("the same with `--color`", "refused in the same words", (0, 1), {"color": ("2=hot",)}),
)
def test_colors_of_images_are_not_dropped(phase, pictures, tmp_path, images, options):
    chosen, told = (
        [pictures[number] for number in images],
        "run:phase fuses into colors of its own, and .* came in color",
    )
    refused(told, fuse_images, phase, chosen, tmp_path / "out.png", Display(), **options)
    assert not (tmp_path / "out.png").exists()


@given("`brats_fuse` of such a run", "refused: the data set holds gray images")
def test_a_data_set_of_gray_images_takes_none_in_color(phase, tmp_path):
    for number in range(3):
        write_case(tmp_path / "root", f"c{number}", head((12, 12, 10), number))
    plain = dict.fromkeys(("layout", "labels", "hd_bet_device"))
    plain |= dict.fromkeys(("one_per_case", "attention", "allow_trained", "allow_untrained"), False)
    plain |= {"axis": "axial", "brain_mask": "union", "combos": "trained", "modalities": ["t1", "t2", "flair"]}
    plain |= {"root": str(tmp_path / "root"), "run": "run", "out": str(tmp_path / "out")}
    order = Order(**plain, seed=0, panels=0, batch=1, devices="1")
    told = "run:phase fuses into color, and BraTS-Fuse holds gray images; name a run"
    refused(told, make_data_set, order, phase, read_combos, Display())
    assert not (tmp_path / "out").exists()
