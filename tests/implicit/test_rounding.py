"""The rounding of y to few digits: how large it is, and how much of the inner gradient it explains."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jaxfuse.implicit import trees
from jaxfuse.implicit.rounding import blur, coarseness, place_of
from tests.implicit.problems import spd


def test_coarseness_is_that_of_the_coarsest_variable():
    tree = {"a": jnp.ones(2, jnp.float32), "b": jnp.ones((), jnp.bfloat16), "c": jnp.arange(2), "d": "name"}
    assert coarseness(tree) == 2**-7
    assert coarseness({"a": 1.0}) == np.finfo(np.float64).eps
    assert coarseness("nothing") == 0


def test_nothing_is_explained_where_y_has_all_digits():
    y = [jnp.ones(3)]
    place = place_of(jnp.ones(3), y, y, lambda v: v, None)
    assert (place.blur, place.rounding) == (None, np.finfo(np.float64).eps)


@pytest.mark.parametrize("n", [1, 2, 3, 7, 50])
def test_the_gradient_of_a_rounded_minimum_is_explained_and_that_of_a_moved_one_is_not(n):
    matrix = spd(n, 1e3)
    for seed in range(5):
        exact = np.random.default_rng(seed).normal(size=n)
        rounded = jnp.asarray(exact, jnp.bfloat16)
        y = [rounded.astype(jnp.float32)]
        explained = float(blur(rounded, y, jax.jit(lambda v: [jnp.asarray(matrix, jnp.float32) @ v[0]])))
        assert np.linalg.norm(matrix @ (np.asarray(y[0], np.float64) - exact)) <= explained
        assert np.linalg.norm(matrix @ (0.5 * exact)) > explained
    assert explained <= 20 * 2**-7 * np.linalg.norm(matrix) * float(trees.norm(y))
