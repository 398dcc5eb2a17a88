"""Volumes on canvases of other sides and directions come together voxel by voxel."""

import jax.numpy as jnp
import numpy as np
import pytest

from jaxfuse.data.slices import AXES, pictures
from jaxfuse.inference.members import added, upright

RNG = np.random.default_rng(0)


@pytest.mark.parametrize("across", [None, *AXES.values()])
def test_a_canvas_of_pictures_is_turned_and_the_volume_moved_to_the_origin(across):
    volume = RNG.normal(size=(5, 7, 6, 2)).astype(np.float32)
    stack = volume if across is None else pictures(volume, across)
    lead = (0, 2, 1)
    canvas = np.pad(stack, [(a, 9 - a - n) for a, n in zip(lead, stack.shape, strict=False)] + [(0, 0)])
    turned = canvas if across is None else np.moveaxis(canvas[:, ::-1, ::-1].swapaxes(1, 2), 0, across)
    shift = np.argwhere(turned.any(-1)).min(0)
    other = np.zeros((8, 9, 7, 2), np.float32)
    other[:5, :7, :6] = 2 * volume
    one, two = upright(jnp.asarray(canvas), shift, across), upright(jnp.asarray(other), None, None)
    for made, factor in ((one, 1), (two, 2)):
        np.testing.assert_array_equal(np.asarray(made)[:5, :7, :6], factor * volume)
    for both in (added(one, two), added(two, one)):
        assert both.shape == (8, 9, 7, 2)
        np.testing.assert_allclose(np.asarray(both)[:5, :7, :6], 3 * volume, rtol=1e-6)
