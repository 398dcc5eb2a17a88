"""Joint training of CMFT and CMFF: counts at the paper's sizes, both phases as parts, what is kept and predicted."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jaxfuse.labels import IGNORED
from jaxfuse.models.cmff_joint import make_joint
from tests.refusals import refused
from tests.tiny_systems import close, count, gradient_descent, kept_bytes, largest, made, minus, same

DATA = {"modalities": ("t1", "t1ce", "t2", "flair"), "pairs": ("t1+t1ce", "t2+flair")}


def _joint(tiny, **changes):
    optimizers = gradient_descent("net", "discriminators")
    return made(make_joint, optimizers=optimizers, **tiny.translation | tiny.fusion | changes)


def _paper(tiny, **changes):
    options = DATA | {"classes": 4, "loss": tiny.fusion["loss"], "pool_size": 0} | changes
    system = made(make_joint, optimizers=gradient_descent("net", "discriminators"), **options)
    return system, jax.eval_shape(system.init, tiny.key, tiny.shapes(32, 32, 32))


@pytest.mark.parametrize(("share_trunk", "total"), [(True, 18_086_450), (False, 34_609_906)])
def test_counts_of_joint_training(tiny, share_trunk, total):
    system, state = _paper(tiny, share_trunk=share_trunk)
    assert count(state.params) == total
    assert sum(map(count, system.networks(state.params).values())) == total


def _joint_start(fusion, translation, *, share_trunk):
    """The joint state made of both phases' states."""
    start = translation[0]
    generators = start.params["generators"]
    if share_trunk:
        generators = {side: {"head": params["head"]} for side, params in generators.items()}
    net = {**fusion[1].params["net"], "translation": generators}
    params = {"net": net, "discriminators": start.params["discriminators"]}
    opt_state = {"net": fusion[1].opt_state["net"], "discriminators": start.opt_state["discriminators"]}
    return start.replace(params=params, stats={"net": {}, "discriminators": {}}, opt_state=opt_state)


@pytest.fixture(scope="module")
def joint_step(tiny):
    """The compiled step on shared trunks."""
    return jax.jit(_joint(tiny).train_step)


@pytest.fixture(scope="module")
def joint(tiny, fusion, translation, joint_step):
    """The joint state on shared trunks and its first step."""
    start = _joint_start(fusion, translation, share_trunk=True)
    return start, *joint_step(start, tiny.batch)


@pytest.mark.slow
def test_joint_training_on_trunks_of_its_own_is_both_phases_side_by_side(tiny, fusion, translation):
    start = _joint_start(fusion, translation, share_trunk=False)
    system = _joint(tiny, share_trunk=False, segmentation_weight=0.5)
    after, metrics = jax.jit(system.train_step)(start, tiny.batch)
    net = {name: tree for name, tree in after.params["net"].items() if name != "translation"}
    _, before, stepped, fusion_metrics = fusion
    half = jax.tree.map(lambda a, b: (a + b) / 2, before.params["net"], stepped.params["net"])
    close(net, half)
    close(after.params["net"]["translation"], translation[1].params["generators"])
    close(after.params["discriminators"], translation[1].params["discriminators"])
    close(after.memory, translation[1].memory)
    loss = translation[2]["generators/loss"] + 0.5 * fusion_metrics["net/loss"]
    np.testing.assert_allclose(metrics["net/loss"], loss, rtol=1e-5)


def test_joint_training_on_shared_trunks_adds_the_gradients_of_both_phases(fusion, translation, joint):
    (_, _, segmented, _), (_, translated, _), (start, after, metrics) = fusion, translation, joint
    for branch, generator in (("branch_a", "ab"), ("branch_b", "ba")):
        old, new = start.params["net"][branch], after.params["net"][branch]
        by_loss, by_cycle = segmented.params["net"][branch], translated.params["generators"][generator]
        both = jax.tree.map(lambda a, b, c: a + b - c, by_loss["trunk"], by_cycle["trunk"], old["trunk"])
        close(new["trunk"], both)
        close(new["head"], by_loss["head"])
        close(after.params["net"]["translation"][generator]["head"], by_cycle["head"])
    close(after.params["net"]["fusion"], segmented.params["net"]["fusion"])
    close(after.params["discriminators"], translated.params["discriminators"])
    assert {"net/S_A", "net/S_B", "net/S_F", "net/cycle_a", "discriminators/critic_b"} <= set(metrics)
    assert int(after.step) == 1


def test_examples_without_a_label_learn_by_translation_alone(tiny, translation, joint, joint_step):
    start, labeled, _ = joint
    assert _joint(tiny).accepts_unlabeled
    bare = {**tiny.batch, "label": jnp.full_like(tiny.batch["label"], IGNORED)}
    after, metrics = joint_step(start, bare)
    old, new = start.params["net"], after.params["net"]
    same(new["fusion"], old["fusion"])
    for branch, generator in (("branch_a", "ab"), ("branch_b", "ba")):
        same(new[branch]["head"], old[branch]["head"])
        by_cycle = translation[1].params["generators"][generator]
        close(new[branch]["trunk"], by_cycle["trunk"])
        close(new["translation"][generator]["head"], by_cycle["head"])
        assert largest(minus(labeled.params["net"][branch]["head"], old[branch]["head"])) > 0
    assert [float(metrics[f"net/{name}"]) for name in ("S_A", "S_B", "S_F")] == [0.0] * 3


@pytest.mark.slow
def test_remat_changes_no_gradient_of_joint_training(tiny, joint):
    start, after, metrics = joint
    again, values = jax.jit(_joint(tiny, remat=True).train_step)(start, tiny.batch)
    close(again.params, after.params)
    close(values, metrics)


@pytest.mark.slow
@pytest.mark.parametrize(("remat", "gigabytes"), [(False, 20.87), (True, 2.07)])
def test_what_joint_training_keeps_for_the_backward_pass_at_the_paper_size(tiny, remat, gigabytes):
    system, state = _paper(tiny, remat=remat)
    forward = lambda p, image: system.forward(p, image[..., :2], image[..., 2:])
    found = kept_bytes(forward, state.params["net"], tiny.shapes(128, 128, 128)["image"])
    assert found == pytest.approx(gigabytes * 1e9, rel=0.06)


@pytest.mark.parametrize("share_trunk", [True, False])
def test_joint_prediction_makes_segmentations_and_no_translations(tiny, share_trunk):
    system = _joint(tiny, share_trunk=share_trunk)
    state = jax.eval_shape(system.init, tiny.key, tiny.batch)
    outputs = jax.eval_shape(system.predict, state, tiny.batch)
    channels = {name: out.shape[-1] for name, out in outputs.items()}
    assert channels == dict.fromkeys(("S_A", "S_B", "S_F"), 4)
    assert system.probabilities == tuple(channels)
    # Neither the translation heads nor the critics are read: without them it predicts the same.
    net = {name: part for name, part in state.params["net"].items() if name != "translation"}
    without = state.replace(params={"net": net})
    assert jax.eval_shape(system.predict, without, tiny.batch) == outputs


def test_refusals(tiny):
    refused("presence is 'masked'; choose one of zeroed", _joint, tiny, presence="masked")
