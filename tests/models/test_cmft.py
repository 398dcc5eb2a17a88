"""CMFT: parameter counts of the paper's sizes, what each term moves, rematerialization, variants and refusals."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jaxfuse.models.cmft import make_system, pairing
from tests.refusals import refused
from tests.tiny_systems import (
    close,
    counts,
    gradient_descent,
    in_float32,
    kept_bytes,
    largest,
    made,
    minus,
    moving,
)

PAIRS = ("t1+t1ce", "t2+flair")
MODALITIES = ("t1", "t1ce", "t2", "flair")


def _system(tiny, **changes):
    options = tiny.translation | changes
    return made(make_system, optimizers=gradient_descent("generators", "discriminators"), **options)


def _paper(tiny, **changes):
    optimizers = gradient_descent("generators", "discriminators")
    options = {"modalities": MODALITIES, "pairs": PAIRS, "pool_size": 0} | changes
    return made(make_system, optimizers=optimizers, **options)


@pytest.fixture(scope="module")
def system(tiny):
    return _system(tiny)


@pytest.fixture(scope="module")
def start(tiny, system):
    return jax.jit(system.init)(tiny.key, tiny.batch)


@pytest.fixture(scope="module")
def stepped(tiny, system, start):
    return jax.jit(system.train_step)(start, tiny.batch)


@pytest.mark.parametrize(
    ("arch", "pairs", "generator", "critic"),
    [
        ("residual", PAIRS, 8_261_762, 698_385),
        ("plain", PAIRS, 5_883_010, 698_385),
        ("residual", ("t1", "flair"), 8_261_313, 697_361),
        ("plain", ("t1", "flair"), 5_882_561, 697_361),
    ],
)
def test_parameter_counts(tiny, arch, pairs, generator, critic):
    system = _paper(tiny, arch=arch, pairs=pairs)
    state = jax.eval_shape(system.init, tiny.key, tiny.shapes(32, 32, 32))
    found = counts(system.networks(state.params))
    assert found == {"G_AB": generator, "G_BA": generator, "D_A": critic, "D_B": critic}
    assert sum(counts(state.params).values()) == 2 * (generator + critic)


@pytest.mark.parametrize(("pairs", "a", "b"), [(PAIRS, 2, 2), (("t1", "t2+flair"), 1, 2)])
def test_shapes_at_the_paper_patch(tiny, pairs, a, b):
    system, batch, patch = _paper(tiny, pairs=pairs), tiny.shapes(128, 128, 128), (1, 128, 128, 128)
    state = jax.eval_shape(system.init, tiny.key, batch)
    cycle = jax.eval_shape(system.predict, state, {"image": batch["image"]})
    channels = {"fake_a": a, "fake_b": b, "cycle_a": a, "cycle_b": b}
    assert {name: out.shape for name, out in cycle.items()} == {name: (*patch, n) for name, n in channels.items()}
    scores = jax.eval_shape(system.critics.judge, state.params["discriminators"]["a"], cycle["fake_a"])
    assert scores.shape == (1, 7, 7, 7, 1)


def test_pools_hold_fifty_fakes_in_bfloat16(tiny):
    state = jax.eval_shape(_paper(tiny, pool_size=50).init, tiny.key, tiny.shapes(128, 128, 128))
    for side in ("a", "b"):
        images = state.memory["pool"][side].images
        assert (images.shape, images.dtype) == ((50, 128, 128, 128, 2), jnp.bfloat16)


def test_a_step_moves_every_generator_and_critic_and_fills_the_pools(system, start, stepped):
    after, metrics = stepped
    for name, moved in system.networks(minus(start.params, after.params)).items():
        assert largest(moved) > 0, name
    assert int(after.step) == 1
    assert [int(after.memory["pool"][side].count) for side in ("a", "b")] == [1, 1]
    makers = {f"generators/{kind}_{side}" for kind in ("adversarial", "cycle") for side in ("a", "b")}
    critics = {f"discriminators/critic_{side}" for side in ("a", "b")}
    assert set(metrics) == {"generators/loss", "discriminators/loss"} | makers | critics


def test_losses_of_a_first_step_are_those_of_the_fakes_and_cycles(tiny, system, start, stepped):
    """With an empty pool the critic sees the new fakes, so a step and an evaluation agree."""
    evaluated, cycle = jax.jit(lambda s, b: (system.eval_step(s, b), system.predict(s, b)))(start, tiny.batch)
    for name, value in stepped[1].items():
        np.testing.assert_allclose(value, evaluated[name], rtol=1e-5, err_msg=name)
    image_a, image_b = tiny.batch["image"][..., :2], tiny.batch["image"][..., 2:]
    loss = evaluated["generators/adversarial_a"] + evaluated["generators/adversarial_b"]
    for name, image in (("cycle_a", image_a), ("cycle_b", image_b)):
        distance = np.abs(np.asarray(cycle[name]) - image).mean()
        np.testing.assert_allclose(evaluated[f"generators/{name}"], distance, rtol=1e-5)
        loss += 10 * distance
    np.testing.assert_allclose(evaluated["generators/loss"], loss, rtol=1e-5)


def test_each_term_moves_the_networks_that_it_should_and_no_others(tiny, system, start, stepped):
    reached = moving(system, start, tiny.batch, tuple(stepped[1]))
    assert reached["generators/adversarial_a"] == {"G_BA", "D_A"}  # D_A judges G_BA(B)
    assert reached["generators/adversarial_b"] == {"G_AB", "D_B"}
    assert reached["generators/cycle_a"] == reached["generators/cycle_b"] == {"G_AB", "G_BA"}
    assert reached["discriminators/critic_a"] & {"D_A", "D_B"} == {"D_A"}
    assert reached["discriminators/critic_b"] & {"D_A", "D_B"} == {"D_B"}


@pytest.mark.slow
def test_remat_changes_no_gradient(tiny, start, stepped):
    again, metrics = jax.jit(_system(tiny, remat=True).train_step)(start, tiny.batch)
    close(again.params, stepped[0].params)
    close(metrics, stepped[1])


@pytest.mark.slow
@pytest.mark.parametrize(("remat", "gigabytes"), [(False, 15.96), (True, 1.50)])
def test_what_the_generators_keep_for_the_backward_pass_at_the_paper_size(tiny, remat, gigabytes):
    """By what reverse mode holds on to: compiled for CPU, the barriers that force recomputation are dropped."""
    system, batch = _paper(tiny, remat=remat), tiny.shapes(128, 128, 128)
    generators = jax.eval_shape(system.init, tiny.key, batch).params["generators"]
    forward = lambda p, image: tuple(system.translate(p, image[..., :2], image[..., 2:]))
    assert kept_bytes(forward, generators, batch["image"]) == pytest.approx(gigabytes * 1e9, rel=0.08)


def test_bfloat16_computes_in_it_and_keeps_weights_losses_and_outputs_in_float32(tiny):
    system = _system(tiny, dtype="bfloat16")
    state = jax.eval_shape(system.init, tiny.key, tiny.batch)
    convolved = in_float32(system, state, tiny.batch)
    assert len([made for made in convolved if made.startswith("bf16")]) == len(convolved) > 10


def test_unpaired_batches_take_each_group_from_its_own_subject(tiny, system, start):
    other = {"image": tiny.batch["image"] + 1.0}
    image_a, image_b = system.pairing.split({"a": tiny.batch, "b": other})
    np.testing.assert_array_equal(image_a, tiny.batch["image"][..., :2])
    np.testing.assert_array_equal(image_b, other["image"][..., 2:])
    after, _ = jax.eval_shape(system.train_step, start, {"a": tiny.batch, "b": other})
    assert jax.tree.map(jnp.shape, after.params) == jax.tree.map(jnp.shape, start.params)


def test_other_pairs_read_the_channels_by_name():
    found = pairing(("flair+t1", "t2"), MODALITIES)
    assert found.groups == ((3, 0), (2,))


def test_refusals(tiny):
    refused("pairs names t1c, but the data has t1, t1ce, t2, flair", _system, tiny, pairs=("t1+t1c", "t2+flair"))
    refused(r"pairs is \('t1\+t1ce',\); it must name two groups", _system, tiny, pairs=("t1+t1ce",))
    refused(
        "it must name two groups.*the rows three_groups and four_groups", _system, tiny, pairs=("t1", "t2", "flair")
    )
    refused("the group 't2\+' names an empty modality; fill it", _system, tiny, pairs=("t1", "t2+"))
    refused("t1 stands twice; a modality is in one group only", _system, tiny, pairs=("t1+t1ce", "flair+t1"))
    refused("t2 stands twice", _system, tiny, pairs=("t1", "t2+t2"))
    refused("dtype is 'float16'; choose one of float32, bfloat16", _system, tiny, dtype="float16")
