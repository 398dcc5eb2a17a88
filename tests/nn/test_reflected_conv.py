"""Convolutions of maps that are reflected beyond their edge, in 2D and 3D, with and without strides."""

import jax
import jax.numpy as jnp

from jaxfuse.nn.reflected_conv import ReflectedConv
from tests.tiny_systems import KEY


def seen(kernel, image, **options):
    """The result of a kernel of one channel, without bias."""
    params = {"conv": {"kernel": kernel[..., None, None], "bias": jnp.zeros(1)}}
    return ReflectedConv(1, kernel.shape[0], **options).apply({"params": params}, image)[0, ..., 0].tolist()


def test_beyond_the_edge_lies_the_reflected_map():
    image = jnp.arange(9.0).reshape(1, 3, 3, 1)
    # The neighbor above and to the left.
    corner = jnp.zeros((3, 3)).at[0, 0].set(1.0)
    assert seen(corner, image) == [[4, 3, 4], [1, 0, 1], [4, 3, 4]]
    assert seen(corner, image, strides=2) == [[4, 4], [4, 4]]
    # A kernel of one pixel sees no edge, of a map of one pixel too.
    assert seen(jnp.ones((1, 1)), image[:, :1, :1]) == [[0]]


def test_a_volume_is_reflected_along_all_axes():
    image = jnp.arange(27.0).reshape(1, 3, 3, 3, 1)
    corner = jnp.zeros((3, 3, 3)).at[0, 0, 0].set(1.0)
    assert seen(corner, image)[0][0][0] == 9 + 3 + 1
    shapes = jax.eval_shape(ReflectedConv(4, 3).init, KEY, image)["params"]["conv"]
    assert {name: leaf.shape for name, leaf in shapes.items()} == {"kernel": (3, 3, 3, 1, 4), "bias": (4,)}
