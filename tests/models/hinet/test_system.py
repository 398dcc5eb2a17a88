"""How Hi-Net learns: every term by hand, what each one moves, the order of the players, statistics."""

import dataclasses
import functools

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from jaxfuse.learning.system import System
from jaxfuse.models.hinet import make_system
from jaxfuse.models.hinet.form import HiNetForm
from jaxfuse.models.hinet.make import LossForm
from tests.refusals import refused
from tests.tiny_systems import KEY, adjustable, agree, close, drawn, largest, minus, same, structure, with_rates

MODALITIES = ("t1", "t1ce", "t2", "flair")
# The order of the sources is not that of the channels.
PAIRS = ("t2+t1", "flair")
TINY = HiNetForm(width=2, critic_width=2)
PLAYERS = ("generator", "discriminator")
AUTOENCODERS = {f"{part}_{name}" for part in ("encoder", "decoder") for name in ("t1", "t2")}


def _made(form=TINY, pairs=PAIRS, **losses):
    optimizers = {player: adjustable() for player in PLAYERS}
    return make_system(optimizers=optimizers, modalities=MODALITIES, pairs=pairs, form=form, losses=LossForm(**losses))


SYSTEM = _made()
# Critic's scores of 40x40 pixels: 1x1.
BATCH = {"image": jax.random.uniform(KEY, (2, 40, 40, 4))}


def _drawn(system):
    """A state whose parameters and statistics all differ from 0 and 1, as after training."""
    shapes = jax.eval_shape(system.init, KEY, BATCH)
    params, stats = (drawn(tree, 0.3, positive=("var", "scale")) for tree in (shapes.params, shapes.stats))
    state = shapes.replace(step=jnp.int32(0), rng=KEY, params=params, stats=stats)
    return with_rates(state, generator=1e-3, discriminator=1e-3)


STATE = _drawn(SYSTEM)
step = jax.jit(SYSTEM.train_step)


@jax.jit
def look(state, batch):
    """Evaluation, prediction, prediction by batch statistics, and what a training pass makes, scores and counts."""
    sources, target = SYSTEM.task.sources_of(batch), SYSTEM.task.target_of(batch)
    made = SYSTEM.generator.apply(state.params["generator"], state.stats["generator"], sources, train=True)[0]
    nothing = jax.tree.map(jnp.zeros_like, state.stats["discriminator"])
    passes = {
        kind: SYSTEM.critic.apply(state.params["discriminator"], nothing, image, train=True)
        for kind, image in (("real", target), ("fake", made[..., :1]))
    }
    by_batch = dataclasses.replace(SYSTEM, batch_stats_at_test=True).predict(state, batch)
    return SYSTEM.eval_step(state, batch), SYSTEM.predict(state, batch), by_batch, made, passes


@pytest.fixture(scope="module")
def stepped():
    return step(STATE, BATCH)


@pytest.fixture(scope="module")
def seen():
    return look(STATE, BATCH)


def test_it_is_a_system_of_two_players():
    assert isinstance(SYSTEM, System)
    assert SYSTEM.players == PLAYERS
    assert dataclasses.astuple(SYSTEM.geometry)[:3] == (2, 8, 0)
    assert (SYSTEM.primary, SYSTEM.probabilities, SYSTEM.accepts_unpaired) == ("synthesized", (), False)


def test_images_are_predicted_in_the_range_of_the_data_and_from_the_sources_alone(seen):
    predicted = seen[1]
    assert structure(predicted) == {
        "synthesized": ((2, 40, 40, 1), jnp.float32),
        "reconstructed": ((2, 40, 40, 2), jnp.float32),
    }
    for image in predicted.values():
        assert 0.0 <= float(image.min()) < 0.5 < float(image.max()) <= 1.0
    unknown = {"image": BATCH["image"].at[..., np.array([1, 3])].set(jnp.nan)}
    same(look(STATE, unknown)[1], predicted)


def test_terms_of_a_step_by_hand(stepped, seen):
    (_, metrics), (*_, made, passes) = stepped, seen
    made, image = np.asarray(made), 2 * np.asarray(BATCH["image"]) - 1
    real, fake = (np.asarray(passes[kind][0]) for kind in ("real", "fake"))
    expected = {
        "generator/adversarial": np.mean((fake - 1) ** 2),
        "generator/target": np.abs(made[..., 0] - image[..., 3]).mean(),
        "generator/reconstruction_t2": np.abs(made[..., 1] - image[..., 2]).mean(),
        "generator/reconstruction_t1": np.abs(made[..., 2] - image[..., 0]).mean(),
        "discriminator/real": np.mean((real - 1) ** 2),
        "discriminator/fake": np.mean(fake**2),
    }
    weights = {"adversarial": 1, "target": 100, "reconstruction_t1": 20, "reconstruction_t2": 20}
    expected["generator/loss"] = sum(weight * expected[f"generator/{name}"] for name, weight in weights.items())
    expected["discriminator/loss"] = 0.5 * (expected["discriminator/real"] + expected["discriminator/fake"])
    agree(metrics, expected)


