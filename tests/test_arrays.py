"""Channels of an image, taken without a gather."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jaxfuse.arrays import channels_of, mesh_of

IMAGE = jnp.arange(2 * 3 * 5.0).reshape(2, 3, 5)


@pytest.mark.parametrize("channels", [(0,), (1, 2, 3), (3, 1), (4, 0, 2), (2, 2)])
def test_channels_are_those_of_an_index_and_no_gather(channels):
    np.testing.assert_array_equal(channels_of(IMAGE, channels), IMAGE[..., np.array(channels)])
    assert "gather" not in str(jax.make_jaxpr(lambda image: channels_of(image, channels))(IMAGE))


def test_one_device_is_no_mesh():
    assert jax.jit(lambda image: image * (mesh_of(image, image) is None))(IMAGE).any()
    assert mesh_of(np.zeros(3)) is None
