"""DDcGAN: published counts, content by hand, cross-entropy of both critics, and what each term moves."""

import jax
import numpy as np
import pytest

from jaxfuse.losses.image import neighbor_difference
from jaxfuse.models.baselines.ddcgan import DDcGanForm, DDcGanWeights, content_loss, make_system
from tests.models.baselines.two_images import BATCH, made, near, reached, shapes, started
from tests.refusals import refused
from tests.tiny_systems import KEY, counts, largest, moved

PLAYERS = ("fusion", "critics")
TINY = DDcGanForm(growth=2, layers=1, narrowing=(2,), critic_widths=(2, 2))
SYSTEM = made(make_system, players=PLAYERS, ddcgan=TINY)
TERMS = ("intensity", "gradient", "adversarial_first", "adversarial_second")


@pytest.fixture(scope="module")
def start():
    return started(SYSTEM)


def test_weights_of_the_published_size():
    """1,096,257 of the generator are convolutions; 7,745 of each critic its head, for pictures of 84 x 84 pixels."""
    state = shapes(made(make_system, players=PLAYERS), 84)
    norms = 2 * (5 * 48 + 240 + 128 + 64 + 32)
    critic = 160 + 4_640 + 18_496 + 2 * (32 + 64) + 11 * 11 * 64 + 1
    expected = {"G": 1_096_257 + norms, "D_first": critic, "D_second": critic}
    assert counts(SYSTEM.networks(state.params)) == expected
    assert (expected["G"], critic) == (1_097_665, 31_233)


def test_content_by_hand():
    fused, sources = jax.random.uniform(KEY, (2, 5, 6, 1)), BATCH["image"][:, :5, :6]
    loss, terms = jax.jit(content_loss)(fused, sources)
    intensity = np.square(np.asarray(fused) - sources[..., 1:]).mean()
    gradient = np.abs(np.asarray(neighbor_difference(fused)) - neighbor_difference(sources[..., :1])).mean()
    near([terms["intensity"], terms["gradient"]], [intensity, gradient])
    # Sums over a picture of 84 x 84 pixels, the first of them divided by 16.
    assert float(loss) == pytest.approx(0.6 * (84**2 / 16 * intensity + 1.2 * 84**2 * gradient), rel=1e-5)


def test_each_term_moves_what_it_should(start):
    content = {term: {"G"} for term in ("intensity", "gradient")}
    against = {f"adversarial_{side}": {"G", f"D_{side}"} for side in ("first", "second")}
    assert reached(SYSTEM, start, BATCH, TERMS) == {**content, **against}


@pytest.mark.slow
def test_a_step_is_cross_entropy_of_each_critic_on_its_own_source(start):
    after, metrics = jax.jit(SYSTEM.train_step)(start, BATCH)
    scores = jax.jit(SYSTEM.critics.scores)
    for slot, side in enumerate(("first", "second")):
        logits = scores(start.params["critics"][side], BATCH["image"][..., slot : slot + 1])
        likely = 0.5 + 0.5 * np.tanh(np.asarray(logits) / 2)
        assert float(metrics[f"critics/real_{side}"]) == pytest.approx(-np.log(likely).mean(), rel=1e-4)
        assert largest(moved(start, after, "critics")[side]) > 0
    # A critic normalizes by what it sees at once.
    weights, image = start.params["critics"]["first"], BATCH["image"][..., :1]
    assert float(np.abs(scores(weights, image)[0] - scores(weights, image[:1])[0]).max()) > 1e-4
    parts = [float(metrics[f"critics/{kind}_{side}"]) for kind in ("real", "fake") for side in ("first", "second")]
    assert float(metrics["critics/loss"]) == pytest.approx(sum(parts), rel=1e-5)
    content = 0.6 * (441 * metrics["fusion/intensity"] + 1.2 * 7056 * metrics["fusion/gradient"])
    total = content + metrics["fusion/adversarial_first"] + metrics["fusion/adversarial_second"]
    assert float(metrics["fusion/loss"]) == pytest.approx(float(total), rel=1e-5)
    assert set(after.stats["fusion"]) == {"encoder", "decoder"}


def test_refusals():
    refused("critic_widths is empty", made, make_system, ddcgan=DDcGanForm(critic_widths=()))
    refused("dtype is 'half'; choose one of float32, bfloat16", made, make_system, ddcgan=DDcGanForm(dtype="half"))
    refused("content_weight is -1.0; it must not", made, make_system, weights=DDcGanWeights(content_weight=-1.0))
