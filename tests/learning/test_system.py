"""Segmentation, the one System that belongs to no paper: of one weight, and of one normalization beside it, by hand."""

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from jaxfuse.learning.networks import Function, LinenNetwork, Network, Stateless
from jaxfuse.learning.system import Geometry, Segmentation, System
from tests.tiny_systems import KEY

DECAY = 0.75


class Scale:
    """Logits (w x, -w x) of the sum x over the channels that it is given."""

    def init(self, rng, image):
        return {"w": jax.random.uniform(rng, (), minval=1.0, maxval=2.0)}

    def __call__(self, params, image):
        x = params["w"] * image.sum(-1)
        return jnp.stack([x, -x], -1)


class Centered(nn.Module):
    """Logits (w z, -w z) of z = image - mean, over the first channel; the mean is that of the batch in training."""

    counted: bool = True

    @nn.compact
    def __call__(self, image, *, train):
        x = image[..., 0]
        weight = self.param("weight", nn.initializers.ones, ())
        if self.counted:
            running = self.variable("batch_stats", "mean", jnp.zeros, ())
            mean = x.mean() if train else running.value
            if train:
                running.value = DECAY * running.value + (1 - DECAY) * mean
            x = x - mean
        return jnp.stack([weight * x, -weight * x], -1)


def _mean_square(logits, label):
    return jnp.mean((logits[..., 0] - label) ** 2)


def _system(network, channels, **changes):
    return Segmentation(network, channels, _mean_square, {"net": optax.sgd(0.25)}, Geometry(2, 1), "S", **changes)


PLAIN = _system(Stateless(Scale()), (0, 2))
PLAIN_BATCH = {"image": jnp.array([[[[1.0, 100.0, 1.0], [0.0, -50.0, 0.0]]]]), "label": jnp.array([[[0, 0]]])}
SYSTEM = _system(LinenNetwork(Centered()), (1,))
# Its channel 1 holds 1 and 3, of mean 2.
BATCH = {"image": jnp.array([[[[9.0, 1.0], [9.0, 3.0]]]]), "label": jnp.array([[[0, 0]]])}


@pytest.mark.parametrize("system", [PLAIN, SYSTEM], ids=["plain", "normalized"])
def test_it_keeps_the_contracts(system):
    assert isinstance(system, System)
    assert isinstance(system.network, Network)
    assert (system.players, system.primary, system.probabilities) == (("net",), "S", ("S",))


def test_a_step_reads_only_its_channels_and_descends():
    assert isinstance(Scale(), Function)
    state = PLAIN.init(KEY, PLAIN_BATCH)
    assert state.stats == {"net": {}}
    weight = float(state.params["net"]["w"])
    loss = (2 * weight) ** 2 / 2  # voxels 2 w and 0
    np.testing.assert_allclose(PLAIN.eval_step(state, PLAIN_BATCH)["net/loss"], loss, rtol=1e-6)
    state, metrics = PLAIN.train_step(state, PLAIN_BATCH)
    np.testing.assert_allclose(metrics["net/loss"], loss, rtol=1e-6)
    # d loss / d w = 4 w, times 0.25.
    np.testing.assert_allclose(state.params["net"]["w"], 0.0, atol=1e-6)
    assert (int(state.step), state.stats) == (1, {"net": {}})


def test_prediction_is_the_softmax_under_its_name():
    state = PLAIN.init(KEY, PLAIN_BATCH)
    outputs = PLAIN.predict(state, {"image": PLAIN_BATCH["image"]})
    assert set(outputs) == {"S"}
    expected = [1 / (1 + np.exp(-4 * float(state.params["net"]["w"]))), 0.5]
    np.testing.assert_allclose(outputs["S"][0, 0, :, 0], expected, rtol=1e-6)
    assert PLAIN.networks(state.params) == {"S": state.params["net"]}


@pytest.fixture
def state():
    return SYSTEM.init(KEY, BATCH)


def test_parameters_and_statistics_lie_apart(state):
    assert (state.params, state.stats) == ({"net": {"weight": 1.0}}, {"net": {"mean": 0.0}})
    assert set(state.opt_state) == {"net"}


def test_a_step_normalizes_by_its_batch_and_moves_the_running_statistics(state):
    after, metrics = SYSTEM.train_step(state, BATCH)
    # Centered by 2: -1 and 1; d loss / d w = 2 w.
    np.testing.assert_allclose(metrics["net/loss"], 1.0, rtol=1e-6)
    np.testing.assert_allclose(after.params["net"]["weight"], 1.0 - 0.25 * 2.0, rtol=1e-6)
    np.testing.assert_allclose(after.stats["net"]["mean"], (1 - DECAY) * 2.0, rtol=1e-6)
    assert int(after.step) == 1
    again, _ = SYSTEM.train_step(after, BATCH)
    np.testing.assert_allclose(again.stats["net"]["mean"], (1 - DECAY**2) * 2.0, rtol=1e-6)


def test_evaluation_reads_the_running_statistics(state):
    # Of mean 0 at first: (1 + 9) / 2; of mean 1: (0 + 4) / 2.
    np.testing.assert_allclose(SYSTEM.eval_step(state, BATCH)["net/loss"], 5.0, rtol=1e-6)
    moved = state.replace(stats={"net": {"mean": jnp.float32(1.0)}})
    np.testing.assert_allclose(SYSTEM.eval_step(moved, BATCH)["net/loss"], 2.0, rtol=1e-6)


def test_a_prediction_depends_on_no_other_patch_and_on_the_running_statistics_alone(state):
    weights = state.replace(stats={"net": {"mean": jnp.float32(1.0)}}, opt_state={})
    probs = SYSTEM.predict(weights, BATCH)["S"]
    # z is 0 and 2, logits (0, 0) and (2, -2).
    np.testing.assert_allclose(probs[0, 0, :, 0], [0.5, 1 / (1 + np.exp(-4.0))], rtol=1e-6)
    others = jnp.concatenate([BATCH["image"], 100 + BATCH["image"]])
    np.testing.assert_array_equal(SYSTEM.predict(weights, {"image": others})["S"][:1], probs)


def test_named_networks_hold_parameters_and_no_statistics(state):
    assert SYSTEM.networks(state.params) == {"S": {"weight": 1.0}}
    parts = _system(LinenNetwork(Centered()), (1,), parts=("weight",))
    assert parts.networks(state.params) == {"weight": 1.0}


def test_a_module_that_keeps_no_statistics_has_empty_ones():
    system = _system(LinenNetwork(Centered(counted=False)), (1,))
    state, metrics = system.train_step(system.init(KEY, BATCH), BATCH)
    np.testing.assert_allclose(metrics["net/loss"], 5.0, rtol=1e-6)
    assert state.stats == {"net": {}}
