"""Backgrounds and brains: constant, noisy or untold backgrounds, islands and holes, stated values."""

from dataclasses import replace

import numpy as np
import pytest

from jaxfuse.data.brain import (
    background_rule,
    find_background,
    find_brain,
    low_end,
    shown,
    untold,
    within,
)
from tests.made_cases import ellipsoid
from tests.refusals import refused

SHAPE = (24, 22, 20)
HEAD = ellipsoid(SHAPE, (9, 8, 7))
RNG = np.random.default_rng(0)
IMAGE = np.where(HEAD, RNG.normal(300, 30, SHAPE), 0).astype(np.float32)


def noise(sigma):
    return np.where(HEAD, IMAGE, RNG.normal(0, sigma, SHAPE)).astype(np.float32)


def changed(value, *at):
    image = IMAGE.copy()
    image[at] = value
    return image


@pytest.mark.parametrize("kind", [np.float32, np.int16, np.uint16])
def test_a_background_of_one_value_is_that_value(kind):
    image = IMAGE.astype(kind) + kind(7)
    found = find_background(image)
    assert found is not None
    assert (found.value, found.noisy) == (7, False)
    assert found.reach == pytest.approx(0.01 * np.percentile(image[HEAD] - 7.0, 95), rel=1e-5)
    np.testing.assert_array_equal(find_brain(image[..., None]).mask, HEAD)


def test_noise_is_a_background_up_to_3_percent_of_the_contrast():
    for sigma in (1e-6, 1e-2, 2.0):
        found = find_background(noise(sigma))
        assert found is not None
        assert (found.noisy, abs(found.value) < sigma) == (True, True)
        np.testing.assert_array_equal(find_brain(noise(sigma)[..., None]).mask, HEAD)
    assert find_background(noise(20.0)) is None


def test_images_that_fill_their_border_or_are_constant_have_none():
    inner = IMAGE[9:15, 8:14, 7:13]
    assert find_background(inner) is find_background(np.full(SHAPE, 3)) is None
    assert find_brain(inner[..., None]).mask.all()
    assert not find_brain(np.full((*SHAPE, 2), 3)).mask.any()


def test_a_background_that_much_lies_below_counts_only_where_it_is_0():
    centered = np.where(HEAD, IMAGE - 300, 0)
    found = find_background(centered)
    assert found is not None
    assert found.value == 0
    assert find_background(centered + 1) is None
    assert find_background(centered + 1, stated=1.0) == replace(found, value=1.0)


def test_faint_voxels_count_beside_others_and_alone_do_not():
    faint = changed(0.5, 12, 11, 17)  # beside the head, whose last voxel is at 16
    assert find_brain(faint[..., None]).mask[12, 11, 17]
    assert not find_brain(changed(0.5, 12, 11, 19)[..., None]).mask[12, 11, 19]


def test_islands_are_dropped_and_holes_are_filled():
    np.testing.assert_array_equal(find_brain(changed(500, 0, 0, 0)[..., None]).mask, HEAD)
    np.testing.assert_array_equal(find_brain(changed(0, 12, 11, 10)[..., None]).mask, HEAD)
    # A second part of 1 % stays, and a notch in the surface is no hole.
    part = changed(300, slice(0, 3), slice(0, 3), slice(0, 3))
    assert find_brain(part[..., None]).mask.sum() == HEAD.sum() + 27
    assert not find_brain(changed(0, 12, 11, 16)[..., None]).mask[12, 11, 16]


def test_the_brain_is_the_union_of_images_whose_background_is_told():
    small, rough = np.where(ellipsoid(SHAPE, (5, 4, 3)), 9.0, -2.0), RNG.normal(0, 1, SHAPE)
    found = find_brain(np.stack([small, IMAGE, rough], axis=-1))
    np.testing.assert_array_equal(found.mask, HEAD)
    assert [one and one.value for one in found.backgrounds] == [-2, 0, None]
    alone = find_brain(np.stack([small, rough], axis=-1))
    np.testing.assert_array_equal(alone.mask, small == 9)


def test_pictures_and_single_slices():
    picture = IMAGE[:, :, 10]
    np.testing.assert_array_equal(find_brain(picture[..., None]).mask, HEAD[:, :, 10])
    np.testing.assert_array_equal(find_brain(picture[:, :, None, None]).mask[..., 0], HEAD[:, :, 10])


def test_rules_state_values_or_that_there_is_none():
    image = np.stack([IMAGE, IMAGE - 1], axis=-1)
    assert find_brain(image, ("t1", "t2"), background_rule("none")).mask.all()
    assert find_brain(image, ("t1", "t2"), background_rule("none")).backgrounds == (None, None)
    rule = background_rule("t1=0, t2=-1", ("t1", "t2"))
    assert (rule.of("t1"), rule.of("t2"), rule.of("flair"), background_rule("-3").of("t1")) == (0, -1, None, -3)
    np.testing.assert_array_equal(find_brain(image, ("t1", "t2"), rule).mask, HEAD)
    for text in ("sometimes", "t1=", "nan", "0,t1=3"):
        refused(f"the background '{text}' is not understood; give auto, none", background_rule, text)
    refused("names flair; the images are t1, t2", background_rule, "flair=0", ("t1", "t2"))


def test_the_dark_end_is_the_background_or_the_least_value_but_for_outliers():
    dark = changed(-40, 12, 11, slice(8, 11))
    assert low_end(dark, find_background(dark)) == 0
    centered = np.where(HEAD, IMAGE - 300, 0)
    assert low_end(centered, find_background(centered)) == centered.min()
    outlier = centered.copy()
    outlier[12, 11, 10] = -10000
    assert low_end(outlier, find_background(outlier)) > -200
    assert low_end(np.full(SHAPE, 3.0), None) == 3


def test_prepared_arrays_show_what_is_not_0():
    image = np.stack([IMAGE, np.zeros(SHAPE)], axis=-1)
    np.testing.assert_array_equal(shown(image), HEAD)
    half = within(IMAGE + 1, HEAD)
    assert (half.dtype, half[0, 0, 0], half[12, 11, 10]) == (np.float32, 0, IMAGE[12, 11, 10] + 1)


def test_cases_without_a_told_background_are_named_in_one_sentence():
    assert untold({"a": (0.0, 0.0), "b": ()}) == ""
    said = untold({"a": (0.0, 0.0), "b": (0.0, None), "c": (None, None)})
    assert said.startswith("the background of 2 of 3 cases cannot be told in some image (the first is b)")
    assert "in 1 of them every voxel counts as brain" in said
