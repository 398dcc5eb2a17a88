"""Segmentation with running statistics: a network of one normalization and one weight per class, by hand."""

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from jaxfuse.learning.normalized import LinenNormalized, NormalizedNetwork, NormalizedSegmentation
from jaxfuse.learning.system import Geometry, System

DECAY = 0.75


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


def _system(module=Centered(), **changes):  # noqa: B008
    optimizers = {"net": optax.sgd(0.25)}
    return NormalizedSegmentation(
        LinenNormalized(module), (1,), _mean_square, optimizers, Geometry(2, 1), "S", **changes
    )


SYSTEM = _system()
# Its channel 1 holds 1 and 3, of mean 2.
BATCH = {"image": jnp.array([[[[9.0, 1.0], [9.0, 3.0]]]]), "label": jnp.array([[[0, 0]]])}


@pytest.fixture
def state():
    return SYSTEM.init(jax.random.key(0), BATCH)


def test_it_keeps_the_contracts():
    assert isinstance(SYSTEM, System)
    assert isinstance(SYSTEM.network, NormalizedNetwork)
    assert SYSTEM.players == ("net",)
    assert SYSTEM.primary == "S"
    assert SYSTEM.probabilities == ("S",)


def test_parameters_and_statistics_lie_apart(state):
    assert state.params == {"net": {"weight": 1.0}}
    assert state.stats == {"net": {"mean": 0.0}}
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
    assert _system(parts=("weight",)).networks(state.params) == {"weight": 1.0}


def test_a_network_that_keeps_no_statistics_has_empty_ones():
    system = _system(Centered(counted=False))
    state, metrics = system.train_step(system.init(jax.random.key(0), BATCH), BATCH)
    np.testing.assert_allclose(metrics["net/loss"], 5.0, rtol=1e-6)
    assert state.stats == {"net": {}}
