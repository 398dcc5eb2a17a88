"""The adapter: its size, its formula against XLA's own convolutions, odd grids, the plain start, arithmetic."""

from functools import partial

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax.lax import conv_general_dilated

from jaxfuse.nn.adapter import Adapter
from tests.refusals import refused
from tests.tiny_systems import KEY, abstract, count, drawn_for

# Minutes of compiling in all; `-m slow` runs them. The recipe's tiny preset trains in the unmarked suite.
pytestmark = pytest.mark.slow

NHWC = ("NHWC", "HWIO", "NHWC")


@pytest.mark.parametrize(("form", "weights"), [("depthwise", 1_495_296), ("dense", 15_042_048)])
def test_weights_at_768_channels(form, weights):
    assert count(abstract(Adapter(form), 1, 14, 14, 768)[1]) == weights


def _strided(x, kernel, groups):
    return conv_general_dilated(x, kernel, (2, 2), [(1, 1)] * 2, dimension_numbers=NHWC, feature_group_count=groups)


def _transposed(x, kernel, groups):
    """The adjoint of a 4x4 convolution of stride 2 and padding 1, with the kernel turned by half a circle."""
    turned = jnp.flip(kernel, (0, 1))
    turned = turned if groups > 1 else turned.swapaxes(2, 3)
    image = jnp.zeros((x.shape[0], 2 * x.shape[1], 2 * x.shape[2], x.shape[3]))
    return jax.linear_transpose(lambda z: _strided(z, turned, groups), image)(x)[0]


@partial(jax.jit, static_argnums=0)
def _by_formula(form, p, x):
    def resized(conv, name, x):
        if form == "dense":
            return conv(x, p[name]["kernel"], 1)
        return conv(x, p[f"{name}_spatial"]["kernel"], 8) @ p[name]["kernel"][0, 0]

    hidden = jax.nn.relu(x.mean((1, 2)) @ p["squeeze"]["kernel"][0, 0])
    gate = 1 / (1 + jnp.exp(-(hidden @ p["excite"]["kernel"][0, 0])))
    half = jax.nn.relu(resized(_strided, "down", x * gate[:, None, None, :]))
    y = x + jax.nn.relu(resized(_transposed, "up", half))[:, : x.shape[1], : x.shape[2]]
    y = (y - y.mean(-1, keepdims=True)) / jnp.sqrt(y.var(-1, keepdims=True) + 1e-5)
    return y * p["norm"]["scale"] + p["norm"]["bias"]


@pytest.mark.parametrize("form", ["depthwise", "dense"])
@pytest.mark.parametrize("size", [(4, 6), (5, 3)])
def test_it_is_its_formula_on_even_and_odd_grids(form, size):
    x = jax.random.normal(KEY, (2, *size, 8))
    params = drawn_for(Adapter(form), x, scale=0.4)["params"]
    made = jax.jit(Adapter(form).apply)({"params": params}, x)
    np.testing.assert_allclose(made, _by_formula(form, params, x), atol=2e-5)


def test_the_plain_start_adds_nothing_and_can_be_left():
    x = jax.random.normal(KEY, (1, 4, 4, 8))
    module = Adapter(plain_start=True)
    params = drawn_for(module, x, scale=0.4)["params"] | {"norm": {"scale": jnp.zeros(8), "bias": jnp.zeros(8)}}
    np.testing.assert_array_equal(module.init(KEY, x)["params"]["norm"]["scale"], 0.0)

    @jax.jit
    @jax.value_and_grad
    def channel_sum(p):
        y = module.apply({"params": p}, x)
        return jnp.abs(y).sum() + y[..., 0].sum()

    total, gradient = channel_sum(params)
    assert total == 0.0
    assert abs(gradient["norm"]["scale"][0]) > 0.1


def test_bfloat16_keeps_float32_weights_and_stays_close():
    x = jax.random.normal(KEY, (1, 4, 4, 8))
    params = {"params": drawn_for(Adapter(), x, scale=0.4)["params"]}
    module = Adapter(dtype=jnp.bfloat16)
    y, half = jax.jit(Adapter().apply)(params, x), jax.jit(module.apply)(params, x.astype(jnp.bfloat16))
    assert half.dtype == jnp.bfloat16
    assert jnp.corrcoef(y.ravel(), half.astype(jnp.float32).ravel())[0, 1] > 0.999
    drawn = jax.eval_shape(module.init, KEY, x.astype(jnp.bfloat16))
    assert {leaf.dtype for leaf in jax.tree.leaves(drawn)} == {jnp.dtype(jnp.float32)}


def test_refusals_say_what_came():
    x = jnp.zeros((1, 4, 4, 8))
    refused("adapter 'wide' is not known; choose one of depthwise, dense", Adapter("wide").init, KEY, x)
    refused("divides its channels by 4, got 3", Adapter().init, KEY, x[..., :3])
