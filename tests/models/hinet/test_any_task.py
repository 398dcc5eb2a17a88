"""Sources and targets that are drawn for each example: never one without the other, never the target, all alike."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jaxfuse.models.hinet.any_task import Ask, any_task_of
from tests.refusals import refused
from tests.tiny_systems import KEY

MODALITIES = ("t1", "t1ce", "t2", "flair")
ALL = "+".join(MODALITIES)
TASK = any_task_of((ALL, ALL), MODALITIES)
DRAWS = 4000


@pytest.fixture(scope="module")
def drawn():
    """Draws of examples that have everything, and of others that have t1 and flair alone, in turns."""
    presence = jnp.where(jnp.arange(DRAWS)[:, None] % 2 == 0, True, jnp.array([[True, False, False, True]]))
    own = TASK.own({"image": jnp.zeros((DRAWS, 1, 1, 4)), "presence": presence})
    return np.asarray(presence), jax.tree.map(np.asarray, jax.jit(TASK.draw)(KEY, own))


def test_a_draw_is_a_target_and_other_modalities_that_the_example_has(drawn):
    presence, (sources, target) = drawn
    assert (target.sum(1) == 1).all()
    assert sources.any(1).all()
    assert not (sources & target).any()
    assert not ((sources | target) & ~presence).any()


def test_all_tasks_are_drawn_alike(drawn):
    presence, (sources, target) = drawn
    for whole, tasks in ((True, 28), (False, 2)):
        rows = np.concatenate([sources, target], axis=1)[presence.all(1) == whole]
        counts = np.unique(rows, axis=0, return_counts=True)[1]
        assert len(counts) == tasks
        expected = DRAWS / 2 / tasks
        assert np.abs(counts - expected).max() < 5 * np.sqrt(expected)


def test_a_draw_follows_from_the_key_and_the_examples_number():
    @jax.jit
    def of(image):
        return TASK.draw(KEY, TASK.own({"image": image}))

    four, eight = (of(jnp.zeros((examples, 1, 1, 4))) for examples in (4, 8))
    for some, more in zip(four, eight, strict=True):
        np.testing.assert_array_equal(some, more[:4])
    assert len(np.unique(np.concatenate(eight, axis=1), axis=0)) > 2


def test_of_one_modality_nothing_can_be_made():
    own = TASK.own({"image": jnp.zeros((1, 1, 1, 4)), "presence": jnp.array([[False, True, False, False]])})
    sources, target = jax.jit(TASK.draw)(KEY, own)
    assert not target.any()
    np.testing.assert_array_equal(sources, own.sources)


def test_targets_that_are_no_sources_and_channels_in_any_order():
    task = any_task_of(("flair+t1", "t2"), MODALITIES)
    image = jnp.arange(4.0).reshape(1, 1, 1, 4) / 4
    batch = {"image": image, "presence": jnp.array([[True, True, True, False]])}
    np.testing.assert_array_equal(task.sources_of(batch).ravel(), [-1, -1])
    np.testing.assert_array_equal(task.targets_of(batch).ravel(), [0])
    own = task.own(batch)
    np.testing.assert_array_equal(own.sources, [[False, True]])
    assert jax.tree.all(jax.tree.map(np.array_equal, jax.jit(task.draw)(KEY, own), Ask(own.sources, own.target)))


def test_everything_is_asked_from_all_others_that_are_there():
    own = TASK.own({"image": jnp.zeros((1, 1, 1, 4)), "presence": jnp.array([[True, True, False, True]])})
    found = {name: TASK.asked(own, name) for name in ("t1", "t2")}
    np.testing.assert_array_equal(found["t1"].sources, [[False, True, False, True]])
    np.testing.assert_array_equal(found["t2"].sources, [[True, True, False, True]])
    np.testing.assert_array_equal(found["t2"].target, [[False, False, True, False]])


@pytest.mark.parametrize(
    ("pairs", "message"),
    [
        (("t1+t2",), "it must name the two to 8 modalities that may be sources"),
        (("t1", "t2"), "it must name the two to 8 modalities that may be sources"),
        (("t1+t1", "t2"), "it must name the two to 8 modalities that may be sources"),
        (("t1+t2", "pd"), "pairs names pd, but the data has t1, t1ce, t2, flair"),
    ],
)
def test_pairs_that_name_no_such_task_are_refused(pairs, message):
    refused(message, any_task_of, pairs, MODALITIES)
