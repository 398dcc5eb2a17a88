"""A U-Net with heads on coarser levels: what training sees of it, and what prediction does."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jaxfuse.losses.deep_supervision import supervised
from jaxfuse.nn.headed_unet import Network, Supervised
from jaxfuse.nn.unet import Head, UNet
from tests.tiny_systems import largest

KEY = jax.random.key(0, impl="rbg")
NETWORK = Network(UNet(base=2, levels=4), Head(3))
IMAGE = jax.random.normal(jax.random.key(1), (2, 16, 8, 2))


DEEP = Supervised(NETWORK, 2)
seen = jax.jit(lambda params, image: DEEP.apply(params, {}, image, train=True)[0])


@pytest.fixture(scope="module")
def params():
    drawn, stats = DEEP.init(KEY, IMAGE)
    assert stats == {}
    return drawn


def test_training_sees_coarser_levels_and_prediction_the_finest_alone(params):
    plain = jax.eval_shape(NETWORK.init, KEY, IMAGE)
    assert jax.tree.structure({key: params[key] for key in ("trunk", "head")}) == jax.tree.structure(plain)
    assert {name: head["conv"]["kernel"].shape for name, head in params["coarser"].items()} == {
        "level_2": (1, 1, 4, 3),
        "level_3": (1, 1, 8, 3),
    }
    levels = seen(params, IMAGE)
    assert [one.shape for one in levels] == [(2, 16, 8, 3), (2, 8, 4, 3), (2, 4, 2, 3)]
    shown = jax.jit(lambda params, image: DEEP.apply(params, {}, image, train=False)[0])(params, IMAGE)
    np.testing.assert_allclose(shown, levels[0], atol=1e-6)


def test_each_level_moves_its_own_head_and_what_lies_below_it(params):
    label = jnp.zeros((2, 16, 8), jnp.int32)

    def objective(params, counted):
        terms = iter(range(3))  # they come from fine to coarse
        logits, _ = DEEP.apply(params, {}, IMAGE, train=True)
        return supervised(lambda one, label: jnp.square(one).mean() * counted[next(terms)])(logits, label)

    slopes_of = jax.jit(jax.grad(objective))

    def moved(level):
        slopes = slopes_of(params, jnp.eye(3)[level])
        heads = {"finest": slopes["head"], **slopes["coarser"]}
        return {name for name, one in heads.items() if largest(one) > 0}, largest(slopes["trunk"]["decoder_1"]) > 0

    assert [moved(level) for level in range(3)] == [({"finest"}, True), ({"level_2"}, False), ({"level_3"}, False)]