def test_evaluation_reads_running_statistics(seen, stepped):
    evaluated, predicted, _, _, _ = seen
    assert set(evaluated) == set(stepped[1])
    error = np.abs(np.asarray(predicted["synthesized"]) - BATCH["image"][..., 3:]).mean()
    # Images in [-1, 1] differ twice as much.
    np.testing.assert_allclose(evaluated["generator/target"], 2 * error, rtol=1e-5)
    assert abs(float(evaluated["generator/target"] - stepped[1]["generator/target"])) > 1e-3
    halves = 0.5 * (evaluated["discriminator/real"] + evaluated["discriminator/fake"])
    np.testing.assert_allclose(evaluated["discriminator/loss"], halves, rtol=1e-6)


FUSED = {"encoder_t1", "encoder_t2", "fusion", "synthesis"}
# Term -> the networks that it moves.
MOVED = {
    "generator/adversarial": FUSED | {"discriminator"},
    "generator/target": FUSED,
    "generator/reconstruction_t1": {"encoder_t1", "decoder_t1"},
    "generator/reconstruction_t2": {"encoder_t2", "decoder_t2"},
    "generator/loss": FUSED | AUTOENCODERS | {"discriminator"},
    "discriminator/real": {"discriminator"},
    "discriminator/fake": {"discriminator"},
    "discriminator/loss": {"discriminator"},
}


def test_each_term_depends_on_the_networks_that_it_should_and_no_others(stepped):
    """By the values of a step when one network after the other is made a tenth stronger."""
    hears = {name: set() for name in stepped[1]}
    for name, network in SYSTEM.networks(STATE.params).items():
        stronger = {name: jax.tree.map(lambda leaf: np.float32(1.1) * np.asarray(leaf), network)}
        stronger = stronger if name == "discriminator" else {"generator": STATE.params["generator"] | stronger}
        changed = {**STATE.params, **stronger}
        for term, value in step(dataclasses.replace(STATE, params=changed), BATCH)[1].items():
            if float(value) != float(stepped[1][term]):
                hears[term].add(name)
    # By its fakes the critic depends on the generator, but sends it no gradient.
    assert hears == MOVED | dict.fromkeys(("discriminator/fake", "discriminator/loss"), FUSED | {"discriminator"})


def test_the_critics_loss_sends_no_gradient_to_the_generator():
    """Early fusion, the smallest network, through a whole step; see below for the rest."""
    system = _made(dataclasses.replace(TINY, kind="early"))
    state = _drawn(system)

    def critic_loss(params):
        params = {**state.params, "generator": params}
        return system.train_step(dataclasses.replace(state, params=params), BATCH)[1]["discriminator/fake"]

    assert largest(jax.jit(jax.grad(critic_loss))(state.params["generator"])) == 0


@pytest.mark.slow
def test_each_term_moves_the_networks_that_it_should_and_no_others():
    """Through a whole step: what the critic is told of its fakes says nothing to the generator."""

    def metrics(params):
        return SYSTEM.train_step(dataclasses.replace(STATE, params=params), BATCH)[1]

    gradients = jax.jit(jax.jacrev(metrics))(STATE.params)
    reached = {
        term: {name for name, tree in SYSTEM.networks(gradient).items() if largest(tree) > 0}
        for term, gradient in gradients.items()
    }
    assert reached == MOVED


def test_the_players_step_leaves_the_other_unchanged(stepped):
    after, _ = stepped
    still, _ = step(with_rates(STATE, generator=1e-3, discriminator=0.0), BATCH)
    same(still.params["discriminator"], STATE.params["discriminator"])
    same(still.params["generator"], after.params["generator"])
    for name, moved in SYSTEM.networks(minus(STATE.params, after.params)).items():
        assert largest(moved) > 0, name
    assert int(after.step) == 1


def test_the_critic_judges_what_the_generator_made_before_it_moved(stepped):
    after, metrics = stepped
    still, unmoved = step(with_rates(STATE, generator=0.0, discriminator=1e-3), BATCH)
    same(still.params["generator"], STATE.params["generator"])
    same(still.params["discriminator"], after.params["discriminator"])
    assert unmoved == metrics


