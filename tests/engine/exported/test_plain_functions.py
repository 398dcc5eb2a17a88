"""Traced functions carried out by JAX's own primitives alone."""

import jax
import jax.numpy as jnp
import numpy as np

from jaxfuse.engine.exported.plain_functions import plain
from jaxfuse.nn.conv import conv
from jaxfuse.nn.trilinear import DEFAULTS


def test_calls_choices_and_primitives_of_our_own_are_written_out():
    kernel = jnp.asarray(np.random.default_rng(0).normal(size=(3, 3, 2, 4)), jnp.float32)
    image = jnp.asarray(np.random.default_rng(1).normal(size=(2, 6, 6, 2)), jnp.float32)

    @jax.jit
    def network(image):
        made = conv(image, kernel, strides=1, padding=1)
        chosen = jax.lax.platform_dependent(made, cpu=lambda x: x + 1, default=lambda x: 2 * x + 1 - x)
        return jax.checkpoint(lambda x: jax.nn.relu(x) * 2)(chosen), chosen.sum()

    written_out = plain(network, image)
    for found, expected in zip(written_out(image), network(image), strict=True):
        np.testing.assert_allclose(found, expected, rtol=1e-5, atol=1e-5)
    primitives = {equation.primitive.name for equation in jax.make_jaxpr(written_out)(image).eqns}
    assert "conv_general_dilated" in primitives
    assert not primitives & {*DEFAULTS, "platform_index", "cond", "remat2", "checkpoint", "jit", "pjit"}
