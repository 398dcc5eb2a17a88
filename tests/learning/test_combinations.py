"""Combinations that a step fuses: the requests, the draw, and the channels that a choice takes of an image."""

import jax
import jax.numpy as jnp
import numpy as np

from jaxfuse.learning.combinations import combinations
from tests.refusals import refused
from tests.tiny_systems import KEY

NAMES = ("t1", "t1ce", "t2")


def test_combinations_that_can_be_asked_for():
    four = (*NAMES, "flair")
    assert combinations("pairs", NAMES).members == ((0, 1), (0, 2), (1, 2))
    assert len(combinations("pairs", four).members) == 6
    assert [len(members) for members in combinations("all", four).members] == [2] * 6 + [3] * 4 + [4]
    named = combinations(("t2+t1", "t1+t1ce+flair"), four)
    assert named.members == ((2, 0), (0, 1, 3))
    assert named.slots == 3
    for asked, message in [
        ("triples", "choose pairs, all or a list"),
        ((), "choose pairs, all or a list"),
        (("t1",), "must name 2 to 4 different modalities"),
        (("t1+t1",), "must name 2 to 4 different modalities"),
        (("t1+pet",), "names pet, but the data has t1, t1ce, t2"),
    ]:
        refused(message, combinations, asked, NAMES)
    refused("at least 2 modalities, and the data has t1", combinations, "pairs", ("t1",))


def test_steps_draw_all_combinations_alike():
    asked = combinations("all", NAMES)
    keys = jax.vmap(lambda step: jax.random.fold_in(KEY, step))(jnp.arange(2000))
    drawn = jax.jit(jax.vmap(asked.draw))(keys)
    members = [tuple(row[used > 0]) for row, used in zip(*map(np.asarray, drawn), strict=True)]
    shares = [members.count(one) / len(members) for one in asked.members]
    # The standard deviation of a share is 0.01.
    np.testing.assert_allclose(shares, 0.25, atol=0.04)
    assert sum(shares) == 1


def test_a_choice_takes_its_channels_in_order_and_empties_the_slots_left_over():
    image = jnp.arange(3.0) + jnp.ones((2, 4, 4, 3))
    sources, presence = combinations(("t1+t1ce+t2", "t2+t1"), NAMES).choice(1).of(image)
    np.testing.assert_array_equal(sources[0, 0, 0], [3, 1, 0])
    np.testing.assert_array_equal(presence, [[1, 1, 0]] * 2)
