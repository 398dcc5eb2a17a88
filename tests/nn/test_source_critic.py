"""The critic of sources: sizes, heads, refusals."""

import jax
import jax.numpy as jnp
import pytest

from jaxfuse.nn.initializers import normal
from jaxfuse.nn.source_critic import SourceCritic
from tests.recipe_phases import phases
from tests.refusals import refused
from tests.tiny_systems import abstract, count

KEY = jax.random.key(0, impl="rbg")
# Kernels and biases of 1 -> 32 -> 64 -> 128 channels.
TRUNK = 9 * (32 + 32 * 64 + 64 * 128) + 32 + 64 + 128


@pytest.mark.parametrize(
    ("head", "shape", "scores", "weights"),
    [
        ("patch", (2, 224, 224, 1), (2, 28, 28, 1), 129),
        ("patch", (1, 8, 17, 1), (1, 1, 3, 1), 129),
        ("flatten", (2, 224, 224, 1), (2, 1), 100_352 + 1),
    ],
)
def test_scores_and_weights(head, shape, scores, weights):
    traced, variables = abstract(SourceCritic(head=head), *shape)
    assert traced.shape == scores
    assert count(variables) == TRUNK + weights


@pytest.mark.parametrize("head", ["patch", "flatten"])
def test_logits_are_unbounded_float32_and_differ_between_images(head):
    critic = SourceCritic(base=4, head=head, dtype=jnp.bfloat16)
    image = jax.random.uniform(KEY, (2, 16, 16, 1))
    params = jax.jit(critic.init)(KEY, image)["params"]
    params = {**params, "score": {**params["score"], "bias": jnp.array([5.0])}}
    logits = jax.jit(critic.apply)({"params": params}, image)
    assert logits.dtype == jnp.float32
    assert logits.min() > 1
    assert jnp.abs(logits[0] - logits[1]).max() > 0


def image_gradient(critic):
    """The length of the gradient of a fresh critic's scores with respect to its image."""
    image = jax.random.uniform(KEY, (1, 48, 48, 1))
    variables = jax.jit(critic.init)(KEY, image)
    return float(jnp.linalg.norm(jax.jit(jax.grad(lambda image: critic.apply(variables, image).sum()))(image)))


@pytest.mark.parametrize("preset", ["", "tiny", "paper"])
def test_a_fresh_critic_of_the_recipe_tells_its_maker_where_to_go(preset):
    """Each of four layers draws a third of LeCun's variance: a ninth of that gradient, not a thousandth."""
    ((_, phase), *_) = phases("fuse4seg", preset).items()
    critic = phase.system.critics.network
    found = image_gradient(critic)
    assert 0.05 < found / image_gradient(critic.clone(kernel_init=jax.nn.initializers.lecun_normal())) < 1
    assert found > 20 * image_gradient(critic.clone(kernel_init=normal()))


def test_refusals_say_what_came():
    refused(r"halves its image three times, got \(7, 64\)", abstract, SourceCritic(), 1, 7, 64, 1)
    refused("'mean' is not known; choose one of patch, flatten", abstract, SourceCritic(head="mean"), 1, 64, 64, 1)
