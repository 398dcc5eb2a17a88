"""Segmentation by several terms: what is minimized, when numbers are drawn, and what the network is shown."""

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jaxfuse.learning.several_terms import SegmentationByTerms
from jaxfuse.learning.system import Geometry
from tests.tiny_systems import KEY, gradient_descent, moved, same

WEIGHTS = {"first": 1.0, "second": 0.25}


class Linear(nn.Module):
    """Logits of two classes from a scaled image and its presence; in training both, with noise where it may draw."""

    @nn.compact
    def __call__(self, shown, *, train):
        scale = self.param("scale", nn.initializers.constant(2.0), (2,))
        shift = self.param("shift", nn.initializers.zeros_init(), (2,))
        logits = scale * shown.image + shift * shown.presence[:, None, None]
        if not train:
            return logits
        noise = jax.random.normal(self.make_rng("noise"), logits.shape) if self.has_rng("noise") else 0.0
        return logits, noise


def terms(made, shown, label):
    logits, noise = made
    return {"first": ((logits + noise) * label[..., None]).mean(), "second": (logits**2).mean()}


@pytest.fixture(scope="module")
def started():
    """The system, its first state, and a batch of which one example lacks its second modality."""
    options = {"channels": (2, 0), "optimizers": gradient_descent("net"), "geometry": Geometry(2, 1)}
    system = SegmentationByTerms(Linear(), "noise", terms, WEIGHTS, name="told", parts=("scale", "shift"), **options)
    rng = np.random.default_rng(0)
    batch = {
        "image": jnp.asarray(rng.normal(size=(2, 3, 3, 3)), jnp.float32),
        "label": jnp.asarray(rng.integers(0, 2, (2, 3, 3)), jnp.int32),
        "presence": jnp.asarray([[True, False, True], [False, True, True]]),
    }
    return system, system.init(KEY, batch), batch


def _expected(batch, noise):
    """The terms at the first weights, by their definitions, for the channels 2 and 0."""
    image = np.asarray(batch["image"]) * np.asarray(batch["presence"])[:, None, None]
    logits = 2 * image[..., [2, 0]]
    return ((logits + noise) * np.asarray(batch["label"])[..., None]).mean(), (logits**2).mean()


def test_an_evaluation_weighs_the_terms_and_draws_nothing(started):
    system, state, batch = started
    metrics = system.eval_step(state, batch)
    first, second = _expected(batch, 0.0)
    expected = {"net/first": first, "net/second": second, "net/loss": first + 0.25 * second}
    assert set(metrics) == set(expected)
    for name, value in expected.items():
        np.testing.assert_allclose(metrics[name], value, rtol=1e-5)


def test_a_step_draws_by_its_number_and_moves_by_the_gradient_of_the_whole_loss(started):
    system, state, batch = started
    step = jax.jit(system.train_step)
    after, metrics = step(state, batch)
    same(step(state, batch)[1], metrics)
    assert float(step(after.replace(params=state.params), batch)[1]["net/first"]) != float(metrics["net/first"])
    np.testing.assert_allclose(metrics["net/loss"], metrics["net/first"] + 0.25 * metrics["net/second"], rtol=1e-5)
    # Noise moves no weights.
    image = np.asarray(batch["image"] * batch["presence"][:, None, None])[..., [2, 0]]
    slope = (np.asarray(batch["label"])[..., None] * image / 36 + 0.25 * 2 * 2 * image**2 / 36).sum((0, 1, 2))
    np.testing.assert_allclose(moved(state, after, "net")["scale"], slope, rtol=1e-4)
    assert int(after.step) == 1


def test_it_predicts_probabilities_of_what_is_shown(started):
    system, state, batch = started
    garbled = {**batch, "image": jnp.where(batch["presence"][:, None, None], batch["image"], jnp.nan)}
    found = system.predict(state, garbled)
    image = np.asarray(batch["image"] * batch["presence"][:, None, None])[..., [2, 0]]
    np.testing.assert_allclose(found["told"], jax.nn.softmax(2 * image), rtol=1e-5)
    assert (system.primary, system.probabilities, system.reads_presence) == ("told", ("told",), True)
    assert set(system.networks(state.params)) == {"scale", "shift"}
