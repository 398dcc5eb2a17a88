"""Voxels of overlapping tiles by their weights: against sums on the host, in bytes, and near nnU-Net's own map."""

import math

import jax
import numpy as np
import pytest
from scipy import ndimage

from jaxfuse.inference.canvas import Canvases, lay, windows_of
from jaxfuse.inference.tiling import Asked, predict_canvas
from jaxfuse.inference.weighting import EQUAL, GAUSSIAN, profile, summed
from jaxfuse.patches import tile_volume
from tests.tiles import by_hand, predict_image

RNG = np.random.default_rng(0)


def gaussian(*place, tile):
    """The weight of a voxel by its place in the tile, one after the other."""
    far = [(at - (side - 1) / 2) / (side / 8) for at, side in zip(place, tile, strict=True)]
    return math.exp(-0.5 * sum(one**2 for one in far))


def uneven(tiles):
    """An answer that another tile contradicts, with the sides of the windows."""
    image = tiles["image"]
    made = image - image.mean(tuple(range(1, image.ndim - 1)), keepdims=True)
    lost = [(n - side) // 2 for n, side in zip(image.shape[1:-1], TILE[-(image.ndim - 2) :], strict=True)]
    inner = tuple(slice(a, n - a) for a, n in zip(lost, image.shape[1:-1], strict=True))
    return {"uneven": made[:, *inner]}


TILE = (8, 7, 6)


@pytest.mark.parametrize(
    ("shape", "tile", "margin", "overlap"),
    [
        ((19, 12, 9), TILE, (0, 0, 0), 0.5),
        ((19, 4, 9), TILE, (2, 2, 2), 0.25),
        ((13, 9), TILE[1:], (0, 0), 0.3),
    ],
    ids=["volume", "valid convolutions", "picture"],
)
def test_gaussian_weights_are_those_of_sums_on_the_host(shape, tile, margin, overlap):
    image = RNG.normal(size=(*shape, 2)).astype(np.float32)
    tiling = tile_volume(shape, tile, overlap=overlap, margin=margin)
    options = {"values": ("uneven",), "overlap": overlap, "batch": 3}
    made = predict_image(uneven, image, tiling, **options, weighting=GAUSSIAN)["uneven"]
    expected = by_hand(lambda tiles: uneven(tiles)["uneven"], image, tiling, lambda *at: gaussian(*at, tile=tile))
    np.testing.assert_allclose(made, expected, atol=2e-6)
    equal = predict_image(uneven, image, tiling, **options)["uneven"]
    assert np.abs(made - equal).max() > 0.01


def test_gaussian_weights_of_a_stack_are_those_of_its_pictures():
    stack = RNG.normal(size=(3, 13, 9, 2)).astype(np.float32)
    options = {"values": ("uneven",), "overlap": 0.3, "weighting": GAUSSIAN}
    tiling = tile_volume(stack.shape[:3], (1, *TILE[1:]), overlap=0.3)
    made = predict_image(uneven, stack, tiling, **options, stacked=True)["uneven"]
    tiling = tile_volume(stack.shape[1:3], TILE[1:], overlap=0.3)
    for picture, found in zip(stack, made, strict=True):
        np.testing.assert_allclose(found, predict_image(uneven, picture, tiling, **options)["uneven"], atol=2e-6)


def test_profiles_are_symmetric_and_nowhere_zero_and_sums_are_one_where_no_window_lies():
    for side in (1, 2, 9, 128):
        own = profile(GAUSSIAN, side)
        np.testing.assert_array_equal(own, own[::-1])
        assert own.dtype == np.float32
        assert 0 < own.min() <= own.max() <= 1
    assert float(profile(GAUSSIAN, 128)[[0, 64]].prod()) ** 3 > np.finfo(np.float32).tiny
    np.testing.assert_array_equal(summed(EQUAL, 6, [0, 1], 3), [1, 2, 2, 1, 1, 1])
    sums = summed(GAUSSIAN, 6, [0, 1], 3)
    a, b, _ = profile(GAUSSIAN, 3)
    np.testing.assert_allclose(sums, [a, a + b, a + b, a, 1, 1])


def test_the_profile_is_that_of_nnunet_up_to_half_a_voxel():
    """nnU-Net blurs a point in the middle of the window by a Gaussian, which is cut off four deviations away."""
    point = np.zeros(33)
    point[16] = 1
    theirs = ndimage.gaussian_filter1d(point, 33 / 8, mode="constant")
    np.testing.assert_allclose(profile(GAUSSIAN, 33), theirs / theirs.max(), atol=1e-3)


def test_gaussian_weights_take_no_canvas():
    tiling = tile_volume((40, 33, 37), (16, 16, 16), overlap=0.25)
    laid, needs = lay(tiling, Canvases()), {}
    for weighting in (EQUAL, GAUSSIAN):
        windows, asked = windows_of(tiling, 2, weighting=weighting), Asked(labels=("image",))
        program = jax.jit(lambda *given, w=windows, a=asked: predict_canvas(lambda _, tiles: tiles, None, *given, w, a))
        image = laid.image(np.zeros((40, 33, 37, 3), np.float32))
        needs[weighting] = program.lower(image, laid.places(windows, 0.25)).compile().memory_analysis()
    equal, weighed = needs.values()
    tile, canvas = 4 * 16**3 * 3, 4 * math.prod(laid.sides)
    assert weighed.argument_size_in_bytes == equal.argument_size_in_bytes
    assert weighed.output_size_in_bytes == equal.output_size_in_bytes
    assert weighed.temp_size_in_bytes <= equal.temp_size_in_bytes + tile
    assert tile < canvas
