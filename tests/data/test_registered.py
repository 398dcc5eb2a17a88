"""Pictures and volumes of one subject: read, shown in color, fused by a simple rule, made ready for a file."""

from pathlib import Path

import numpy as np
import pytest

from jaxfuse.data.color import color_map, to_ycbcr
from jaxfuse.data.registered import (
    NIFTI,
    PNG,
    chosen_maps,
    fuse_picture,
    fuse_volume,
    in_levels,
    kind_of,
    names_of,
    read_pictures,
    read_volumes,
)
from jaxfuse.data.slices import AXIAL, CORONAL, SAGITTAL
from jaxfuse.io.png import write_png
from tests.made_cases import save_volume
from tests.refusals import refused

RNG = np.random.default_rng(0)
GRAY, OTHER = (RNG.integers(0, 256, (5, 4), np.uint8) for _ in range(2))
COLOR = RNG.integers(60, 190, (5, 4, 3), np.uint8)


def head(shape=(6, 5, 4), seed=0):
    """A box of numbers within zeros; the lowest and the highest slice across each axis are empty."""
    volume = np.zeros(shape, np.float32)
    inside = tuple(slice(1, side - 1) for side in shape)
    volume[inside] = np.random.default_rng(seed).uniform(100, 200, volume[inside].shape)
    return volume


def heads(folder):
    return [save_volume(folder / f"{i}.nii", head(seed=i)) for i in range(3)]


@pytest.fixture
def pictures(tmp_path):
    for name, pixels in (("MRI", GRAY), ("CT", OTHER), ("PET", COLOR), ("as_rgb", np.repeat(GRAY[..., None], 3, -1))):
        write_png(tmp_path / f"{name}.png", pixels)
    return lambda *names: [tmp_path / f"{name}.png" for name in names]


def test_gray_pictures_are_levels_over_255(pictures):
    images = read_pictures(pictures("MRI", "CT", "as_rgb"), {})
    assert (images.names, images.color, images.spacing_mm) == (("MRI", "CT", "as_rgb"), {}, (1.0, 1.0))
    np.testing.assert_array_equal(np.rint(images.gray * 255), np.stack([GRAY, OTHER, GRAY], -1))
    fused = fuse_picture(lambda stack, shown: stack.max(-1), images)
    np.testing.assert_array_equal(in_levels(fused, []), np.maximum(GRAY, OTHER))


def test_a_fused_luminance_takes_the_color_of_its_source(pictures):
    images = read_pictures(pictures("MRI", "PET"), {})
    np.testing.assert_allclose(images.gray[..., 1], to_ycbcr(COLOR / 255)[..., 0], atol=1e-6)
    # The color source fused with nothing is itself.
    alone = fuse_picture(lambda stack, shown: stack[..., 1], images)
    np.testing.assert_array_equal(in_levels(alone, list(images.color.values())), COLOR)
    brighter = in_levels(np.minimum(alone + 20 / 255, 1), list(images.color.values())).astype(int)
    np.testing.assert_allclose(brighter, COLOR.astype(int) + 20, atol=1)


def test_a_color_map_gives_a_gray_image_color(pictures):
    images = read_pictures(pictures("MRI", "CT"), {1: "hot"})
    expected = np.where(OTHER[..., None] == 0, 0, color_map("hot")[OTHER])
    np.testing.assert_array_equal(images.color[1], expected)
    np.testing.assert_allclose(images.gray[..., 1], np.clip(to_ycbcr(expected)[..., 0], 0, 1))
    np.testing.assert_array_equal(np.rint(images.gray[..., 0] * 255), GRAY)


def test_pictures_that_do_not_fit_are_refused(pictures, tmp_path):
    write_png(tmp_path / "small.png", GRAY[:3])
    own = "PET.png has color of its own; leave out its color map hot"
    refused(own, read_pictures, pictures("MRI", "PET"), {1: "hot"})
    other = "'hott' is no color map; choose one of matplotlib's, such as hot,"
    refused(other, read_pictures, pictures("MRI", "CT"), {0: "hott"})
    refused(r"MRI.png is of 5 x 4 and .*small.png is of 3 x 4 pixels", read_pictures, pictures("MRI", "small"), {})


def test_volumes_are_scaled_between_percentiles_of_their_own_voxels(tmp_path):
    first, second = head(), 7 * head(seed=1)
    second[2, 2, 2] = 1e6
    images = read_volumes([save_volume(tmp_path / "a.nii.gz", first), save_volume(tmp_path / "b.nii", second)], {})
    assert (images.names, images.gray.shape) == (("a", "b"), (6, 5, 4, 2))
    for channel, volume in enumerate((first, second)):
        gray, inside = images.gray[..., channel], volume != 0
        assert not gray[~inside].any()
        assert (gray[inside].min(), gray.max()) == (np.float32(1 / 255), 1)
        low, high = np.percentile(volume[inside], (0.5, 99.5))
        between = (np.clip(volume[inside], low, high) - low) / (high - low)
        np.testing.assert_allclose(gray[inside], 1 / 255 + between * 254 / 255, atol=1e-6)


