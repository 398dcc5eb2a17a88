"""Normalizations with scale and shift."""

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np

from jaxfuse.nn.norms import group_norm, layer_norm, norm_groups

X = jnp.asarray(np.random.default_rng(0).normal(size=(1, 2, 3, 4)), jnp.float32)


class Both(nn.Module):
    @nn.compact
    def __call__(self, x):
        return group_norm(x, "group"), layer_norm(x, "layer", 1e-3)


def test_norms_have_32_groups_or_two_channels_in_each():
    channels = (1, 2, 4, 8, 16, 32, 64, 96, 128, 1024, 7)
    assert [norm_groups(c) for c in channels] == [1, 1, 2, 4, 8, 16, 32, 32, 32, 32, 1]


def test_statistics_are_of_groups_over_the_map_and_of_channels_at_a_place():
    (groups, layer), variables = Both().init_with_output(jax.random.key(0), X)
    assert set(variables["params"]) == {"group", "layer"}
    apart = X.reshape(1, 6, 2, 2)
    mean, variance = (f(apart, axis=(1, 3), keepdims=True) for f in (np.mean, np.var))
    np.testing.assert_allclose(groups, ((apart - mean) / np.sqrt(variance + 1e-6)).reshape(X.shape), atol=1e-5)
    mean, variance = X.mean(-1, keepdims=True), X.var(-1, keepdims=True)
    np.testing.assert_allclose(layer, (X - mean) / np.sqrt(variance + 1e-3), atol=1e-5)
    half = Both().apply(variables, jnp.asarray(X, jnp.bfloat16))
    assert {each.dtype for each in half} == {jnp.dtype("bfloat16")}
