"""Augmentation of batches: what decides an example, what moves alike, and what the compiled step holds of it."""

import json
import subprocess
import sys
from dataclasses import fields

import jax
import numpy as np
import pytest

from jaxfuse.augment.batch import augmentation, augmented
from jaxfuse.augment.settings import Augment, augment_from
from jaxfuse.engine.programs import Programs
from jaxfuse.learning.side_by_side import SideBySide
from tests.tiny_systems import valid_system

KEY = jax.random.key(2)
SIDES = (8, 6, 6)
EVERY = [one.name for one in fields(Augment) if one.name != "flip"]


def made(*names: str, patch=SIDES, margin=0, probability=1.0, **options):
    groups = {name: {"probability": probability, **options.get(name, {})} for name in names}
    return augmentation(augment_from(groups), patch, (1.0,) * len(patch), margin)


def batch_of(count: int, sides=SIDES, modalities=2) -> dict:
    rng = np.random.default_rng(0)
    image = rng.normal(size=(count, *sides, modalities)).astype(np.float32)
    image[:, :2] = 0  # background
    return {"image": image, "label": rng.integers(0, 4, (count, *sides), np.int32)}


def test_an_example_is_decided_by_its_number_and_the_key_alone():
    augment = made("quarter_turn", "noise", "brightness", probability=0.7)
    batch = batch_of(4)
    whole = jax.jit(augment)(KEY, batch)
    for number in (0, 3):
        key = jax.random.fold_in(KEY, number)
        alone = jax.jit(augment.example)(key, {name: leaf[number] for name, leaf in batch.items()})
        for name in batch:
            np.testing.assert_allclose(whole[name][number], alone[name], atol=1e-6)
    twice = jax.jit(augment)(KEY, {name: np.stack([leaf[0]] * 4) for name, leaf in batch.items()})
    assert len({np.asarray(one).tobytes() for one in twice["image"]}) == 4
    # Background is background before and after, and nothing else is.
    assert not np.asarray(whole["image"])[~np.asarray(whole["image"]).any(-1)].any()
    assert np.count_nonzero(whole["image"]) == np.count_nonzero(batch["image"])


def test_what_is_switched_on_leaves_the_numbers_of_the_others_alone():
    batch = {"image": batch_of(2)["image"]}
    some, more = (jax.jit(made(*names))(KEY, batch)["image"] for names in (("shift",), ("brightness", "shift")))
    by = [np.asarray(some[n] - batch["image"][n])[2:] for n in range(2)]
    factors = np.asarray(jax.jit(made("brightness"))(KEY, batch)["image"])[:, 2:] / batch["image"][:, 2:]
    for n in range(2):
        np.testing.assert_allclose(np.asarray(more[n])[2:], batch["image"][n, 2:] * factors[n] + by[n], atol=1e-5)


def test_quarter_turns_move_image_and_label_alike():
    batch = batch_of(6)
    batch["image"] = np.stack([batch["label"], -batch["label"]], -1).astype(np.float32)
    found = jax.jit(made("quarter_turn"))(KEY, batch)
    np.testing.assert_array_equal(found["image"][..., 0], found["label"])
    np.testing.assert_array_equal(found["image"][..., 1], -found["label"])
    for before, after in zip(batch["label"], np.asarray(found["label"]), strict=True):
        assert any(np.array_equal(after, np.rot90(before, quarters, (1, 2))) for quarters in (1, 2, 3))


@pytest.mark.parametrize("margin", [0, 2])
def test_labels_off_the_grid_have_no_new_value_and_are_cut_to_the_window(margin):
    """The label of any voxel of the patch may be needed; a network that loses a margin learns from the middle."""
    batch = batch_of(2, (9, 9))
    batch["label"] *= 50
    found = jax.jit(made("rotation", patch=(9, 9), margin=margin))(KEY, batch)
    assert found["label"].shape == (2, 9 - 2 * margin, 9 - 2 * margin)
    assert set(np.unique(found["label"])) <= {0, 50, 100, 150}
    whole = jax.jit(made("rotation", patch=(9, 9)))(KEY, batch)
    seen = slice(margin, 9 - margin)
    np.testing.assert_array_equal(found["label"], whole["label"][:, seen, seen])
    np.testing.assert_array_equal(found["image"], whole["image"])


def test_sides_of_different_cases_are_changed_apart_and_images_need_no_label():
    one = {"image": batch_of(2)["image"]}
    found = jax.jit(made("shift"))(KEY, {"a": one, "b": one})
    assert {side: set(batch) for side, batch in found.items()} == {"a": {"image"}, "b": {"image"}}
    assert np.abs(found["a"]["image"] - found["b"]["image"]).max() > 1e-3


SYSTEM = valid_system(2, ndim=3, channels=(0, 1))
BATCH = {**batch_of(2, (9, 9, 9)), "label": np.zeros((2, 5, 5, 5), np.int32)}


