"""Batch normalization on images of a large mean, by hand."""

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np

from jaxfuse.nn.batch_norm import BatchNorm
from tests.tiny_systems import KEY


class Normalized(nn.Module):
    @nn.compact
    def __call__(self, x, *, train):
        return BatchNorm(train, decay=0.75, eps=1.0, dtype=None, name="norm")(x)


def test_it_normalizes_by_the_batch_and_then_by_what_it_remembers():
    # Mean 1000 and variance 4: their difference in the fast formula would leave nothing of the variance.
    image = jnp.array([998.0, 1002.0])[:, None, None, None]
    variables = Normalized().init(KEY, image, train=False)
    made, changed = jax.jit(lambda v: Normalized().apply(v, image, train=True, mutable=["batch_stats"]))(variables)
    np.testing.assert_allclose(made.ravel(), np.array([-2.0, 2.0]) / np.sqrt(5.0), rtol=1e-4)
    stats = changed["batch_stats"]["norm"]
    np.testing.assert_allclose(stats["mean"], 250.0, rtol=1e-5)
    np.testing.assert_allclose(stats["var"], 0.75 + 0.25 * 4.0, rtol=1e-4)
    after = Normalized().apply({**variables, **changed}, image, train=False)
    np.testing.assert_allclose(after.ravel(), (image.ravel() - 250.0) / np.sqrt(2.75), rtol=1e-4)


def test_statistics_of_those_examples_alone_that_are_there():
    norm = BatchNorm(train=True, decay=0.9, eps=1e-5, dtype=None)
    x = jax.random.normal(jax.random.key(0), (3, 4, 5, 2))
    there = jnp.array([True, False, True])
    other = x.at[1].set(jnp.nan)
    variables = norm.init(jax.random.key(1), x)
    apply = jax.jit(lambda x, there: norm.apply(variables, x, there, mutable=["batch_stats"]))
    alone, expected = norm.apply(variables, x[there], mutable=["batch_stats"])
    made, found = apply(other, there)
    np.testing.assert_allclose(made[there], alone, rtol=1e-5, atol=1e-6)
    jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, rtol=1e-5), found, expected)
    # Where none is there, statistics stay as they were, and maps are normalized by them.
    made, kept = apply(x, jnp.zeros(3, bool))
    jax.tree.map(np.testing.assert_array_equal, kept["batch_stats"], variables["batch_stats"])
    np.testing.assert_allclose(made, x, rtol=1e-4)
