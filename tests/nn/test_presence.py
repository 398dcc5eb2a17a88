"""Scale and shift by presence, and parts that are left out."""

import jax
import jax.numpy as jnp
import numpy as np

from jaxfuse.nn.presence import Modulation, gains, modulated, or_background, or_nothing, where_present, with_gains
from tests.tiny_systems import KEY, count

PRESENT = jnp.array([[True, False, True], [True, True, True]])


def test_modulation_begins_as_the_identity_and_is_counted_by_hand():
    module = Modulation((4, 8), hidden=5)
    films, variables = module.init_with_output(KEY, PRESENT)
    assert [one.shape for film in films for one in film] == [(2, 4), (2, 4), (2, 8), (2, 8)]
    assert count(variables) == (3 * 5 + 5) + (5 * 24 + 24)
    x = jnp.arange(2 * 3 * 4, dtype=jnp.float32).reshape(2, 3, 4)
    np.testing.assert_array_equal(modulated(x, films[0]), x)
    film = (jnp.array([[1.0, 0, 0, 0], [0, 0, 0, 0]]), jnp.array([[0.0, 0, 0, 2], [0, 0, 0, 0]]))
    np.testing.assert_array_equal(modulated(x, film)[0], x[0] * np.array([2, 1, 1, 1]) + np.array([0, 0, 0, 2]))


def test_sums_over_parts_keep_their_scale():
    gain = gains(PRESENT, (2, 1, 1))
    np.testing.assert_array_equal(gain, [[1.5, 1.5, 0, 1.5], [1, 1, 1, 1]])
    x = jnp.full((2, 5, 4), jnp.nan).at[:, :, jnp.array([0, 1, 3])].set(2.0)
    found = with_gains(x, gain)
    np.testing.assert_array_equal(found[0], np.tile([3.0, 3.0, 0.0, 3.0], (5, 1)))
    assert np.isnan(found[1, :, 2]).all()


def test_what_is_absent_counts_for_nothing_and_gives_no_gradient():
    x = jnp.array([[1.0, jnp.inf], [2.0, 3.0]])
    there = jnp.array([False, True])
    np.testing.assert_array_equal(where_present(there, x), [[0, 0], [2, 3]])
    np.testing.assert_array_equal(or_nothing(there, (x, x))[1], [[0, 0], [2, 3]])
    slope = jax.grad(lambda x: (where_present(there, x) * 5).sum())(x)
    np.testing.assert_array_equal(slope, [[0, 0], [5, 5]])
    np.testing.assert_array_equal(or_background(there, x), [[1, 0], [2, 3]])
