"""PVTv2: the size of B2, the sides of its levels, what keys are read from."""

import dataclasses

import jax
import numpy as np

from jaxfuse.models.baselines.pvt import PvtForm, PyramidTransformer, ReducedAttention
from jaxfuse.nn.initializers import normal
from tests.refusals import refused
from tests.tiny_systems import KEY, abstract, count, drawn_for


def test_weights_are_those_of_b2_without_its_classes():
    """25,362,856 of three channels and a thousand classes."""
    maps, variables = abstract(PyramidTransformer(PvtForm()), 1, 224, 96, 2)
    expected = [(1, 56, 24, 64), (1, 28, 12, 128), (1, 14, 6, 320), (1, 7, 3, 512)]
    assert [level.shape for level in maps] == expected
    assert count(variables) == 25_362_856 - 513 * 1000 - 49 * 64 == 24_846_720


def test_patches_of_two_pixels_have_maps_of_twice_the_sides():
    form = PvtForm(widths=(4, 8, 20, 32), depths=(1, 1, 1, 1), patch=2)
    maps, _ = abstract(PyramidTransformer(form), 1, 16, 48, 1)
    assert form.divisor == 16
    assert [level.shape[1:3] for level in maps] == [(8, 24), (4, 12), (2, 6), (1, 3)]


def test_keys_are_read_from_the_reduced_map():
    module = ReducedAttention(1, 2, normal(), None)
    x = jax.random.normal(KEY, (1, 4, 2, 3))
    params = drawn_for(module, x, scale=0.5)["params"]
    tokens = np.asarray(x[0]).reshape(2, 2, 1, 2, 3).swapaxes(1, 2).reshape(2, 12)
    coarse = tokens @ np.asarray(params["reduce"]["kernel"]).reshape(12, 3) + params["reduce"]["bias"]
    coarse = (coarse - coarse.mean(-1, keepdims=True)) / np.sqrt(coarse.var(-1, keepdims=True) + 1e-5)
    coarse = coarse * params["reduce_norm"]["scale"] + params["reduce_norm"]["bias"]
    both = coarse @ np.asarray(params["key_value"]["kernel"][0, 0]) + params["key_value"]["bias"]
    query = np.asarray(x[0]).reshape(8, 3) @ np.asarray(params["query"]["kernel"][0, 0]) + params["query"]["bias"]
    weights = np.asarray(jax.nn.softmax(query @ both[:, :3].T / np.sqrt(3), axis=-1))
    expected = weights @ both[:, 3:] @ np.asarray(params["project"]["kernel"][0, 0]) + params["project"]["bias"]
    np.testing.assert_allclose(module.apply({"params": params}, x).reshape(8, 3), expected, atol=1e-5)


def test_refusals_say_what_came():
    form = PvtForm()
    refused(r"depths is \(3, 4\); give 4 positive numbers", dataclasses.replace(form, depths=(3, 4)).check)
    refused(r"heads is \(3, .*must divide the channels \(64,", dataclasses.replace(form, heads=(3, 2, 5, 8)).check)
    refused("drop_path is -0.1; give a share", dataclasses.replace(form, drop_path=-0.1).check)
