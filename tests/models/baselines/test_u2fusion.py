"""U2Fusion: the published count, weights of the sources, terms by hand, the order of sources."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jaxfuse.learning.combinations import Choice
from jaxfuse.learning.fusing import Seen
from jaxfuse.losses.image import ssim
from jaxfuse.models.baselines import u2fusion
from jaxfuse.models.baselines.u2fusion import KeepingForm, U2FusionForm, keeping_loss, make_system, preservation
from tests.models.baselines.two_images import BATCH, made, near, plainly_alike, reached, shapes, started
from tests.refusals import refused
from tests.tiny_systems import KEY, counts

SYSTEM = made(make_system, u2fusion=U2FusionForm(growth=2, layers=1, narrowing=(2,)))
IMAGE = BATCH["image"]


@pytest.fixture(scope="module")
def start():
    return started(SYSTEM)


def test_weights_of_the_published_size():
    state = shapes(made(make_system), 64)
    assert counts(SYSTEM.networks(state.params)) == {"encoder": 262_416, "decoder": 396_801}


def test_the_source_with_the_stronger_gradients_is_kept_more():
    weigh = jax.jit(preservation, static_argnames="constant")
    spot = jnp.zeros((1, 5, 5, 2)).at[0, 2, 2].set(jnp.array([0.8, 0.4]))
    # A spot of 1 differs by 1 from its neighbors, and each of these by 1/8 from it.
    measures = np.array([0.8, 0.4]) ** 2 * (1 + 8 / 64) / 25
    first = 1 / (1 + np.exp((measures[1] - measures[0]) / 0.01))
    near(weigh(spot, constant=0.01)[0], [first, 1 - first])
    near(weigh(spot[..., ::-1], constant=0.01)[0], [1 - first, first])
    near(weigh(spot, constant=1e6), 0.5)


def test_terms_by_hand():
    fused, form = jax.random.uniform(KEY, (2, 16, 16, 1)), KeepingForm(constant=0.1, error_weight=3.0)
    loss, terms = jax.jit(keeping_loss, static_argnums=2)(fused, IMAGE, form)
    weights = np.asarray(preservation(IMAGE, 0.1))
    alike = np.stack([ssim(fused, IMAGE[..., slot : slot + 1])[:, 0] for slot in range(2)], -1)
    errors = np.square(np.asarray(fused) - IMAGE).mean((1, 2))
    expected = (weights * (1 - alike)).sum(-1).mean(), (weights * errors).sum(-1).mean()
    near([terms["likeness"], terms["error"]], expected)
    assert float(loss) == pytest.approx(expected[0] + 3 * expected[1], rel=1e-5)


def test_each_term_moves_the_whole_network(start, monkeypatch):
    monkeypatch.setattr(u2fusion, "ssim", plainly_alike)
    terms = ("likeness", "error")
    assert reached(SYSTEM, start, BATCH, terms) == {term: {"encoder", "decoder"} for term in terms}


def test_training_draws_which_source_comes_first_and_prediction_does_not(start):
    def seen(sources, key):
        return Seen(sources, jnp.ones((2, 2)), Choice(jnp.arange(2), jnp.ones(2)), key, key is not None)

    make = jax.jit(lambda sources, key: SYSTEM.lesson.make(start.params["fusion"], seen(sources, key)).values)
    keys = [jax.random.key(seed) for seed in range(6)]
    forward, backward = (SYSTEM.fuse(start, {"image": one})["fused"] for one in (IMAGE, IMAGE[..., ::-1]))
    assert float(jnp.abs(forward - backward).max()) > 1e-3
    found = [make(IMAGE, key) for key in keys]
    turned = [float(jnp.abs(one - backward).max()) < 1e-6 for one in found]
    assert set(turned) == {True, False}
    for one, back in zip(found, turned, strict=True):
        near(one, backward if back else forward, 1e-6)


def test_refusals():
    refused("growth is 0; give at least 1", made, make_system, u2fusion=U2FusionForm(growth=0))
    refused("constant is 0.0; the measures are divided by it", made, make_system, keeping=KeepingForm(constant=0.0))
    refused("error_weight is -1.0; it must not be negative", made, make_system, keeping=KeepingForm(error_weight=-1.0))
