import jax
import jax.numpy as jnp
import pytest

from jaxfuse.nn.patch_critic import PatchCritic
from tests.refusals import refused
from tests.tiny_systems import abstract, count

KEY = jax.random.key(0, impl="rbg")


@pytest.mark.parametrize(("channels", "total"), [(2, 698_385), (1, 697_361)])
def test_table_1(channels, total):
    scores, variables = abstract(PatchCritic(), 1, 128, 128, 128, channels)
    params = variables["params"]
    assert (scores.shape, count(params)) == ((1, 7, 7, 7, 1), total)
    assert list(params) == ["down_1", "down_2", "down_3", "down_4", "score"]
    assert [name for name, layer in params.items() if "bias" in layer] == ["down_1", "score"]


@pytest.mark.parametrize(
    ("critic", "shape", "scores"),
    [
        (PatchCritic(), (2, 32, 48, 64, 2), (2, 1, 2, 3, 1)),
        (PatchCritic(base=4, layers=3), (1, 16, 16, 16, 1), (1, 1, 1, 1, 1)),
        (PatchCritic(), (3, 64, 35, 1), (3, 3, 1, 1)),
    ],
)
def test_scores_are_a_sixteenth_less_one(critic, shape, scores):
    assert abstract(critic, *shape)[0].shape == scores
    refused(r"at least 32 voxels, got \(64, 31, 64\)", abstract, PatchCritic(), 1, 64, 31, 64, 2)


def test_scores_are_unbounded_and_depend_on_the_image():
    image = jax.random.normal(KEY, (2, 8, 8, 1))
    critic = PatchCritic(base=4, layers=2)
    params = jax.jit(critic.init)(KEY, image)["params"]
    params = {**params, "score": {**params["score"], "bias": jnp.array([5.0])}}
    scores = jax.jit(critic.apply)({"params": params}, image)
    assert scores.min() > 1
    assert jnp.abs(scores[0] - scores[1]).max() > 0


@pytest.mark.parametrize(("layers", "side"), [(2, 24), (4, 64)])
def test_its_norms_make_up_for_small_first_weights(layers, side):
    """Unlike a critic without norms (`jaxfuse.nn.source_critic`), it tells its maker at once where to go."""
    image = jax.random.normal(KEY, (1, side, side, 2))

    def slope(critic):
        variables = jax.jit(critic.init)(KEY, image)
        return float(jnp.linalg.norm(jax.jit(jax.grad(lambda x: critic.apply(variables, x).mean()))(image)))

    critic = PatchCritic(base=8, layers=layers)
    assert slope(critic) > 0.1 * slope(critic.clone(kernel_init=jax.nn.initializers.lecun_normal()))
