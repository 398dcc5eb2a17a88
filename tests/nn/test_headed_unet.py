"""A U-Net with heads on coarser levels: what training sees of it, and what prediction does."""

import jax
import jax.numpy as jnp
import numpy as np

from jaxfuse.losses.deep_supervision import supervised
from jaxfuse.nn.headed_unet import Network, Supervised
from jaxfuse.nn.unet import Head, UNet
from tests.tiny_systems import largest

KEY = jax.random.key(0, impl="rbg")
NETWORK = Network(UNet(base=2, levels=4), Head(3))
IMAGE = jax.random.normal(jax.random.key(1), (2, 16, 8, 2))


def test_training_sees_coarser_levels_and_prediction_the_finest_alone():
    deep = Supervised(NETWORK, 2)
    params, stats = deep.init(KEY, IMAGE)
    plain = jax.eval_shape(NETWORK.init, KEY, IMAGE)
    assert stats == {}
    assert jax.tree.structure({key: params[key] for key in ("trunk", "head")}) == jax.tree.structure(plain)
    assert {name: head["conv"]["kernel"].shape for name, head in params["coarser"].items()} == {
        "level_2": (1, 1, 4, 3),
        "level_3": (1, 1, 8, 3),
    }
    seen, _ = deep.apply(params, {}, IMAGE, train=True)
    assert [one.shape for one in seen] == [(2, 16, 8, 3), (2, 8, 4, 3), (2, 4, 2, 3)]
    shown, _ = deep.apply(params, {}, IMAGE, train=False)
    np.testing.assert_allclose(shown, seen[0], atol=1e-6)


def test_each_level_moves_its_own_head_and_what_lies_below_it():
    deep = Supervised(NETWORK, 2)
    params, _ = deep.init(KEY, IMAGE)
    label = jnp.zeros((2, 16, 8), jnp.int32)

    def moved(level):
        def objective(params):
            terms = iter(range(3))
            logits, _ = deep.apply(params, {}, IMAGE, train=True)
            # Of the three terms, which come from fine to coarse, one counts.
            return supervised(lambda one, label: jnp.square(one).mean() * (next(terms) == level))(logits, label)

        slopes = jax.grad(objective)(params)
        heads = {"finest": slopes["head"], **slopes["coarser"]}
        last = slopes["trunk"]["decoder_1"]
        return {name for name, one in heads.items() if largest(one) > 0}, largest(last) > 0

    assert [moved(level) for level in range(3)] == [({"finest"}, True), ({"level_2"}, False), ({"level_3"}, False)]
