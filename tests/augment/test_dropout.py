"""Dropout of modalities: how often each subset is drawn, what is never drawn, and what decides it."""

from collections import Counter

import jax
import jax.numpy as jnp
import numpy as np

from jaxfuse.arrays import shown
from jaxfuse.augment.batch import augmentation, augmented
from jaxfuse.augment.dropout import Dropout
from jaxfuse.augment.settings import augment_from
from jaxfuse.data.presence import all_subsets, weighted_subsets
from jaxfuse.engine.programs import Programs
from tests.tiny_systems import KEY, same, valid_system

FOUR = ("t1", "t1ce", "t2", "flair")
ALL = (True,) * 4
SIDES = (5, 5, 5)
SYSTEM = valid_system(1, channels=(0, 1, 2, 3))


def dropout(*asked: str, probability: float = 1.0) -> Dropout:
    return Dropout(*weighted_subsets(asked, FOUR), probability)


def drawn(one: Dropout, own=ALL, count: int = 6000) -> Counter:
    keys = jax.random.split(KEY, count)
    found = jax.jit(jax.vmap(one, in_axes=(0, None)))(keys, jnp.array(own))
    return Counter(map(tuple, np.asarray(found).tolist()))


def batch_of(count: int) -> dict:
    rng = np.random.default_rng(1)
    image = rng.normal(size=(count, *SIDES, 4)).astype(np.float32)
    return {"image": image, "label": rng.integers(0, 2, (count, 3, 3, 3), np.int32)}


def _even(found: Counter, expected: dict) -> None:
    """Asserts that what was drawn is what is expected, as often as is expected, within four deviations."""
    count = sum(found.values())
    assert set(found) == set(expected)
    for subset, share in expected.items():
        deviation = (count * share * (1 - share)) ** 0.5
        assert abs(found[subset] - count * share) < 4 * deviation, subset


def test_all_fifteen_subsets_are_drawn_alike():
    _even(drawn(dropout()), dict.fromkeys(all_subsets(FOUR), 1 / 15))


def test_a_table_of_weights_is_followed():
    expected = {(True, False, False, False): 0.25, (False, False, True, True): 0.75}
    _even(drawn(dropout("t1", "t2+flair=3")), expected)


def test_some_examples_show_all_that_they_have():
    found = drawn(dropout(probability=0.3))
    _even(found, {one: 0.3 / 15 + (0.7 if one == ALL else 0) for one in all_subsets(FOUR)})


def test_what_an_example_lacks_is_never_shown_and_the_rest_is_drawn_alike():
    own = (True, False, True, False)
    expected = [(True, False, False, False), (False, False, True, False), own]
    _even(drawn(dropout(), own), dict.fromkeys(expected, 1 / 3))
    # Of this table it can show nothing, so that it shows what it has.
    assert set(drawn(dropout("t1ce", "flair=2"), own, count=50)) == {own}


def test_an_example_is_decided_by_its_number_and_step_and_other_changes_stay_what_they_are():
    plain, both = (
        augmentation(augment_from({"shift": {"probability": 1.0}}), SIDES, (1.0,) * 3, 1, one)
        for one in (None, dropout())
    )
    batch = batch_of(4)
    found = jax.jit(both)(KEY, batch)
    np.testing.assert_array_equal(found["image"], jax.jit(plain)(KEY, batch)["image"])
    assert (found["presence"].shape, found["presence"].dtype) == ((4, 4), bool)
    alone = augmentation(augment_from({}), SIDES, (1.0,) * 3, 1, dropout())
    np.testing.assert_array_equal(jax.jit(alone)(KEY, batch)["presence"], found["presence"])
    one = jax.jit(alone.example)(jax.random.fold_in(KEY, 2), {name: leaf[2] for name, leaf in batch.items()})
    np.testing.assert_array_equal(one["presence"], found["presence"][2])
    seen = jax.jit(augmented(lambda state, batch: batch["presence"], alone))
    state = Programs(SYSTEM).init(KEY, batch)
    assert len({np.asarray(seen(state.replace(step=jnp.int32(step)), batch)).tobytes() for step in range(8)}) > 4


def test_without_dropout_the_step_is_the_one_that_was_given():
    assert augmentation(augment_from({}), SIDES, (1.0,) * 3, 1, None) is None
    batch = batch_of(2)
    state = Programs(SYSTEM).abstract_init(batch)
    made = [augmentation(augment_from({}), SIDES, (1.0,) * 3, 1, one) for one in (None, dropout())]
    off, on = (Programs(SYSTEM, augment=one) for one in made)
    bare = Programs(SYSTEM).step.lower(state, batch).as_text()
    assert off.step.lower(state, batch).as_text() == bare != on.step.lower(state, batch).as_text()


def test_a_step_learns_from_what_is_shown_alone():
    """The step with dropout is the bare step on images whose absent channels are 0."""
    batch, augment = batch_of(2), augmentation(augment_from({}), SIDES, (1.0,) * 3, 1, dropout())
    state = Programs(SYSTEM).init(KEY, batch)
    presence = augmented(lambda state, batch: batch["presence"], augment)(state, batch)
    assert not presence.all()
    zeroed = {**batch, "image": np.asarray(shown({**batch, "presence": presence}))}
    expected, _ = jax.jit(SYSTEM.train_step)(state, zeroed)
    found, _ = jax.jit(augmented(SYSTEM.train_step, augment))(state, batch)
    same(found.params, expected.params)
