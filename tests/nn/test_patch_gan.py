"""The critic of pix2pix and CycleGAN: what a score sees, how many there are, biases, refusals."""

from unittest.mock import Mock, call

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jaxfuse.nn.patch_gan import PatchGan
from tests.refusals import refused
from tests.tiny_systems import abstract, count

KEY = jax.random.key(0, impl="rbg")


def _unchanged(name, train):
    return lambda x: x


@pytest.mark.parametrize(("use_bias", "channels", "total"), [(True, 1, 2_762_689), (False, 2, 2_762_817)])
def test_weights(use_bias, channels, total):
    params = abstract(PatchGan(_unchanged, use_bias), 1, 128, 128, channels)[1]["params"]
    assert count(params) == total
    biased = [name for name, layer in params.items() if "bias" in layer]
    assert biased == (list(params) if use_bias else ["conv_1", "score"])


@pytest.mark.parametrize(
    ("layers", "shape", "scores"),
    [(3, (2, 256, 128, 1), (2, 30, 14, 1)), (3, (1, 24, 31, 2), (1, 1, 1, 1)), (1, (1, 6, 8, 1), (1, 1, 2, 1))],
)
def test_scores(layers, shape, scores):
    traced, _ = abstract(PatchGan(_unchanged, True, 2, layers, dtype=jnp.bfloat16), *shape)
    assert (traced.shape, traced.dtype) == (scores, jnp.float32)
    said = r"halves its image 3 times needs sides of at least 24 pixels, got \(24, 23\)"
    refused(said, abstract, PatchGan(_unchanged, True), 1, 24, 23, 1)


def test_a_score_sees_a_square_of_70_pixels_and_is_unbounded():
    critic = PatchGan(_unchanged, True, 1, kernel_init=jax.nn.initializers.lecun_normal())
    image = jax.random.normal(KEY, (1, 128, 128, 1))
    params = jax.jit(critic.init)(KEY, image)["params"]
    params = {**params, "score": {**params["score"], "bias": jnp.array([5.0])}}
    score = jax.jit(jax.value_and_grad(lambda image: critic.apply({"params": params}, image)[0, 7, 7, 0]))
    value, seen = score(image)
    rows, columns = np.nonzero(np.asarray(seen)[0, :, :, 0])
    assert (np.ptp(rows) + 1, np.ptp(columns) + 1) == (70, 70)
    assert value > 1


def test_all_but_the_first_layer_and_the_scores_are_normalized():
    norm = Mock(side_effect=_unchanged)
    critic = PatchGan(norm, True, 2)
    jax.eval_shape(lambda x: critic.init_with_output(KEY, x, train=True), jnp.zeros((1, 24, 24, 1)))
    assert norm.mock_calls == [call(f"norm_{layer}", True) for layer in (2, 3, 4)]
