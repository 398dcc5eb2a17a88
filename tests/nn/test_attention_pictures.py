"""Attention that each source receives, by maps made by hand; `test_cross_attention.py` has those of the network."""

import jax.numpy as jnp
import numpy as np

from jaxfuse.nn.cross_attention import received_by_source
from tests.refusals import refused

GRID = (2, 2)
UNIFORM = np.full((4, 4), 0.25)


def _maps(pairs, slots=2, heads=1):
    """Maps (1 m m heads 4 4) of these pairs of slots (query, key), on a grid of 2 x 2."""
    maps = np.zeros((1, slots, slots, heads, 4, 4), np.float32)
    for (query, key), values in pairs.items():
        maps[0, query, key] = values
    return jnp.asarray(maps)


def _looking_at(*tokens):
    """One key for each of the four queries."""
    return np.eye(4)[list(tokens)]


PAIR = _maps({(0, 1): _looking_at(3, 3, 3, 3), (1, 0): (_looking_at(0, 0, 0, 0) + UNIFORM) / 2})


def test_a_source_shows_what_the_other_looks_at_with_mean_one():
    received = np.moveaxis(received_by_source([PAIR], GRID, (2, 2)), -1, 0)
    np.testing.assert_allclose(received, [[[[2.5, 0.5], [0.5, 0.5]]], [[[0.0, 0.0], [0.0, 4.0]]]])
    np.testing.assert_allclose(received_by_source([PAIR], GRID, (6, 10)).mean((1, 2)), 1.0, rtol=1e-6)


def test_it_is_the_mean_over_bands_and_heads():
    even = _maps({(0, 1): UNIFORM, (1, 0): UNIFORM})
    both = received_by_source([PAIR, even], GRID, (2, 2))
    np.testing.assert_allclose(both, (received_by_source([PAIR], GRID, (2, 2)) + 1) / 2)
    heads = _maps({(0, 1): np.stack([_looking_at(0, 1, 2, 3), _looking_at(1, 1, 1, 1)])}, heads=2)
    np.testing.assert_allclose(received_by_source([heads], GRID, (2, 2))[0, ..., 1], [[0.5, 2.5], [0.5, 0.5]])


def test_partners_count_equally_and_a_missing_one_not_at_all():
    three = {(0, 2): _looking_at(0, 0, 0, 0), (1, 2): UNIFORM, (2, 0): UNIFORM}
    without = {pair: values for pair, values in three.items() if 1 not in pair}
    for pairs, expected in ((three, [[2.5, 0.5], [0.5, 0.5]]), (without, [[4.0, 0.0], [0.0, 0.0]])):
        received = received_by_source([_maps(pairs, slots=3)], GRID, (2, 2))
        np.testing.assert_allclose(received[0, ..., 2], expected)


def test_what_nobody_reads_is_zero():
    one_way = _maps({(0, 1): _looking_at(3, 3, 3, 3)})
    np.testing.assert_allclose(received_by_source([one_way] * 2, GRID, (4, 4)).mean((0, 1, 2)), [0.0, 1.0])
    np.testing.assert_array_equal(received_by_source([_maps({})], GRID, (4, 4)), 0.0)


def test_swapping_two_sources_swaps_their_maps_and_channels_have_no_places():
    swapped = PAIR[:, ::-1, ::-1]
    np.testing.assert_array_equal(
        received_by_source([swapped], GRID, (4, 4)), received_by_source([PAIR], GRID, (4, 4))[..., ::-1]
    )
    refused("3 tokens make no grid of 2 x 2", received_by_source, [jnp.ones((1, 2, 2, 1, 3, 3))], GRID, (4, 4))
