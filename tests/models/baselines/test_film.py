"""The FILM-like fusion network: its size, what text does, any sources in any order, another encoder, refusals."""

from dataclasses import replace

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jaxfuse.errors import UserError
from jaxfuse.models.baselines.film import FilmForm, TextWeights, from_windows, merged, windows
from jaxfuse.nn.conv import Conv
from tests.refusals import refused
from tests.tiny_systems import KEY, counts, drawn_for

FORM = FilmForm(dim=4, heads=2, expansion=1.0, rounds=1, hidden=4, text_dim=2, decoder_blocks=0)
SOURCES = jax.random.uniform(KEY, (2, 4, 4, 3))
# The first example lacks the last source, the second the first one.
PRESENCE = jnp.array([[1.0, 1.0, 0.0], [0.0, 1.0, 1.0]])


@pytest.fixture(scope="module")
def params():
    return drawn_for(FORM.network(), SOURCES, scale=0.5)["params"]


@pytest.fixture(scope="module")
def fuse():
    network = FORM.network()
    return jax.jit(lambda params, sources, presence: network.apply({"params": params}, sources, presence)["fused"])


def _counts(form, encoder=None, side=32):
    image = jax.ShapeDtypeStruct((1, side, side, 2), jnp.float32)
    params = jax.eval_shape(form.network(encoder).init, KEY, image)["params"]
    return counts(params)


def _restormer(dim):
    """Norms; qkv by 1x1 and 3x3, temperatures, projection; both halves of a fourfold layer by 1x1 and 3x3, and back."""
    return 4 * dim + (3 * dim * dim + 27 * dim + 8 + dim * dim) + (8 * dim * dim + 72 * dim + 4 * dim * dim)


def test_parameter_counts_of_the_released_size():
    encoder = 9 * 32 + 1 + _restormer(32)
    between = 9 * 32 * 32 + 1 + _restormer(32)
    # To text, four maps of the attention, from text, both side by side; PReLUs.
    text = (32 * 32 + 32) + 4 * (256 * 256 + 256) + (32 * 32 + 32) + (64 * 32 + 32) + 2
    decoder = _restormer(64) + (64 * 32 + 32) + 2 * _restormer(32) + 33
    expected = {"encoder": encoder, "guidance": 256 + 3 * text + 2 * between, "decoder": decoder}
    assert _counts(FilmForm()) == expected == {"encoder": 19_977, "guidance": 860_152, "decoder": 113_625}


def test_weights_depend_on_neither_sides_nor_arithmetic_nor_slots(params):
    forms = jax.tree.map(lambda leaf: (leaf.shape, leaf.dtype), params)
    other = replace(FORM, dtype="bfloat16", remat=True).network()
    sources = jax.ShapeDtypeStruct((1, 8, 12, 4), jnp.float32)
    made, variables = jax.eval_shape(lambda x: other.init_with_output(KEY, x), sources)
    assert jax.tree.map(lambda leaf: (leaf.shape, leaf.dtype), variables["params"]) == forms
    assert (made["fused"].shape, made["fused"].dtype) == ((1, 8, 12, 1), jnp.float32)


def test_a_token_is_a_square_of_one_channel():
    x = jnp.arange(2 * 4 * 4 * 2.0).reshape(2, 4, 4, 2)
    tokens = windows(x, 2)
    assert tokens.shape == (2, 8, 4)
    # Squares row by row, each with its channels in order.
    np.testing.assert_array_equal(tokens[0, 3], x[0, :2, 2:, 1].ravel())
    np.testing.assert_array_equal(tokens[1, 4], x[1, 2:, :2, 0].ravel())
    np.testing.assert_array_equal(from_windows(tokens, 2, (4, 4, 2)), x)


def test_text_multiplies_all_tokens_by_one_vector_of_length_one():
    x, text = jax.random.normal(KEY, (2, 4, 4, 2)), jnp.arange(4.0)
    module = TextWeights(FORM)
    p = drawn_for(module, x, text, scale=0.5)["params"]
    made = windows(jax.jit(module.apply)({"params": p}, x, text), 2)
    tokens = np.asarray(windows(x, 2))
    query, key, value = (
        given @ np.asarray(p[name]["kernel"]) + np.asarray(p[name]["bias"])
        for name, given in (("query", np.arange(4.0)), ("key", tokens), ("value", tokens))
    )
    found = np.zeros((2, 4))
    for head in (slice(0, 2), slice(2, 4)):
        logits = key[..., head] @ query[head] / 2**0.5
        share = np.exp(logits) / np.exp(logits).sum(-1, keepdims=True)
        found[:, head] = np.einsum("bt,btd->bd", share, value[..., head])
    found = found @ np.asarray(p["project"]["kernel"]) + np.asarray(p["project"]["bias"])
    weights = found / np.abs(found).sum(-1, keepdims=True)
    np.testing.assert_allclose(made, tokens * weights[:, None], atol=1e-5)


