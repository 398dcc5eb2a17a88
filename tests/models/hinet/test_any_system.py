"""How Hi-Net from any sources to any target learns: every term by hand, what it moves, and what nothing may know.

Networks of a few weights stand for the paper's; the steps of those are traced in `tests/test_systems.py`.
"""

import dataclasses

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jaxfuse.learning.networks import LinenNetwork
from jaxfuse.learning.system import Geometry, System
from jaxfuse.losses.adversarial import gan_form
from jaxfuse.models.hinet.any_network import Answer
from jaxfuse.models.hinet.any_system import AnySynthesis
from jaxfuse.models.hinet.any_task import any_task_of
from tests.tiny_systems import KEY, adjustable, agree, largest, minus, same, with_rates

MODALITIES = ("t1", "t1ce", "t2", "flair")
ALL = "+".join(MODALITIES)
PLAYERS = ("generator", "discriminator")


class Maker(nn.Module):
    """A weight for each source, a level for each target, and a weight to give each source back."""

    @nn.compact
    def __call__(self, question, *, train=False):
        image, _, asked = question
        values = {name: self.param(name, nn.initializers.normal(1.0), (1, 4)) for name in ("source", "target", "back")}

        def made(ask):
            weighed = jnp.where(ask.sources[:, None, None], image * values["source"][None, None], 0.0)
            level = jnp.where(ask.target, values["target"], 0.0).sum(-1)
            return jnp.tanh(weighed.sum(-1, keepdims=True) + level[:, None, None, None])

        return Answer(tuple(map(made, asked)), image * values["back"][None, None])


class Scorer(nn.Module):
    """A weight of the image, and one of each target."""

    @nn.compact
    def __call__(self, judged, *, train=False):
        image, target, _ = judged
        gain = self.param("gain", nn.initializers.normal(1.0), ())
        told = jnp.where(target, self.param("told", nn.initializers.normal(1.0), (1, 4)), 0.0).sum(-1)
        return gain * image.sum(-1, keepdims=True) + told[:, None, None, None]


def _system(**changes):
    options = {
        "generator": LinenNetwork(Maker()),
        "critic": LinenNetwork(Scorer()),
        "task": any_task_of((ALL, ALL), MODALITIES),
        "game": gan_form("lsgan"),
        "target_weight": 100.0,
        "reconstruction_weight": 20.0,
        "conditional": False,
        "batch_stats_at_test": False,
        "optimizers": {player: adjustable() for player in PLAYERS},
        "geometry": Geometry(2, 8),
    }
    return AnySynthesis(**options | changes)


SYSTEM = _system()
PRESENCE = jnp.array([[True] * 4, [True, True, False, True], [False, True, True, False], [False, False, True, False]])
BATCH = {"image": jax.random.uniform(KEY, (4, 8, 8, 4)), "presence": PRESENCE}
step = jax.jit(SYSTEM.train_step)


@pytest.fixture(scope="module")
def state():
    return with_rates(jax.jit(SYSTEM.init)(KEY, BATCH), generator=1e-3, discriminator=1e-3)


@pytest.fixture(scope="module")
def ask(state):
    """The sources and the target of each example in the first step."""
    return jax.tree.map(np.asarray, SYSTEM.task.draw(state.key(), SYSTEM.task.own(BATCH)))


def test_it_is_a_system_that_reads_presence():
    assert isinstance(SYSTEM, System)
    assert (SYSTEM.players, SYSTEM.primary, SYSTEM.reads_presence) == (PLAYERS, "completed", True)


def test_terms_of_a_step_by_hand(state, ask):
    _, metrics = step(state, BATCH)
    image = np.where(np.asarray(PRESENCE)[:, None, None], 2 * np.asarray(BATCH["image"]) - 1, -1)
    maker, critic = (jax.tree.map(np.asarray, state.params[player]) for player in PLAYERS)
    errors, adversarial, real, fake = [], [], [], []
    back = {name: [] for name in MODALITIES}
    for one, sources, target in zip(image, *ask, strict=True):
        for place, name in enumerate(MODALITIES):
            given = np.abs(one[..., place] * maker["back"][0, place] - one[..., place]).mean()
            back[name].append(given if sources[place] else 0.0)
        if not target.any():
            continue
        made = np.tanh(one[..., sources] @ maker["source"][0, sources] + maker["target"][0, target])
        truth = one[..., target][..., 0]
        told = critic["told"][0, target]
        errors.append(np.abs(made - truth).mean())
        adversarial.append(np.square(critic["gain"] * made + told - 1).mean())
        real.append(np.square(critic["gain"] * truth + told - 1).mean())
        fake.append(np.square(critic["gain"] * made + told).mean())
    assert len(errors) == 3, "the last example has one modality, of which nothing can be made"
    expected = {"generator/target": np.mean(errors), "generator/adversarial": np.mean(adversarial)}
    expected |= {f"generator/reconstruction_{name}": np.mean(values) for name, values in back.items()}
    weighed = 20 * sum(np.mean(values) for values in back.values())
    expected["generator/loss"] = expected["generator/adversarial"] + 100 * expected["generator/target"] + weighed
    expected |= {"discriminator/real": np.mean(real), "discriminator/fake": np.mean(fake)}
    expected["discriminator/loss"] = 0.5 * (np.mean(real) + np.mean(fake))
    agree(metrics, expected)


