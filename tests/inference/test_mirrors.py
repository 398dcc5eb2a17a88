"""The mean over mirrored passes: against passes one after the other, in one program that holds the network once."""

import itertools

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jaxfuse.inference.mirrors import asked_axes, over_mirrors
from jaxfuse.inference.weighting import GAUSSIAN
from jaxfuse.patches import tile_volume
from tests.refusals import refused
from tests.tiles import by_hand, predict_image

RNG = np.random.default_rng(0)


def sided(tiles):
    """An answer that a mirror changes: each voxel beside the one before it, by another amount along each axis."""
    image = tiles["image"]
    roll = np.roll if isinstance(image, np.ndarray) else jnp.roll
    return {"sided": sum((axis + 1) * roll(image, 1, axis + 1) ** 2 for axis in range(image.ndim - 2))}


def one_by_one(axes):
    """The mean over all reflections of the tiles along these axes, each predicted on its own."""

    def predict(tiles):
        each = []
        for count in range(len(axes) + 1):
            for chosen in itertools.combinations(axes, count):
                along = [1 + axis for axis in chosen]
                each.append(np.flip(sided({"image": np.flip(tiles["image"], along)})["sided"], along))
        assert len(each) == 2 ** len(axes)
        return np.mean(each, axis=0)

    return predict


@pytest.mark.parametrize("axes", [(0,), (0, 1, 2)], ids=str)
def test_the_mean_is_that_of_all_mirrored_passes(axes):
    image = RNG.normal(size=(9, 8, 7, 2)).astype(np.float32)
    tiling = tile_volume(image.shape[:3], (5, 6, 4), overlap=0.3)
    options = {"values": ("sided",), "overlap": 0.3, "batch": 2}
    made = predict_image(sided, image, tiling, **options, mirror=axes)["sided"]
    np.testing.assert_allclose(made, by_hand(one_by_one(axes), image, tiling), rtol=1e-5, atol=1e-5)
    assert np.abs(made - predict_image(sided, image, tiling, **options)["sided"]).max() > 0.1


def test_mirrors_and_weights_go_together_and_pictures_of_a_stack_are_mirrored_in_their_plane():
    stack = RNG.normal(size=(2, 9, 8, 2)).astype(np.float32)
    options = {"values": ("sided",), "overlap": 0.3, "weighting": GAUSSIAN}
    tiling = tile_volume(stack.shape[:3], (1, 5, 6), overlap=0.3)
    made = predict_image(sided, stack, tiling, **options, stacked=True, mirror=(2,))["sided"]
    tiling = tile_volume(stack.shape[1:3], (5, 6), overlap=0.3)
    for picture, found in zip(stack, made, strict=True):
        there = predict_image(sided, picture, tiling, **options)["sided"]
        back = predict_image(sided, picture[:, ::-1], tiling, **options)["sided"][:, ::-1]
        # Tiles lie alike from either end, and so do their weights.
        np.testing.assert_allclose(found, (there + back) / 2, rtol=1e-5, atol=1e-5)


def test_the_network_stands_in_the_program_once():
    kernel = jnp.ones((3, 3, 3, 1, 1))

    def network(weights, tiles):
        return {"made": jax.lax.conv_general_dilated(tiles, kernel, (1, 1, 1), "SAME", dimension_numbers=NAMES)}

    for axes in ((), (1,), (1, 2, 3)):
        lowered = jax.jit(over_mirrors(network, axes)).lower(None, jnp.zeros((1, 4, 4, 4, 1)))
        assert lowered.as_text().count("stablehlo.convolution") == 1


NAMES = ("NDHWC", "DHWIO", "NDHWC")


def test_axes_are_named_by_number():
    found = {text: asked_axes("mirror", text) for text in ("none", "all", "0", "2,0")}
    assert found == {"none": (), "all": (0, 1, 2), "0": (0,), "2,0": (0, 2)}
    for text in ("3", "0,0", "left", "", "0, 1"):
        refused(r"mirror is .*; choose none, all or axes such as 0 or 0,1 \(0: left and", asked_axes, "mirror", text)
