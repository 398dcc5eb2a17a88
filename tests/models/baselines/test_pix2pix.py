"""Pix2pix: the published networks, what is dropped, the order of the players, every term by hand, statistics."""

import dataclasses
import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jaxfuse.learning.system import System
from jaxfuse.models.baselines.pix2pix import Generator, Pix2PixForm, dropped, judged, make_system
from jaxfuse.nn.initializers import he_normal
from tests.refusals import refused
from tests.tiny_systems import KEY, adjustable, agree, counts, in_float32, largest, minus, same, structure, with_rates

MODALITIES = ("t1", "t1ce", "t2", "flair")
PAIRS = ("t2", "t1ce")
PLAYERS = ("generator", "discriminator")
# Two of its maps on the way up are as wide as the widest; features of the second of them are dropped.
TINY = Pix2PixForm(width=2, downs=3, widest=1, critic_width=2, critic_layers=1, kernel_init=he_normal())
BATCH = {"image": jax.random.uniform(KEY, (2, 16, 16, 4))}


def _made(form=TINY, pairs=PAIRS, **options):
    optimizers = {player: adjustable() for player in PLAYERS}
    return make_system(optimizers=optimizers, modalities=MODALITIES, pairs=pairs, form=form, **options)


SYSTEM = _made()
step = jax.jit(SYSTEM.train_step)


@jax.jit
def look(state, batch):
    """Evaluation, prediction, and prediction by batch statistics."""
    by_batch = dataclasses.replace(SYSTEM, batch_stats_at_test=True)
    return SYSTEM.eval_step(state, batch), SYSTEM.predict(state, batch), by_batch.predict(state, batch)


@pytest.fixture(scope="module")
def start():
    return jax.jit(SYSTEM.init)(KEY, BATCH)


@pytest.fixture(scope="module")
def stepped(start):
    return step(start, BATCH)


def test_it_is_a_system_of_two_players():
    assert isinstance(SYSTEM, System)
    assert dataclasses.astuple(SYSTEM.geometry)[:3] == (2, 8, 0)
    assert (SYSTEM.players, SYSTEM.primary, SYSTEM.probabilities) == (PLAYERS, "synthesized", ())
    assert not SYSTEM.accepts_unpaired


@pytest.mark.parametrize(("downs", "generator"), [(7, 41_822_849), (8, 54_407_809)])
def test_weights(tiny, downs, generator):
    system = _made(Pix2PixForm(downs=downs))
    state = jax.eval_shape(system.init, KEY, tiny.shapes(2**downs, 2**downs))
    found = counts(system.networks(state.params))
    assert found == {"generator": generator, "discriminator": 2_764_609}


def test_widths_norms_and_biases_of_the_published_networks(tiny):
    form = Pix2PixForm()
    assert form.widths == (64, 128, 256, 512, 512, 512, 512)
    params = jax.eval_shape(_made(form).init, KEY, tiny.shapes(128, 128)).params
    norms = {name for name in params["generator"] if "norm" in name}
    # Neither the first map nor the one of a single pixel.
    assert norms == {f"down_norm_{i}" for i in range(2, 7)} | {f"up_norm_{i}" for i in range(2, 8)}
    assert [name for name, layer in params["generator"].items() if "kernel" in layer and "bias" in layer] == ["up_1"]
    biased = {name for name, layer in params["discriminator"].items() if "kernel" in layer and "bias" in layer}
    assert biased == {"conv_1", "score"}


@pytest.mark.parametrize(("downs", "drawn"), [(7, 2), (8, 3), (4, 0)])
def test_the_widest_maps_on_the_way_up_are_dropped_but_for_the_deepest(downs, drawn):
    module, image = Generator(Pix2PixForm(width=1, downs=downs)), jnp.zeros((1, 2**downs, 2**downs, 1))
    variables = jax.eval_shape(module.init, KEY, image)
    for key, times in ((KEY, drawn), (None, 0)):
        program = str(jax.make_jaxpr(lambda v, x, key=key: module.apply(v, x, key=key))(variables, image))
        assert program.count("random_bits[") == times