@pytest.mark.parametrize("axis", [AXIAL, CORONAL, SAGITTAL])
def test_a_volume_is_fused_slice_by_slice_where_something_is_shown(tmp_path, axis):
    images = read_volumes(heads(tmp_path), {})
    seen = []

    def fuse(stack, shown):
        seen.append(stack.shape)
        return np.where(shown, stack.mean(-1) + 0.25, 0)

    fused = fuse_volume(fuse, images, axis)
    expected = np.where(images.shown, np.minimum(images.gray.mean(-1) + 0.25, 1), 0)
    np.testing.assert_allclose(fused, expected, atol=1e-6)
    columns, rows = (side for i, side in enumerate((6, 5, 4)) if i != axis)
    assert seen == [((6, 5, 4)[axis] - 2, rows, columns, 3)]


def test_volumes_in_color_keep_their_background_black(tmp_path):
    images = read_volumes(heads(tmp_path), {1: "viridis", 2: "hot"})
    assert not images.color[1][~images.shown].any()  # viridis itself begins with violet
    fused = fuse_volume(lambda stack, shown: shown * stack.mean(-1), images, AXIAL)
    levels = in_levels(fused, list(images.color.values()))
    assert (levels.shape, levels.dtype) == ((6, 5, 4, 3), np.uint8)
    assert not levels[~images.shown].any()
    assert np.ptp(levels[images.shown].astype(int), axis=-1).max() > 50
    # Slices are recombined one by one; so is the whole.
    np.testing.assert_array_equal(levels[2], in_levels(fused[2], [color[2] for color in images.color.values()]))


def test_volumes_that_do_not_fit_are_refused(tmp_path):
    first = save_volume(tmp_path / "a.nii", head())
    for array, origin, said in (
        (head(), (2, 0, 0), "do not fit: affine"),
        (head((6, 5, 3)), (0, 0, 0), r"do not fit: shape \(6, 5, 3\)"),
        (np.full((6, 5, 4), np.nan, np.float32), (0, 0, 0), "d.nii has 120 voxels that are NaN"),
        (np.zeros((6, 5, 4), np.float32), (0, 0, 0), "d.nii is 0 everywhere"),
    ):
        refused(said, read_volumes, [first, save_volume(tmp_path / "d.nii", array, origin_mm=origin)], {})


def test_kinds_and_numbers_of_files():
    assert kind_of([Path("a.png"), Path("b.png")]) == PNG
    assert kind_of([Path("a.nii"), Path("b.nii.gz"), Path("c.nii")]) == NIFTI
    for names, said in (
        (["a.png"], "1 image came; 2 to 4 can be fused into one"),
        (["a.png"] * 5, "5 images came"),
        (["a.png", "b.nii"], "a.png is a picture and b.nii a volume"),
        (["a.nii", "b.png"], "b.png is a picture and a.nii a volume"),
        (["a.png", "b.jpg"], "b.jpg does not end in .png, .nii, .nii.gz"),
    ):
        refused(said, kind_of, [Path(name) for name in names])


def test_images_are_told_by_their_files_or_else_by_their_folders():
    for paths, names in (
        ("x/a.b.nii.gz y/a.nii c.d.png", ("a.b", "a", "c.d")),
        ("MRI/0001.png PET/0001.png", ("MRI", "PET")),
        ("MRI/1.png MRI/1.png", ("1", "1")),
    ):
        assert names_of([Path(path) for path in paths.split()]) == names


def test_images_are_named_by_number_name_or_last_part():
    names = ("mni-2mm-T1", "mni-2mm-PET", "spect")
    assert chosen_maps(["2=hot", "SPECT=viridis"], names) == {1: "hot", 2: "viridis"}
    assert chosen_maps(["pet=hot", "mni-2mm-t1 = bone"], names) == {1: "hot", 0: "bone"}
    assert chosen_maps((), names) == {}
    for options, said in (
        (["hot"], "'hot' is not understood; give IMAGE=MAP"),
        (["4=hot"], "image 4; the images count from 1 to 3"),
        (["0=hot"], "count from 1 to 3"),
        (["CT=hot"], "given to CT, but the images are mni-2mm-T1, mni-2mm-PET, spect"),
        (["2=hot", "PET=jet"], "mni-2mm-PET was given the color maps hot and jet"),
    ):
        refused(said, chosen_maps, options, names)
    refused("several images are called so", chosen_maps, ["pet=hot"], ("a_pet", "b_pet"))
