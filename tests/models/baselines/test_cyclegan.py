"""CycleGAN in 2D: the published networks, every term by hand, what each one moves, unpaired batches, refusals."""

import dataclasses
import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jaxfuse.learning.system import System
from jaxfuse.models.baselines.cyclegan import CycleGanForm, Generator, make_system
from jaxfuse.nn.initializers import he_normal
from tests.refusals import refused
from tests.tiny_systems import KEY, agree, counts, gradient_descent, in_float32, largest, minus, same, slopes

MODALITIES = ("t1", "t1ce", "t2", "flair")
PAIRS = ("t2", "t1ce")
PLAYERS = ("generators", "discriminators")
TINY = CycleGanForm(width=2, blocks=1, critic_width=2, critic_layers=1, kernel_init=he_normal())
BATCH = {"image": jax.random.uniform(KEY, (2, 8, 8, 4))}


def make(form=TINY, pairs=PAIRS, **options):
    optimizers = gradient_descent(*PLAYERS)
    return make_system(optimizers=optimizers, modalities=MODALITIES, pairs=pairs, form=form, **options)


@pytest.fixture(scope="module")
def system():
    return make(pool_size=3)


@pytest.fixture(scope="module")
def start(system):
    return jax.jit(system.init)(KEY, BATCH)


@pytest.fixture(scope="module")
def step(system):
    return jax.jit(system.train_step)


def test_it_is_a_system_of_two_players(system):
    assert isinstance(system, System)
    assert dataclasses.astuple(system.geometry)[:3] == (2, 4, 0)
    assert (system.players, system.primary, system.probabilities) == (PLAYERS, "synthesized", ())
    assert system.accepts_unpaired


@pytest.mark.parametrize(("blocks", "generator"), [(6, 7_825_153), (9, 11_365_633)])
def test_weights_and_pools(tiny, blocks, generator):
    system = make(CycleGanForm(blocks=blocks))
    state = jax.eval_shape(system.init, KEY, tiny.shapes(128, 128))
    found = counts(system.networks(state.params))
    assert found == {"G_AB": generator, "G_BA": generator, "D_A": 2_762_689, "D_B": 2_762_689}
    assert {pool.images.shape for pool in state.memory["pool"].values()} == {(50, 128, 128, 1)}


def test_a_generator_sees_the_image_reflected_beyond_its_edge():
    module, image = Generator(dataclasses.replace(TINY, blocks=2)), jnp.zeros((1, 8, 8, 1))
    program = str(jax.make_jaxpr(module.apply)(jax.eval_shape(module.init, KEY, image), image))
    # Enter, leave and two in each block pad by themselves, as does the doubling twice in its form for a GPU; the two
    # halvings pad with zeros.
    assert program.count("padding=(0, 0))") == 8
    assert program.count("padding=(1, 1))") == 2


@pytest.fixture(scope="module")
def looked(system, start):
    """Evaluation, and the gradients of its terms."""
    terms = jax.jit(system.eval_step)(start, BATCH)
    return terms, slopes(system, start, BATCH, tuple(terms))


def test_terms_of_a_first_step_by_hand(system, start, step, looked):
    """With pools that are not full the critics see the new fakes, so that a step and an evaluation agree."""
    generators, critics = start.params["generators"], start.params["discriminators"]
    a, b = 2 * BATCH["image"][..., 2:3] - 1, 2 * BATCH["image"][..., 1:2] - 1
    make, judge = jax.jit(system.make), jax.jit(system.judge)
    ab, ba = (lambda image, name=name: make(generators[name], image) for name in ("ab", "ba"))
    expected = {
        "cycle_a": jnp.abs(ba(ab(a)) - a).mean(),
        "cycle_b": jnp.abs(ab(ba(b)) - b).mean(),
        "identity_a": jnp.abs(ba(a) - a).mean(),
        "identity_b": jnp.abs(ab(b) - b).mean(),
    }
    loss = 10 * (expected["cycle_a"] + expected["cycle_b"]) + 5 * (expected["identity_a"] + expected["identity_b"])
    judged = {}
    for side, real, fake in (("a", a, ba(b)), ("b", b, ab(a))):
        told = judge(critics[side], fake)
        expected[f"adversarial_{side}"] = jnp.square(told - 1).mean()
        loss += expected[f"adversarial_{side}"]
        errors = jnp.square(judge(critics[side], real) - 1).mean() + jnp.square(told).mean()
        judged[f"critic_{side}"] = errors / 2
    both = {f"generators/{name}": value for name, value in (expected | {"loss": loss}).items()}
    both |= {f"discriminators/{name}": value for name, value in (judged | {"loss": sum(judged.values())}).items()}
    after, metrics = step(start, BATCH)
    agree(metrics, both)
    agree(looked[0], both)
    assert [int(after.memory["pool"][side].count) for side in ("a", "b")] == [2, 2]
    for side, fake in (("a", ba(b)), ("b", ab(a))):
        np.testing.assert_allclose(after.memory["pool"][side].images[:2], fake, atol=1e-2)


