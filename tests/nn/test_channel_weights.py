"""Weights of one number per channel: their values over a map, and gradients that are summed in float32."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jaxfuse.nn.channel_weights import PReLU, over_map
from tests.tiny_systems import KEY


def test_each_channel_has_its_weight_and_one_weight_serves_all():
    like = jnp.zeros((2, 3, 4), jnp.bfloat16)
    laid = over_map(jnp.arange(4.0), like)
    assert (laid.shape, laid.dtype) == (like.shape, like.dtype)
    np.testing.assert_array_equal(laid[1, 2].astype(np.float32), np.arange(4))
    np.testing.assert_array_equal(over_map(jnp.array([0.5]), like).astype(np.float32), 0.5)


@pytest.mark.parametrize("shape", [(1,), (4,)])
def test_gradients_are_summed_in_float32(shape):
    """2^14 + 2 ones per channel: bfloat16 has 8 bits for them."""
    like = jnp.ones((2, 2**13 + 1, 4), jnp.bfloat16)
    slope = jax.grad(lambda weights: (over_map(weights, like) * like).astype(jnp.float32).sum())
    weights = jnp.zeros(shape)
    np.testing.assert_array_equal(slope(weights), np.full(shape, (2**14 + 2) * 4 // shape[0]))
    program = str(jax.make_jaxpr(slope)(weights))
    assert "reduce_sum" in program
    assert not [line for line in program.splitlines() if "bf16" in line.partition("=")[0] and "reduce_sum" in line]


def test_prelu_bends_below_zero_by_one_learned_slope():
    x = jax.random.normal(KEY, (2, 3, 4))
    params = {"slope": jnp.array([0.1])}
    np.testing.assert_allclose(PReLU().apply({"params": params}, x), np.where(x > 0, x, 0.1 * x), rtol=1e-6)
    np.testing.assert_array_equal(PReLU().init(KEY, x)["params"]["slope"], [0.25])