def test_dropping_keeps_the_mean():
    x = jnp.full((64, 64), 3.0)
    y = np.asarray(dropped(x, 0.25, KEY))
    assert set(np.unique(y)) == {0.0, 4.0}
    assert np.mean(y == 0) == pytest.approx(0.25, abs=0.03)
    np.testing.assert_array_equal(dropped(x, 0.0, KEY), x)


@jax.jit
def by_hand(state, critic, critic_stats, batch):
    """A step of this state by hand: terms of both losses, and their gradients for either player.

    `critic` and `critic_stats` are the critic's after its own part of the step.
    """
    source, target = 2 * batch["image"][..., 2:3] - 1, 2 * batch["image"][..., 1:2] - 1
    running, key = state.stats, state.key()
    fake = SYSTEM.make(state.params["generator"], running["generator"], source, key)[0]

    def scores(params, stats, image):
        return SYSTEM.critic.apply(params, stats, jnp.concatenate([source, image], -1), train=True)

    def of_critic(params):
        real, _ = scores(params, running["discriminator"], target)
        seen, _ = scores(params, running["discriminator"], fake)
        return {"real": jnp.log1p(jnp.exp(-real)).mean(), "fake": jnp.log1p(jnp.exp(seen)).mean()}

    def of_generator(params):
        made = SYSTEM.make(params, running["generator"], source, key)[0]
        told, _ = scores(critic, critic_stats, made)
        return {"adversarial": jnp.log1p(jnp.exp(-told)).mean(), "target": jnp.abs(made - target).mean()}

    sides = {"generator": of_generator, "discriminator": of_critic}
    values = {player: terms(state.params[player]) for player, terms in sides.items()}
    return values, {player: jax.jacrev(terms)(state.params[player]) for player, terms in sides.items()}


WEIGHTS = {"generator": {"adversarial": 1.0, "target": 100.0}, "discriminator": {"real": 0.5, "fake": 0.5}}


def test_terms_and_gradients_by_hand(start, stepped):
    """Each player follows its own loss alone; the generator is judged by the critic that has just moved."""
    after, metrics = stepped
    # In training the critic normalizes by the batch, so that its statistics change no score.
    terms, gradients = by_hand(start, after.params["discriminator"], start.stats["discriminator"], BATCH)
    expected = {}
    for player, weights in WEIGHTS.items():
        expected[f"{player}/loss"] = sum(weight * terms[player][name] for name, weight in weights.items())
        expected |= {f"{player}/{name}": value for name, value in terms[player].items()}
        assert all(largest(gradients[player][name]) > 1e-4 for name in weights)
        each = [jax.tree.map(lambda g, w=weights[name]: w * g, gradients[player][name]) for name in weights]
        total = jax.tree.map(jnp.add, *each)
        near = functools.partial(np.testing.assert_allclose, atol=1e-3 * largest(total))
        jax.tree.map(near, minus(start.params[player], after.params[player]), total)
    agree(metrics, expected)
    assert int(after.step) == 1


def test_a_player_held_still_leaves_the_other_its_step(start, stepped):
    after, metrics = stepped
    still, unmoved = step(with_rates(start, generator=0.0, discriminator=1.0), BATCH)
    same(still.params["generator"], start.params["generator"])
    same(still.params["discriminator"], after.params["discriminator"])
    assert unmoved == metrics
    still, unmoved = step(with_rates(start, generator=1.0, discriminator=0.0), BATCH)
    same(still.params["discriminator"], start.params["discriminator"])
    # The critic that did not move judges otherwise.
    assert float(unmoved["generator/adversarial"]) != float(metrics["generator/adversarial"])


