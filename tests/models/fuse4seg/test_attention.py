"""Attention as an output of Fuse4Seg: which slot is which modality, who asks for it, what the network says."""

from dataclasses import dataclass, replace
from functools import partial

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jaxfuse.learning.fusing import AttentiveFusionPart, Fused, FusionPart
from jaxfuse.models.fuse4seg.fusion import FusionForm
from jaxfuse.models.fuse4seg.make import LossForm, cooperate
from jaxfuse.models.fuse4seg.parts import FusionModule
from tests.models.fuse4seg.small_forms import NAMES, NO_CRITICS, Softmax
from tests.tiny_systems import KEY, gradient_descent
from tests.tiny_systems import drawn as drawn_values

IMAGE = jax.random.uniform(KEY, (2, 4, 4, 3))
BATCH = {"image": IMAGE, "label": jnp.zeros((2, 4, 4), jnp.int32)}


@dataclass(frozen=True)
class Mean:
    """A fusion network without attention: the weighted mean of the sources."""

    divisor: int = 1

    def init(self, rng, sources):
        return {"weight": jnp.ones(())}

    def fuse(self, params, sources, presence, rng):
        weights = presence / presence.sum(-1, keepdims=True)
        image = params["weight"] * jnp.einsum("bhwm,bm->bhw", sources, weights)[..., None]
        return Fused(image, image, None)

    def networks(self, params):
        return {"mean": params}


@dataclass(frozen=True)
class Telling(Mean):
    """Each source is said to receive ten times its own gray levels."""

    def fuse_with_attention(self, params, sources, presence):
        return self.fuse(params, sources, presence, None)._replace(attention=10 * sources)


@dataclass(frozen=True)
class Shy(Mean):
    def fuse_with_attention(self, params, sources, presence):
        raise AssertionError("it was asked for attention")


def _system(part, combos="all", shown="t2+t1"):
    options = {"modalities": NAMES, "combos": combos, "shown": shown, "critics": NO_CRITICS}
    losses, optimizers = LossForm(correlation_weight=0.0), gradient_descent("fusion", "segmentation")
    return cooperate(part, Softmax(), optimizers=optimizers, losses=losses, **options)


def _predicted(system, **inputs):
    return jax.jit(lambda image: system.predict(system.init(KEY, BATCH), {"image": image, **inputs}))(IMAGE)


# Slots: (t2, t1), or (t1, t2, none), the last one of which names t1 too.
@pytest.mark.parametrize("combos", [("t2+t1",), "all"])
def test_attention_lies_in_the_channels_of_the_modalities_shown(combos):
    system = _system(Telling(), combos)
    outputs = _predicted(system)
    assert set(outputs) == {"fused", "S", "attention"}
    np.testing.assert_allclose(outputs["attention"], 10 * IMAGE * jnp.array([1.0, 0.0, 1.0]), rtol=1e-6)


def test_attention_of_the_modalities_asked_for():
    system = _system(Telling())
    presence = jnp.array([[0, 1, 1], [1, 1, 1]])
    outputs = _predicted(system, presence=presence)
    np.testing.assert_allclose(outputs["attention"], 10 * IMAGE * presence[:, None, None], rtol=1e-6)


def test_a_network_without_attention_predicts_none():
    system = _system(Mean())
    assert isinstance(system.fusion, FusionPart)
    assert not isinstance(system.fusion, AttentiveFusionPart)
    assert set(_predicted(system)) == {"fused", "S"}


def test_training_and_its_validation_loss_never_ask_for_attention():
    system = _system(Shy())
    state = jax.eval_shape(system.init, KEY, BATCH)
    jax.eval_shape(system.train_step, state, BATCH)
    jax.eval_shape(system.eval_step, state, BATCH)
    with pytest.raises(AssertionError, match="it was asked"):
        jax.eval_shape(system.predict, state, BATCH)


FORM = FusionForm(dim=4, front=0, decoder_blocks=0, heads=2, high_nodes=1, cell=2)
SOURCES = jax.random.uniform(jax.random.key(1), (2, 4, 6, 3))
# The first example lacks the last source, the second one has that alone.
PRESENCE = jnp.array([[1.0, 1.0, 0.0], [0.0, 0.0, 1.0]])


@pytest.fixture(scope="module")
def drawn():
    """A compiled (sources, presence) -> (result with attention, result without), whose attention has preferences."""
    module = FusionModule(FORM)
    params = drawn_values(jax.eval_shape(lambda: module.init(KEY, SOURCES)), 1.0)

    @jax.jit
    def fuse(params, sources, presence):
        told = module.fuse_with_attention(params, sources, presence)
        return told, module.fuse(params, sources, presence, None)

    return partial(fuse, params)


def test_the_mean_over_each_source_that_is_read_is_one(drawn):
    attention = drawn(SOURCES, PRESENCE)[0].attention
    assert (attention.shape, attention.dtype) == (SOURCES.shape, jnp.float32)
    np.testing.assert_allclose(attention.mean((1, 2)), [[1, 1, 0], [0, 0, 0]], atol=1e-5)
    assert float(jnp.abs(attention[0, ..., :2] - 1).max()) > 0.1
    hidden, _ = drawn(SOURCES.at[0, ..., 2].set(jnp.nan), PRESENCE)
    np.testing.assert_array_equal(hidden.attention, attention)


def test_swapping_sources_swaps_their_attention(drawn):
    straight, swapped = (drawn(SOURCES[..., list(order)], jnp.ones((2, 3)))[0] for order in ((0, 1, 2), (2, 1, 0)))
    np.testing.assert_allclose(swapped.attention, straight.attention[..., ::-1], atol=1e-4)
    np.testing.assert_allclose(swapped.image, straight.image, atol=1e-5)


def test_asking_changes_nothing_else(drawn):
    asked, plain = drawn(SOURCES, PRESENCE)
    assert plain.attention is None
    jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, atol=1e-5), asked._replace(attention=None), plain)


@pytest.mark.parametrize(
    ("changes", "slots", "tells"),
    [
        ({"cross_attention": "channel"}, 2, False),
        ({"cross_attention": "none"}, 2, False),
        ({"combine": "fold"}, 3, False),
        ({"combine": "fold"}, 2, True),
        ({"decoder": False}, 3, True),
        ({"dtype": "bfloat16", "remat": True}, 3, True),
    ],
)
def test_forms_that_attend_to_places_tell(changes, slots, tells):
    module = FusionModule(replace(FORM, **changes))
    assert isinstance(module, AttentiveFusionPart)
    sources, presence = SOURCES[..., :slots], jnp.ones((2, slots))

    def fuse(key):
        return module.fuse_with_attention(module.init(key, sources), sources, presence)

    attention = jax.eval_shape(fuse, KEY).attention
    assert (attention is not None) is tells
    if tells:
        assert (attention.shape, attention.dtype) == (sources.shape, jnp.float32)
