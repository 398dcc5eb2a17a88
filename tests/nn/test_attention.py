import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jaxfuse.nn.attention import CBAM, ChannelGate, SpatialGate
from jaxfuse.nn.conv import conv, instance_norm
from jaxfuse.nn.initializers import he_normal
from tests.tiny_systems import abstract, counts

KEY = jax.random.key(0, impl="rbg")


def _sigmoid(x):
    return 1 / (1 + np.exp(-x))


def test_parameter_count_of_32_channels():
    # 32 -> 2 -> 32 with biases; 7^3 over two maps without bias, one scale, one shift. 110,724 + 850 = 111,574.
    params = abstract(CBAM(), 1, 4, 4, 4, 32)[1]["params"]
    assert counts(params) == {"channel": 64 + 2 + 64 + 32, "spatial": 686 + 2}


def test_channel_gate_against_numpy():
    x = jax.random.normal(KEY, (2, 3, 4, 5, 8))
    gate, params = jax.jit(ChannelGate(reduction=4, kernel_init=he_normal()).init_with_output)(KEY, x)
    squeeze = np.asarray(params["params"]["squeeze"]["kernel"]).reshape(8, 2)
    excite = np.asarray(params["params"]["excite"]["kernel"]).reshape(2, 8)
    voxels = np.asarray(x).reshape(2, -1, 8)
    mixed = sum(np.maximum(pooled @ squeeze, 0) @ excite for pooled in (voxels.mean(1), voxels.max(1)))
    np.testing.assert_allclose(gate, _sigmoid(mixed).reshape(2, 1, 1, 1, 8), atol=1e-5, strict=True)


def test_spatial_gate_against_its_definition():
    x = jax.random.normal(KEY, (1, 6, 5, 4, 3))
    gate, params = jax.jit(SpatialGate(kernel_size=3, kernel_init=he_normal()).init_with_output)(KEY, x)
    assert (params["params"]["scale"], params["params"]["shift"]) == (1, 0)
    summary = jnp.stack([x.max(-1), x.mean(-1)], axis=-1)
    expected = jax.nn.sigmoid(instance_norm(conv(summary, params["params"]["conv"]["kernel"], strides=1, padding=1)))
    assert gate.shape == (1, 6, 5, 4, 1)
    np.testing.assert_allclose(gate, expected, atol=1e-6)
    moved = {"params": {**params["params"], "scale": jnp.zeros(1), "shift": jnp.array([2.0])}}
    np.testing.assert_allclose(SpatialGate(kernel_size=3).apply(moved, x), _sigmoid(2.0), atol=1e-6)


def test_gates_may_go_without_biases_and_without_norm():
    x = jnp.arange(1.0, 5.0).reshape(1, 1, 1, 4)
    weights = {"squeeze": {"kernel": -jnp.ones((1, 1, 4, 1))}, "excite": {"kernel": jnp.ones((1, 1, 1, 4))}}
    plain = ChannelGate(4, use_bias=False, activation=jnp.negative)
    np.testing.assert_allclose(plain.apply({"params": weights}, x), np.full((1, 1, 1, 4), _sigmoid(20.0)))
    kernel = {"params": {"conv": {"kernel": jnp.array([2.0, 1.0]).reshape(1, 1, 2, 1)}}}
    made = SpatialGate(kernel_size=1, normed=False).apply(kernel, x)
    np.testing.assert_allclose(made, np.full((1, 1, 1, 1), _sigmoid(2 * 4 + 2.5)), rtol=1e-6)


@pytest.mark.parametrize("sides", [(6, 6), (6, 6, 6)])
def test_attention_shrinks_every_value_and_no_sign_changes(sides):
    x = 1.0 + jax.random.uniform(KEY, (1, *sides, 16))
    y, _ = jax.jit(CBAM(kernel_init=he_normal()).init_with_output)(KEY, x)
    ratio = y / x
    assert 0 < ratio.min() < ratio.max() < 1
    assert ratio.std() > 0.01


def test_attention_with_zero_kernels_is_a_quarter_in_the_dtype_of_its_input():
    x = jax.random.normal(KEY, (1, 4, 4, 4, 4))
    y, _ = jax.jit(CBAM(kernel_init=jax.nn.initializers.zeros).init_with_output)(KEY, x)
    np.testing.assert_allclose(y, 0.25 * x, atol=1e-6)
    half = jax.eval_shape(CBAM(dtype=jnp.bfloat16).init_with_output, KEY, x.astype(jnp.bfloat16))
    assert half[0].dtype == jnp.bfloat16
