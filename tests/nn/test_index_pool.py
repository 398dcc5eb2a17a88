"""Pooling with indices and unpooling, against loops, finite differences and numbers worked by hand."""

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jaxfuse.nn.index_pool import max_pool, max_pool_with_index, unpool
from tests.refusals import refused

RNG = np.random.default_rng(0)
# Four values for four pixels: most windows have ties.
TIED = jnp.asarray(RNG.integers(0, 4, (2, 6, 4, 3)), jnp.float32)
DISTINCT = jnp.asarray(RNG.permutation(96).reshape(2, 6, 4, 2), jnp.float32)


def _by_loop(x, ties):
    """Maxima, and x where it is marked, window by window."""
    x = np.asarray(x)
    batch, height, width, channels = x.shape
    pooled, kept = np.zeros((batch, height // 2, width // 2, channels)), np.zeros(x.shape)
    for b, i, j, c in np.ndindex(pooled.shape):
        window = x[b, 2 * i : 2 * i + 2, 2 * j : 2 * j + 2, c]
        pooled[b, i, j, c] = window.max()
        places = np.argwhere(window == window.max())
        for row, column in places if ties == "all" else places[:1]:
            kept[b, 2 * i + row, 2 * j + column, c] = window.max()
    return pooled, kept


@pytest.mark.parametrize("ties", ["first", "all"])
@pytest.mark.parametrize("x", [TIED, DISTINCT], ids=["tied", "distinct"])
def test_maxima_and_their_places_equal_a_loop(x, ties):
    pooled, index = max_pool_with_index(x, ties=ties)
    expected, kept = _by_loop(x, ties)
    np.testing.assert_array_equal(pooled, expected)
    np.testing.assert_array_equal(max_pool(x), expected)
    np.testing.assert_array_equal(unpool(pooled, index), kept)
    # Pooling undoes unpooling of what is not negative.
    y = jnp.asarray(RNG.integers(0, 3, pooled.shape), jnp.float32)
    np.testing.assert_array_equal(max_pool(unpool(y, index)), y)


def test_index_bits_are_the_pixels_row_by_row():
    # Channels: the maximum at each of the four pixels, three of them tied, all equal.
    windows = [[[1, 0], [0, 0]], [[0, 1], [0, 0]], [[0, 0], [1, 0]], [[0, 0], [0, 1]], [[0, 1], [1, 1]], [[5, 5]] * 2]
    x = jnp.moveaxis(jnp.asarray(windows, jnp.float32), 0, -1)[None]
    for ties, expected in (("first", [1, 2, 4, 8, 2, 1]), ("all", [1, 2, 4, 8, 2 + 4 + 8, 15])):
        _, index = max_pool_with_index(x, ties=ties)
        assert index.dtype == jnp.int8
        np.testing.assert_array_equal(index.ravel(), expected)


@pytest.mark.parametrize(("ties", "received"), [("first", 2.0), ("all", 2.0 + 4.0 + 8.0)])
def test_gradients_of_a_tie_by_hand(ties, received):
    """The window [[1, 3], [3, 3]]: an unpooled value hears from its places, a maximum tells its first pixel."""
    x = jnp.asarray([[1.0, 3.0], [3.0, 3.0]]).reshape(1, 2, 2, 1)
    weights = jnp.asarray([[1.0, 2.0], [4.0, 8.0]]).reshape(1, 2, 2, 1)

    def there_and_back(x):
        pooled, index = max_pool_with_index(x, ties=ties)
        return jnp.sum(weights * unpool(pooled, index))

    np.testing.assert_array_equal(jax.grad(there_and_back)(x).reshape(2, 2), [[0, received], [0, 0]])
    _, index = max_pool_with_index(x, ties=ties)
    assert jax.grad(lambda y: jnp.sum(weights * unpool(y, index)))(jnp.ones((1, 1, 1, 1))).item() == received


def test_derivatives_agree_with_differences_forward_over_reverse_too():
    """Where nothing ties: values 0.1 apart, moved by 0.01 at most, and both indices the same."""
    weights, direction = (jnp.asarray(RNG.normal(size=(1, 4, 2, 2)), jnp.float32) for _ in range(2))
    x = jnp.asarray(RNG.permutation(16).reshape(1, 4, 2, 2), jnp.float32) / 10
    step = 0.01 * direction / jnp.abs(direction).max()

    def score(x):
        first, places = max_pool_with_index(x)
        every, all_places = max_pool_with_index(x, ties="all")
        return jnp.sum(weights * jnp.sin(unpool(first * first, places) + unpool(every, all_places)))

    @jax.jit
    def derivatives(x):
        gradient, product = jax.jvp(jax.grad(score), (x,), (step,))
        return score(x), gradient, product

    (low, slope_low, _), (_, slope, product), (high, slope_high, _) = (derivatives(x + k * step) for k in (-1, 0, 1))
    np.testing.assert_allclose((high - low) / 2, jnp.sum(slope * step), rtol=1e-3)
    np.testing.assert_allclose((slope_high - slope_low) / 2, product, atol=1e-3 * float(jnp.abs(product).max()))


def test_the_gradient_is_that_of_the_framework_and_scatters_nothing():
    weights = jnp.asarray(RNG.normal(size=(2, 3, 2, 3)), jnp.float32)
    forms = (max_pool, lambda x: nn.max_pool(x, (2, 2), (2, 2)))
    np.testing.assert_array_equal(*(jax.grad(lambda x, p=pool: jnp.sum(weights * p(x)))(TIED) for pool in forms))

    def both(x):
        pooled, index = max_pool_with_index(x)
        return jnp.sum(unpool(pooled, index) ** 2)

    program = jax.jit(jax.grad(both)).lower(TIED).as_text()
    sought = ("stablehlo.select", "scatter", "gather", "sort", "reduce_window")
    assert [word for word in sought if word in program] == ["stablehlo.select"]


@pytest.mark.parametrize("place", range(4))
def test_a_nan_is_not_lost(place):
    pooled, index = max_pool_with_index(jnp.ones(4).at[place].set(jnp.nan).reshape(1, 2, 2, 1))
    assert (jnp.isnan(pooled).all(), index.item()) == (True, 1 << place)


def test_refusals_say_what_came():
    refused(r"even sides, got shape \(1, 4, 3, 1\)", max_pool_with_index, jnp.zeros((1, 4, 3, 1)))
    refused("ties is 'last'; choose one of first, all", max_pool_with_index, jnp.zeros((1, 4, 4, 1)), ties="last")