def test_statistics_of_the_generator_move_once_and_those_of_the_critic_three_times(start, stepped):
    """From means of zero: a pass leaves a tenth of the batch's mean; fake, real, fake."""
    still, _ = step(with_rates(start, generator=0.0, discriminator=0.0), BATCH)
    source, target = SYSTEM.task.sources_of(BATCH), SYSTEM.task.target_of(BATCH)
    fake, generator_stats = SYSTEM.make(start.params["generator"], start.stats["generator"], source, start.key())
    critic, before = start.params["discriminator"], start.stats["discriminator"]
    seen = (SYSTEM.critic.apply(critic, before, judged(source, image), train=True)[1] for image in (fake, target))
    of_fake, of_real = (stats["norm_2"]["mean"] for stats in seen)
    near = functools.partial(np.testing.assert_allclose, rtol=1e-4, atol=1e-6)
    near(still.stats["discriminator"]["norm_2"]["mean"], 0.9 * (0.9 * of_fake + of_real) + of_fake)
    for state in (still, stepped[0]):
        jax.tree.map(near, state.stats["generator"], generator_stats)
    assert all(np.any(leaf) for leaf in jax.tree.leaves(minus(generator_stats, start.stats["generator"])))


def test_other_steps_drop_other_features(start, stepped):
    later = step(dataclasses.replace(start, step=jnp.int32(1)), BATCH)[1]
    assert abs(float(later["generator/target"] - stepped[1]["generator/target"])) > 1e-4


def test_evaluation_drops_nothing_and_reads_running_statistics(start, stepped):
    evaluated, predicted, _ = look(stepped[0], BATCH)
    assert set(evaluated) == set(stepped[1])
    error = np.abs(np.asarray(predicted["synthesized"]) - BATCH["image"][..., 1:2]).mean()
    # Images in [-1, 1] differ twice as much.
    np.testing.assert_allclose(evaluated["generator/target"], 2 * error, rtol=1e-5)
    halves = 0.5 * (evaluated["discriminator/real"] + evaluated["discriminator/fake"])
    np.testing.assert_allclose(evaluated["discriminator/loss"], halves, rtol=1e-6)
    later = look(dataclasses.replace(stepped[0], step=jnp.int32(9)), BATCH)[0]
    same(later, evaluated)


def test_predictions_read_the_source_alone_and_lie_in_the_range_of_the_data(start):
    predicted = look(start, BATCH)[1]
    assert structure(predicted) == {"synthesized": ((2, 16, 16, 1), jnp.float32)}
    unknown = {"image": BATCH["image"].at[..., np.array([0, 1, 3])].set(jnp.nan)}
    same(look(start, unknown)[1], predicted)
    assert 0.0 <= float(predicted["synthesized"].min()) < 0.5 < float(predicted["synthesized"].max()) <= 1.0


def test_a_slice_is_answered_alike_whatever_its_company_but_by_batch_statistics(start):
    _, running, by_batch = look(start, BATCH)
    other = look(start, {"image": BATCH["image"].at[1].set(0.0)})
    np.testing.assert_allclose(other[1]["synthesized"][0], running["synthesized"][0], atol=1e-5)
    assert float(jnp.abs(other[2]["synthesized"][0] - by_batch["synthesized"][0]).max()) > 1e-2


@pytest.mark.parametrize("level", [0.0, 1.0])
def test_constant_images_give_finite_losses_and_gradients(start, level):
    after, metrics = step(start, {"image": jnp.full_like(BATCH["image"], level)})
    assert all(np.isfinite(leaf).all() for leaf in jax.tree.leaves((metrics, after.params, after.stats)))


def test_bfloat16_keeps_float32_weights_losses_and_images(start):
    system = _made(dataclasses.replace(TINY, dtype="bfloat16"))
    assert "bf16[2,8,8,2]" in in_float32(system, start, BATCH)


def test_refusals():
    refused(r"\('t1\+t2', 'flair'\); it must name one source and one other modality", _made, pairs=("t1+t2", "flair"))
    for options, message in (
        ({"dtype": "half"}, "dtype is 'half'; choose one of float32, bfloat16"),
        ({"downs": 1}, "downs is 1; give at least 2"),
        ({"dropout": 1.0}, "dropout is 1.0; give a rate from 0 to below 1"),
        ({"norm_eps": 0.0}, "norm_eps is 0.0; give a positive number"),
    ):
        refused(message, _made, dataclasses.replace(TINY, **options))
    refused("target_weight is -1; it may not be negative", _made, target_weight=-1)
    odd = {"image": jnp.zeros((1, 8, 12, 4))}
    refused(r"multiples of 8, got shape \(1, 8, 12, 1\)", jax.eval_shape, SYSTEM.init, KEY, odd)