def test_each_term_moves_the_weights_that_it_should_and_no_others(state, ask):
    def metrics(params):
        return SYSTEM.train_step(dataclasses.replace(state, params=params), BATCH)[1]

    gradients = jax.jit(jax.jacrev(metrics))(state.params)
    moved = {
        term: {name for player in PLAYERS for name, leaf in by_player[player].items() if largest(leaf) > 0}
        for term, by_player in gradients.items()
    }
    assert moved["generator/target"] == {"source", "target"}
    assert moved["generator/adversarial"] == {"source", "target", "gain", "told"}
    assert moved["discriminator/real"] == moved["discriminator/fake"] == {"gain", "told"}
    for place, name in enumerate(MODALITIES):
        shown = ask[0][:, place].any()
        assert moved[f"generator/reconstruction_{name}"] == ({"back"} if shown else set())
        column = np.asarray(gradients["generator/loss"]["generator"]["back"])[0, place]
        assert (column != 0) == shown
    heard = np.asarray(gradients["generator/target"]["generator"]["target"])[0] != 0
    np.testing.assert_array_equal(heard, ask[1].any(0))


def test_what_an_example_lacks_is_of_no_account(state):
    other = jnp.where(PRESENCE[:, None, None], BATCH["image"], jnp.nan)
    same(step(state, BATCH | {"image": other})[1], step(state, BATCH)[1])
    predict = jax.jit(SYSTEM.predict)
    same(predict(state, BATCH | {"image": other}), predict(state, BATCH))


def test_an_answer_does_not_know_its_own_truth(state):
    """Each modality is made of the others alone, whatever stands in its own channel."""
    predict, image = jax.jit(SYSTEM.predict), BATCH["image"]
    answer = predict(state, {"image": image})
    for place, name in enumerate(MODALITIES):
        other = predict(state, {"image": image.at[..., place].set(0.123)})
        np.testing.assert_array_equal(other[f"synthesized_{name}"], answer[f"synthesized_{name}"])
        np.testing.assert_array_equal(answer["completed"][..., place : place + 1], answer[f"synthesized_{name}"])
        changed = [one for one in MODALITIES if np.any(other[f"synthesized_{one}"] != answer[f"synthesized_{one}"])]
        assert changed == [one for one in MODALITIES if one != name]


def test_another_step_draws_others_and_the_same_step_the_same(state):
    _, first = step(state, BATCH)
    same(step(state, BATCH)[1], first)
    later = [step(state.replace(step=jnp.int32(number)), BATCH)[1]["generator/target"] for number in range(1, 5)]
    assert len({float(value) for value in (*later, first["generator/target"])}) > 2


def test_an_evaluation_is_of_the_tasks_of_its_step(state):
    _, metrics = step(state, BATCH)
    agree(jax.jit(SYSTEM.eval_step)(state, BATCH), metrics, 1e-5)


def test_a_batch_of_which_nothing_can_be_made_moves_autoencoders_alone(state):
    one = BATCH | {"presence": jnp.broadcast_to(PRESENCE[-1:], (4, 4))}
    after, metrics = step(state, one)
    assert not largest(minus(after.params["discriminator"], state.params["discriminator"]))
    moved = minus(after.params["generator"], state.params["generator"])
    assert {name for name, leaf in moved.items() if largest(leaf)} == {"back"}
    assert float(metrics["generator/target"]) == float(metrics["discriminator/loss"]) == 0.0


def test_a_conditional_critic_sees_the_sources_of_each_example(state):
    conditional = _system(conditional=True)
    drawn = conditional._drawn(state.key(), BATCH)
    seen = conditional.judged(drawn, drawn.target).image
    assert seen.shape == (4, 8, 8, 5)
    hidden = np.where(np.asarray(drawn.ask.sources)[:, None, None], np.asarray(drawn.sources), -1)
    np.testing.assert_array_equal(seen[..., 1:], hidden)
