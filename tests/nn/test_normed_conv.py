"""Blocks of convolutions with GroupNorm, and the gate of a skip."""

import jax
import jax.numpy as jnp
import numpy as np

from jaxfuse.nn.normed_conv import AttentionGate, NormedConv, TwoConvs
from tests.tiny_systems import KEY, abstract, counts, drawn_for


def test_weights_are_those_of_convolution_and_norm():
    assert counts(abstract(NormedConv(4), 1, 4, 4, 3)[1]["params"]) == {"conv": 9 * 3 * 4 + 4, "norm": 8}
    assert counts(abstract(TwoConvs(4), 1, 4, 4, 3)[1]["params"]) == {"first": 120, "second": 9 * 16 + 12}


def test_a_gate_weighs_each_pixel_of_the_skip_by_one_number_that_the_signal_moves():
    skip = 1.0 + jax.random.uniform(KEY, (1, 3, 2, 4))
    signal = jax.random.normal(KEY, (2, 3, 2, 6))
    gate = AttentionGate(2)
    params = drawn_for(gate, signal[:1], skip, scale=0.5)["params"]
    assert counts(params) == {
        "signal": 14,
        "skip": 10,
        "weigh": 3,
        **dict.fromkeys(("signal_norm", "skip_norm"), 4),
        "weigh_norm": 2,
    }
    made = gate.apply({"params": params}, signal, jnp.concatenate([skip, skip]))
    weights = np.asarray(made) / np.asarray(skip)
    np.testing.assert_allclose(weights, np.broadcast_to(weights[..., :1], weights.shape), rtol=1e-5)
    assert 0 < weights.min() < weights.max() < 1
    assert np.abs(weights[0] - weights[1]).max() > 1e-3
