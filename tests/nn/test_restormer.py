"""Channel attention against loops, parameter counts, the two low blocks, arithmetic, refusals."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jaxfuse.nn import restormer
from jaxfuse.nn.grouped_conv import grouped_conv
from jaxfuse.nn.restormer import ChannelAttention, LightConv, LowBlock, RestormerBlock, channel_attention
from tests.refusals import refused
from tests.tiny_systems import abstract, counts

# Minutes of compiling in all; `-m slow` runs them. The recipe's tiny preset trains in the unmarked suite.
pytestmark = pytest.mark.slow

KEY = jax.random.key(0, impl="rbg")
INIT = jax.nn.initializers.lecun_normal()


def _parts(module):
    return counts(abstract(module, 1, 8, 8, 64)[1]["params"])


def test_parameter_counts_of_64_channels():
    assert _parts(RestormerBlock(8)) == {"norm_1": 128, "attention": 18_120, "norm_2": 128, "feed_forward": 26_880}
    assert _parts(LowBlock(8)) == {"norm_1": 128, "attention": 348_168, "norm_2": 128, "feed_forward": 14_592}
    # qkv 32 x 96, 8 temperatures, 32 x 32; gate 32 x 64, 9 taps x 8 heads, 32 x 32.
    assert _parts(LowBlock(8, "lsra"))["attention"] == 3072 + 8 + 1024 + 2048 + 72 + 1024


def test_channel_attention_against_loops():
    rng = np.random.default_rng(0)
    q, k, v = rng.normal(size=(3, 7, 6)).astype(np.float32)
    temperature = np.array([0.5, 3.0], np.float32)
    out, maps = channel_attention(*(jnp.asarray(x)[None] for x in (q, k, v)), jnp.asarray(temperature))
    for i in range(6):
        head, own = i // 3, [3 * (i // 3) + j for j in range(3)]
        cosines = [q[:, i] @ k[:, j] / np.linalg.norm(q[:, i]) / np.linalg.norm(k[:, j]) for j in own]
        weights = np.exp(temperature[head] * np.array(cosines))
        weights /= weights.sum()
        np.testing.assert_allclose(maps[0, head, i - 3 * head], weights, atol=1e-6)
        np.testing.assert_allclose(out[0, :, i], v[:, own] @ weights, atol=1e-5)


def test_mdta_is_qkv_attention_and_projection():
    x = jax.random.normal(KEY, (1, 4, 4, 4))
    y, params = jax.jit(ChannelAttention(2, kernel_init=INIT).init_with_output)(KEY, x)
    p = params["params"]
    qkv = grouped_conv(x @ p["qkv"]["kernel"][0, 0], p["qkv_spatial"]["kernel"], padding=1)
    q, k, v = (qkv[0, ..., 4 * i : 4 * i + 4].reshape(16, 2, 2) for i in range(3))
    q, k = (z / jnp.linalg.norm(z, axis=0) for z in (q, k))
    logits = jnp.einsum("phi,phj->hij", q, k) * p["temperature"][:, None, None]
    weights = jnp.exp(logits) / jnp.exp(logits).sum(-1, keepdims=True)
    out = jnp.einsum("hij,phj->phi", weights, v).reshape(4, 4, 4) @ p["project"]["kernel"][0, 0]
    np.testing.assert_allclose(y[0], out, atol=1e-5)


def test_feed_forward_is_a_gate_times_a_signal():
    x = jax.random.normal(KEY, (1, 4, 4, 4))
    y, params = jax.jit(restormer.GatedFeedForward(1.5, kernel_init=INIT).init_with_output)(KEY, x)
    p = params["params"]
    hidden = grouped_conv(x @ p["expand"]["kernel"][0, 0], p["spatial"]["kernel"], padding=1)
    assert hidden.shape[-1] == 12
    gate, signal = hidden[..., :6], hidden[..., 6:]
    gelu = 0.5 * gate * (1 + jax.scipy.special.erf(gate / np.sqrt(2)))
    np.testing.assert_allclose(y, (gelu * signal) @ p["project"]["kernel"][0, 0], atol=1e-5)
    # The norm before it centers and scales the channels of each pixel.
    y, _ = restormer.ChannelNorm().init_with_output(KEY, jnp.array([[[[1.0, 3.0, 5.0, 7.0]]]]))
    np.testing.assert_allclose(y[0, 0, 0], np.array([-3.0, -1.0, 1.0, 3.0]) / np.sqrt(5.0 + 1e-5), rtol=1e-6)


def test_an_all_zero_channel_leaves_the_gradient_finite():
    q, k, v = jax.random.normal(KEY, (3, 1, 5, 4))

    def loss(q, k):
        return jnp.sum(channel_attention(q, k, v, jnp.ones(2))[0] ** 2)

    assert jnp.isfinite(jnp.stack(jax.grad(loss, (0, 1))(q.at[..., 0].set(0.0), k.at[..., 1].set(0.0)))).all()
    np.testing.assert_array_equal(jax.grad(loss, (0, 1))(jnp.zeros_like(q), jnp.zeros_like(k)), 0.0)


def test_blocks_are_residual():
    x = jax.random.normal(KEY, (1, 4, 4, 4))
    for block in (RestormerBlock(2, kernel_init=INIT), LowBlock(2, kernel_init=INIT)):
        params = jax.jit(block.init)(KEY, x)["params"]
        for layer in ("attention", "feed_forward"):
            params[layer]["project"]["kernel"] *= 0
        np.testing.assert_array_equal(block.apply({"params": params}, x), x)


def test_light_convolution_averages_with_taps_that_sum_to_one():
    x = jnp.ones((1, 5, 5, 4))
    params = jax.jit(LightConv(2, kernel_init=INIT).init)(KEY, x)["params"]
    params["expand"]["kernel"] = jnp.concatenate([jnp.eye(4), jnp.zeros((4, 4))], axis=-1)[None, None]
    params["project"]["kernel"] = jnp.eye(4)[None, None]
    y = LightConv(2).apply({"params": params}, x)
    np.testing.assert_allclose(y[0, 1:-1, 1:-1], 0.5, atol=1e-6)  # sigmoid(0) x, away from the zero padding
    assert y[0, 0, 0].max() < 0.5


def test_long_half_sees_the_whole_image_and_short_half_its_neighborhood():
    x = jax.random.normal(KEY, (1, 6, 6, 8))
    module = restormer.LongShortAttention(2, kernel_init=INIT)
    y, params = jax.jit(module.init_with_output)(KEY, x)
    change = jnp.abs(jax.jit(module.apply)(params, x.at[0, 0, 0].add(1.0)) - y)[0]
    assert change[5, 5, :4].min() > 1e-5
    assert change[2:, 2:, 4:].max() < 1e-6
    assert change[1, 1, 4:].min() > 1e-4


def test_bfloat16_keeps_float32_weights_and_maps_and_stays_close():
    x = jax.random.normal(KEY, (1, 8, 8, 8))
    block = RestormerBlock(2, kernel_init=INIT)
    y, params = jax.jit(block.init_with_output)(KEY, x)
    half = jax.jit(block.clone(dtype=jnp.bfloat16).apply)(params, x.astype(jnp.bfloat16))
    assert half.dtype == jnp.bfloat16
    assert jnp.corrcoef(y.ravel(), half.astype(jnp.float32).ravel())[0, 1] > 0.999
    drawn = jax.eval_shape(block.clone(dtype=jnp.bfloat16).init, KEY, x.astype(jnp.bfloat16))
    assert {leaf.dtype for leaf in jax.tree.leaves(drawn)} == {jnp.dtype(jnp.float32)}
    q = x.reshape(1, 64, 8).astype(jnp.bfloat16)
    out, maps = channel_attention(q, q, q, jnp.ones(2))
    assert (out.dtype, maps.dtype) == (jnp.bfloat16, jnp.float32)
    np.testing.assert_allclose(maps.sum(-1), 1.0, atol=1e-6)


def test_refusals_say_what_came():
    x = jnp.zeros((1, 4, 4, 6))
    refused("6 channels do not divide among 4 heads", RestormerBlock(4).init, KEY, x)
    refused("'wide' is not known; choose one of cddfuse, lsra", LowBlock(2, "wide").init, KEY, x)
    refused("'far' is not known; choose one of depthwise, dense, none", ChannelAttention(2, "far").init, KEY, x)
    refused("halves its channels, got 5", restormer.LongShortAttention(1).init, KEY, jnp.zeros((1, 4, 4, 5)))