def test_sources_meet_as_mean_and_maximum_of_those_present():
    features = jnp.broadcast_to(jnp.array([1.0, 5.0, -3.0]), (3, 1, 1, 1, 3))
    present = jnp.array([[True, True, True], [False, False, True], [False] * 3])
    np.testing.assert_array_equal(merged(features, present)[:, 0, 0], [[1, 5], [-3, -3], [0, 0]])


def test_order_of_sources_does_not_matter_and_the_image_is_one(params, fuse):
    order = np.array([2, 0, 1])
    straight = fuse(params, SOURCES, PRESENCE)
    assert (straight.shape, straight.dtype) == ((2, 4, 4, 1), jnp.float32)
    assert 0 < float(straight.min()) < float(straight.max()) < 1
    np.testing.assert_allclose(fuse(params, SOURCES[..., order], PRESENCE[:, order]), straight, atol=1e-6)
    assert jnp.abs(fuse(params, SOURCES, jnp.ones((2, 3))) - straight).max() > 1e-4


def test_what_an_absent_slot_holds_has_no_influence(params, fuse):
    for garbage in (0.0, 1e30, jnp.nan):
        filled = SOURCES.at[0, ..., 2].set(garbage)
        np.testing.assert_array_equal(fuse(params, filled, PRESENCE), fuse(params, SOURCES, PRESENCE))


@pytest.mark.parametrize("rounds", [1, pytest.param(2, marks=pytest.mark.slow)])
def test_text_and_all_layers_learn_and_absent_slots_have_no_gradient(rounds):
    network = replace(FORM, rounds=rounds, decoder_blocks=rounds - 1).network()
    params = drawn_for(network, SOURCES, scale=0.5)["params"]

    @jax.jit
    def slopes(params, sources):
        def bent(params, sources):
            return jnp.sin(9 * network.apply({"params": params}, sources, PRESENCE)["fused"]).sum()

        return jax.grad(bent, (0, 1))(params, sources)

    found, moves = slopes(params, SOURCES.at[0, ..., 2].set(1e30))
    np.testing.assert_array_equal(np.abs(moves).max((1, 2)) > 0, PRESENCE > 0)
    assert jnp.abs(found["guidance"]["text"]).max() > 1e-4
    for path, leaf in jax.tree_util.tree_leaves_with_path(found):
        name = jax.tree_util.keystr(path)
        # A bias of the keys is the same for all tokens, which the softmax cannot see.
        assert "['key']['bias']" in name or jnp.abs(leaf).max() > 0, name


class Halves(nn.Module):
    """An encoder of two maps, of three channels and of one."""

    @nn.compact
    def __call__(self, image):
        return Conv(3, 3, name="wide")(image), image


def test_the_image_encoder_can_be_another():
    """Its weights take the place "encoder", its maps are handed on by source and joined without bias."""
    own = _counts(FORM, side=4)
    join = (3 + 1) * FORM.dim
    assert _counts(FORM, Halves(), side=4) == {**own, "encoder": 9 * 3 + 3, "guidance": own["guidance"] + join}
    network = FORM.network(Halves())
    made = jax.eval_shape(lambda x: network.init_with_output(KEY, x)[0], SOURCES)
    assert [x.shape for x in made["maps"]] == [(2, 4, 4, 3, 3), (2, 4, 4, 1, 3)]


def test_refusals_say_what_came():
    for changes, message in (
        ({"hidden": 8}, "hidden is 8; a token is a square of pixels"),
        ({"rounds": 0}, "rounds is 0; text looks at the image at least once"),
        ({"dtype": "half"}, "dtype is 'half'; choose one of float32, bfloat16"),
    ):
        refused(message, replace(FORM, **changes).network)

    def trace(shape, presence=None):
        network = FORM.network()
        jax.eval_shape(lambda x: network.init(KEY, x, presence), jax.ShapeDtypeStruct(shape, jnp.float32))

    refused(r"2 to 4 sources \(b h w m\), got shape \(1, 4, 4, 1\)", trace, (1, 4, 4, 1))
    refused(r"squares of 2 x 2 pixels, which do not divide images of shape \(1, 4, 5, 2\)", trace, (1, 4, 5, 2))
    with pytest.raises(UserError, match=r"presence must be \(2, 3\) for sources \(2, 4, 4, 3\), got \(1, 3\)"):
        trace((2, 4, 4, 3), jnp.ones((1, 3)))