def test_each_term_moves_the_networks_that_it_should_and_no_others(system, looked):
    reached = {
        name.split("/")[1]: {key for key, tree in system.networks(gradient).items() if largest(tree) > 1e-6}
        for name, gradient in looked[1].items()
    }
    assert reached["adversarial_a"] == {"G_BA", "D_A"}  # D_A judges G_BA(B)
    assert reached["adversarial_b"] == {"G_AB", "D_B"}
    assert reached["cycle_a"] == reached["cycle_b"] == {"G_AB", "G_BA"}
    assert reached["identity_a"] == {"G_BA"}
    assert reached["identity_b"] == {"G_AB"}
    assert reached["critic_a"] & {"D_A", "D_B"} == {"D_A"}
    assert reached["critic_b"] & {"D_A", "D_B"} == {"D_B"}


def test_a_step_is_the_gradient_of_each_players_own_loss(start, step, looked):
    after, _ = step(start, BATCH)
    for player in PLAYERS:
        gradient = looked[1][f"{player}/loss"][player]
        near = functools.partial(np.testing.assert_allclose, atol=1e-3 * largest(gradient))
        jax.tree.map(near, minus(start.params[player], after.params[player]), gradient)


def test_predictions_read_the_source_alone_and_lie_in_the_range_of_the_data(system, start):
    predict = jax.jit(system.predict)
    predicted = predict(start, BATCH)
    unknown = {"image": BATCH["image"].at[..., np.array([0, 1, 3])].set(jnp.nan)}
    same(predict(start, unknown), predicted)
    generators = start.params["generators"]
    make = jax.jit(system.make)
    fake = make(generators["ab"], 2 * BATCH["image"][..., 2:3] - 1)
    np.testing.assert_allclose(predicted["synthesized"], (fake + 1) / 2, atol=1e-5)
    np.testing.assert_allclose(predicted["cycle"], (make(generators["ba"], fake) + 1) / 2, atol=1e-5)
    for image in predicted.values():
        assert (image.shape, image.dtype) == ((2, 8, 8, 1), jnp.float32)
        assert 0.0 <= float(image.min()) < 0.5 < float(image.max()) <= 1.0


def test_unpaired_batches_take_source_and_target_from_their_own_subjects(system, start):
    other = {"image": BATCH["image"] + 1.0}
    source, target = system.split({"a": BATCH, "b": other})
    np.testing.assert_array_equal(source, 2 * BATCH["image"][..., 2:3] - 1)
    np.testing.assert_array_equal(target, 2 * other["image"][..., 1:2] - 1)
    after, _ = jax.eval_shape(system.train_step, start, {"a": BATCH, "b": other})
    assert jax.tree.map(jnp.shape, after.params) == jax.tree.map(jnp.shape, start.params)


@pytest.mark.parametrize("level", [0.0, 1.0])
def test_constant_images_give_finite_losses_and_gradients(start, step, level):
    after, metrics = step(start, {"image": jnp.full_like(BATCH["image"], level)})
    assert all(np.isfinite(leaf).all() for leaf in jax.tree.leaves((metrics, after.params)))


@pytest.mark.slow
def test_bfloat16_keeps_float32_weights_losses_and_images(start):
    system = make(dataclasses.replace(TINY, dtype="bfloat16"), pool_size=3)
    assert "bf16[2,8,8,2]" in in_float32(system, start, BATCH)


def test_refusals():
    refused(r"\('t1\+t2', 'flair'\); it must name one source and one other modality as", make, pairs=("t1+t2", "flair"))
    refused("dtype is 'half'; choose one of float32, bfloat16", make, dataclasses.replace(TINY, dtype="half"))
    refused("blocks is -1; give at least 0", make, dataclasses.replace(TINY, blocks=-1))
    for name in ("cycle_weight", "identity_weight", "pool_size"):
        refused(f"{name} is -1; it may not be negative", make, **{name: -1})
    flat = {"image": jnp.zeros((1, 8, 4, 4))}
    refused(r"multiples of 4, and at least 8, got shape \(1, 8, 4, 1\)", jax.eval_shape, make().init, KEY, flat)