def test_the_critics_statistics_move_three_times_a_step(stepped, seen):
    after, _ = stepped
    passes, before = jax.device_get((seen[-1], STATE.stats))
    # From statistics of zero a pass leaves a tenth of the batch's.
    (_, fake), (_, real), old = passes["fake"], passes["real"], before["discriminator"]
    expected = jax.tree.map(lambda old, f, r: 0.9 * (0.9 * (0.9 * old + f) + r) + f, old, fake, real)
    near = functools.partial(np.testing.assert_allclose, rtol=1e-4, atol=1e-6)
    jax.tree.map(near, after.stats["discriminator"], expected)
    for path, leaf in jax.tree_util.tree_leaves_with_path(jax.tree.map(lambda f, r: abs(f - r).max(), fake, real)):
        assert leaf > 1e-5, jax.tree_util.keystr(path)
    moved = minus(after.stats["generator"], before["generator"])
    assert all(np.any(leaf) for leaf in jax.tree.leaves(moved))


def test_a_slice_is_answered_alike_whatever_its_company_but_by_batch_statistics(seen):
    _, running, by_batch, made, _ = seen
    np.testing.assert_allclose(by_batch["synthesized"], 0.5 * (made[..., :1] + 1), atol=1e-6)
    other = look(STATE, {"image": BATCH["image"].at[1].set(0.0)})
    np.testing.assert_allclose(other[1]["synthesized"][0], running["synthesized"][0], atol=1e-5)
    assert float(jnp.abs(other[2]["synthesized"][0] - by_batch["synthesized"][0]).max()) > 1e-2


@pytest.mark.parametrize("level", [0.0, 0.7])
def test_constant_images_give_finite_losses_and_gradients(level):
    after, metrics = step(STATE, {"image": jnp.full_like(BATCH["image"], level)})
    assert all(np.isfinite(leaf).all() for leaf in jax.tree.leaves((metrics, after.params, after.stats)))


def test_labels_are_not_read():
    labeled = {**BATCH, "label": jnp.zeros(BATCH["image"].shape[:3], jnp.int32)}
    program = jax.make_jaxpr(lambda batch: SYSTEM.eval_step(STATE, batch))(labeled)
    read = {str(variable) for equation in program.eqns for variable in equation.invars}
    by_name = dict(zip(sorted(labeled), map(str, program.jaxpr.invars), strict=True))
    assert by_name["image"] in read
    assert by_name["label"] not in read


def test_a_conditional_critic_sees_the_sources_before_the_target():
    sources, target = jnp.array([1.0, 2.0]).reshape(1, 1, 1, 2), jnp.full((1, 1, 1, 1), 3.0)
    conditional = _made(dataclasses.replace(TINY, conditional=True))
    assert conditional.judged(sources, target).ravel().tolist() == [1, 2, 3]
    assert SYSTEM.judged(sources, target).ravel().tolist() == [3]


@pytest.mark.slow
def test_recomputing_blocks_changes_neither_gradients_nor_statistics(stepped):
    again, metrics = jax.jit(_made(dataclasses.replace(TINY, remat=True)).train_step)(STATE, BATCH)
    close(again.params, stepped[0].params)
    close(again.stats, stepped[0].stats)
    close(metrics, stepped[1])


@pytest.mark.slow
def test_a_fresh_state_learns_one_batch():
    system = make_system(
        optimizers={player: optax.adam(1e-3, b1=0.5) for player in PLAYERS},
        modalities=MODALITIES,
        pairs=("t1+t1ce+t2", "flair"),
        form=HiNetForm(width=4, critic_width=2),
    )
    state, train = jax.jit(system.init)(KEY, BATCH), jax.jit(system.train_step, donate_argnums=0)
    # Smooth images, the target being a mixture of the sources.
    waves = jnp.sin(jnp.arange(40.0)[:, None] / 5 + jnp.arange(3.0))[None, :, None] * jnp.ones((2, 1, 40, 1))
    image = 0.5 + 0.4 * waves
    batch = {"image": jnp.concatenate([image, image.mean(-1, keepdims=True)], axis=-1)}
    errors = []
    for _ in range(60):
        state, metrics = train(state, batch)
        errors.append(float(metrics["generator/target"]))
    assert np.mean(errors[-5:]) < 0.5 * errors[0]


def test_patches_too_small_for_the_critic_are_refused_where_it_is_trained_but_not_in_prediction():
    small = {"image": jnp.zeros((1, 32, 32, 4))}
    refused(r"sides of at least 33 pixels, got \(32, 32\)", jax.eval_shape, SYSTEM.init, KEY, small)
    predicted = jax.eval_shape(SYSTEM.predict, STATE, small)
    assert predicted["synthesized"].shape == (1, 32, 32, 1)