def test_a_step_without_augmentation_is_the_step_that_was_given():
    assert augmented(SYSTEM.train_step, None) == SYSTEM.train_step
    assert augmentation(augment_from({"flip": {"probability": 0.5}}), SIDES, (1.0,) * 3, 0) is None
    state = Programs(SYSTEM).abstract_init(BATCH)
    off, on = (Programs(SYSTEM, augment=one) for one in (made(patch=(9, 9, 9)), made("noise", patch=(9, 9, 9))))
    bare = Programs(SYSTEM).step.lower(state, BATCH).as_text()
    assert off.step.lower(state, BATCH).as_text() == bare != on.step.lower(state, BATCH).as_text()


def test_a_step_augments_by_its_number_and_no_gradient_flows_into_it():
    augment = made("scaling", "shift", patch=(9, 9, 9), margin=2)
    state = Programs(SYSTEM).init(KEY, BATCH)
    whole = {**BATCH, "label": np.zeros((2, 9, 9, 9), np.int32)}
    told = jax.jit(augmented(lambda state, batch: batch["image"], augment))
    first, later = told(state, whole), told(state.advance(), whole)
    assert np.abs(first - later).max() > 1e-3
    key = jax.random.fold_in(jax.random.fold_in(state.rng, 2**32 - 1), state.step)
    np.testing.assert_allclose(first, jax.jit(augment)(key, whole)["image"], atol=1e-6)
    # The transpose of the reading of voxels would be a scatter.
    with_it = str(jax.make_jaxpr(augmented(SYSTEM.train_step, augment))(state, whole))
    without = str(jax.make_jaxpr(SYSTEM.train_step)(state, BATCH))
    assert with_it.count("scatter-add") == without.count("scatter-add")
    assert with_it.count("gather[") > without.count("gather[")


@pytest.mark.slow
def test_members_side_by_side_see_the_changes_that_each_would_see_alone():
    augment = made("shift", "scaling", patch=(9, 9, 9), margin=2)
    step = augmented(SYSTEM.train_step, augment)
    states = {name: Programs(SYSTEM).init(jax.random.key(n), BATCH) for n, name in enumerate(("a", "b"))}
    side = SideBySide(SYSTEM, ("a", "b"))
    whole = {**BATCH, "label": np.zeros((2, 9, 9, 9), np.int32)}
    together, _ = jax.jit(side.over_members(step))(side.stack(states), {"a": whole, "b": whole})
    alone, _ = jax.jit(step)(states["b"], whole)
    for found, wanted in zip(
        jax.tree.leaves(side.member(together, "b").params), jax.tree.leaves(alone.params), strict=True
    ):
        np.testing.assert_allclose(found, wanted, atol=1e-5)


@pytest.mark.slow
@pytest.mark.parametrize("sides", [(16, 16, 16), (16, 16)])
def test_all_together_give_finite_images_and_known_labels(sides):
    augment = made(*EVERY, patch=sides, elastic={"most_mm": 1.0, "control_mm": 6.0})
    batch = batch_of(4, sides)
    found = jax.jit(augment)(KEY, batch)
    assert np.isfinite(found["image"]).all()
    assert set(np.unique(found["label"])) <= {0, 1, 2, 3}
    empty = jax.jit(augment)(KEY, {name: np.zeros_like(leaf) for name, leaf in batch.items()})
    assert not np.asarray(empty["image"]).any()


# Runs in a process of its own, which has four devices.
_FOUR = """
import json, re
import jax
jax.config.update("jax_num_cpu_devices", 4)
import numpy as np
from dataclasses import replace
from jaxfuse.augment.dropout import Dropout
from jaxfuse.engine.devices.placement import on_mesh
from tests.augment.test_batch import EVERY, KEY, batch_of, made

augment = made(*EVERY, patch=(12, 12, 12), probability=0.5, elastic={"most_mm": 1.0, "control_mm": 6.0})
augment = replace(augment, dropout=Dropout(((True, False), (False, True), (True, True)), (1.0, 1.0, 1.0)))
batch = batch_of(8, (12, 12, 12))
alone = jax.jit(augment)(KEY, batch)
placement = on_mesh(jax.devices())
parted = jax.jit(augment, in_shardings=(placement.state, placement.batch), out_shardings=placement.batch)
text = parted.lower(KEY, batch).compile().as_text()
found = parted(KEY, placement.put(batch))
print(json.dumps({
    "collectives": re.findall("all-gather|all-reduce|all-to-all|collective-permute|reduce-scatter", text),
    "image": float(abs(np.asarray(found["image"]) - np.asarray(alone["image"])).max()),
    "label": int((np.asarray(found["label"]) != np.asarray(alone["label"])).sum()),
    "presence": int((np.asarray(found["presence"]) != np.asarray(alone["presence"])).sum()),
}))
"""


@pytest.mark.slow
def test_four_devices_make_what_one_makes_and_say_no_word_to_each_other():
    done = subprocess.run([sys.executable, "-c", _FOUR], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    found = json.loads(done.stdout)
    assert (found["collectives"], found["label"], found["presence"]) == ([], 0, 0)
    assert found["image"] < 1e-4
