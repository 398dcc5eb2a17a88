"""Segmentation, the one System that belongs to no paper, with a network of one weight."""

import jax
import jax.numpy as jnp
import numpy as np
import optax

from jaxfuse.learning.system import Geometry, Network, Segmentation, System


class Scale:
    """Logits (w x, -w x) of the sum x over the channels that it is given."""

    def init(self, rng, image):
        return {"w": jax.random.uniform(rng, (), minval=1.0, maxval=2.0)}

    def __call__(self, params, image):
        x = params["w"] * image.sum(-1)
        return jnp.stack([x, -x], -1)


def _mean_square(logits, label):
    return jnp.mean((logits[..., 0] - label) ** 2)


SYSTEM = Segmentation(Scale(), (0, 2), _mean_square, {"net": optax.sgd(0.25)}, Geometry(2, 1), "S")
BATCH = {"image": jnp.array([[[[1.0, 100.0, 1.0], [0.0, -50.0, 0.0]]]]), "label": jnp.array([[[0, 0]]])}


def test_it_keeps_the_contracts():
    assert isinstance(SYSTEM, System)
    assert isinstance(SYSTEM.network, Network)
    assert SYSTEM.players == ("net",)
    assert SYSTEM.primary == "S"
    assert SYSTEM.probabilities == ("S",)


def test_a_step_reads_only_its_channels_and_descends():
    state = SYSTEM.init(jax.random.key(0), BATCH)
    weight = float(state.params["net"]["w"])
    loss = (2 * weight) ** 2 / 2  # voxels 2 w and 0
    np.testing.assert_allclose(SYSTEM.eval_step(state, BATCH)["net/loss"], loss, rtol=1e-6)
    state, metrics = SYSTEM.train_step(state, BATCH)
    np.testing.assert_allclose(metrics["net/loss"], loss, rtol=1e-6)
    # d loss / d w = 4 w, times 0.25.
    np.testing.assert_allclose(state.params["net"]["w"], 0.0, atol=1e-6)
    assert int(state.step) == 1


def test_prediction_is_the_softmax_under_its_name():
    state = SYSTEM.init(jax.random.key(0), BATCH)
    weight = float(state.params["net"]["w"])
    outputs = SYSTEM.predict(state, {"image": BATCH["image"]})
    assert set(outputs) == {"S"}
    np.testing.assert_allclose(outputs["S"][0, 0, :, 0], [1 / (1 + np.exp(-4 * weight)), 0.5], rtol=1e-6)
    assert SYSTEM.networks(state.params) == {"S": state.params["net"]}
