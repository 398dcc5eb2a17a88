"""Cross-attention between modalities by hand, who attends to whom, the token grid, pictures of maps."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jaxfuse.nn import cross_attention
from jaxfuse.nn.cross_attention import CrossAttention, pool_tokens, token_attention, upsample_tokens
from tests.refusals import refused

# Minutes of compiling in all; `-m slow` runs them. The recipe's tiny preset trains in the unmarked suite.
pytestmark = pytest.mark.slow

KEY = jax.random.key(0, impl="rbg")
INIT, received_attention = jax.nn.initializers.lecun_normal(), cross_attention.received_attention
BANDS = jax.random.normal(KEY, (2, 3, 4, 4, 4))
ALL = jnp.ones((2, 3))


def _drawn(module, bands=BANDS):
    """Parameters with an output projection that is the identity, not zero."""
    params = jax.jit(module.init)(KEY, bands, jnp.ones(bands.shape[:2]))
    assert not params["params"]["output"]["kernel"].any()
    params["params"]["output"]["kernel"] = jnp.eye(bands.shape[-1])[None, None]
    return params


@pytest.fixture(scope="module")
def tokens():
    module = CrossAttention(2, 2, kernel_init=INIT)
    return jax.jit(module.apply), _drawn(module)


def test_output_and_rows_by_hand():
    x1, x2 = np.asarray(jax.random.normal(KEY, (2, 3, 4)))
    value = np.asarray(jax.random.normal(KEY, (3, 4)))
    out, maps = token_attention(*map(jnp.asarray, (x1, x2, value)), heads=2)
    for head, own in enumerate((slice(0, 2), slice(2, 4))):
        weights = np.exp(x1[:, own] @ x2[:, own].T / np.sqrt(2))
        weights /= weights.sum(1, keepdims=True)
        np.testing.assert_allclose(maps[head], weights, atol=1e-6)
        np.testing.assert_allclose(out[:, own], weights @ value[:, own], atol=1e-5)
    np.testing.assert_allclose(maps.sum(-1), 1.0, atol=1e-6)


def test_two_slots_follow_equation_8(tokens):
    apply, params = tokens
    pair = BANDS[:, :2]
    out, maps = apply(params, pair, jnp.ones((2, 2)))
    weights = {name: layer["kernel"][0, 0] for name, layer in params["params"].items()}
    pooled = pool_tokens(pair, 2)
    for i, j in ((0, 1), (1, 0)):
        inputs = (pooled[:, slot] @ weights[name] for slot, name in ((i, "query"), (j, "key"), (j, "value")))
        attended, expected = token_attention(*inputs, 2)
        np.testing.assert_allclose(maps[:, i, j], expected, atol=1e-6)
        np.testing.assert_allclose(out[:, i], pair[:, i] + upsample_tokens(attended, (2, 2), (4, 4)), atol=1e-5)
        assert not maps[:, i, i].any()
    np.testing.assert_allclose(maps[:, 0, 1].sum(-1), 1.0, atol=1e-6)


@pytest.mark.parametrize("cell", [2, None])
def test_it_is_the_identity_at_first(cell):
    module = CrossAttention(2, cell, kernel_init=INIT)
    out, _ = jax.jit(module.init_with_output)(KEY, BANDS, ALL)
    np.testing.assert_array_equal(out[0], BANDS)
    refused("4 x 4 pixels does not divide into cells of 3 x 3", CrossAttention(2, 3).init, KEY, BANDS, ALL)
    refused("4 channels do not divide among 3 heads", CrossAttention(3, cell).init, KEY, BANDS, ALL)
    refused("direction is '21'", CrossAttention(2, cell, "21").init, KEY, BANDS, ALL)


def test_a_slot_receives_the_mean_over_its_present_partners(tokens):
    apply, params = tokens
    three, maps = apply(params, BANDS, ALL)
    alone = [apply(params, BANDS[:, (0, j)], jnp.ones((2, 2)))[0][:, 0] for j in (1, 2)]
    np.testing.assert_allclose(three[:, 0], (alone[0] + alone[1]) / 2, atol=1e-5)
    without, maps = apply(params, BANDS, ALL.at[0, 2].set(0.0))
    np.testing.assert_allclose(without[0, 0], alone[0][0], atol=1e-5)
    np.testing.assert_allclose(without[1], three[1], atol=1e-6)
    assert not maps[0, 2].any() | maps[0, :, 2].any()
    np.testing.assert_allclose(maps[0, 0, 1].sum(-1), 1.0, atol=1e-6)
    single, _ = apply(params, BANDS, jnp.array([[1.0, 0.0, 0.0]] * 2))
    np.testing.assert_array_equal(single, BANDS)


def test_one_way_asks_later_slots_only(tokens):
    assert cross_attention.ordered_pairs(3, "12") == ((0, 1), (0, 2), (1, 2))
    assert cross_attention.ordered_pairs(2, "both") == ((0, 1), (1, 0))
    apply, params = tokens
    both, _ = apply(params, BANDS[:, :2], jnp.ones((2, 2)))
    out, maps = CrossAttention(2, 2, "12").apply(params, BANDS[:, :2], jnp.ones((2, 2)))
    np.testing.assert_allclose(out[:, 0], both[:, 0], atol=1e-6)
    np.testing.assert_array_equal(out[:, 1], BANDS[:, 1])
    assert not maps[:, 1, 0].any()


def test_channel_form_attends_between_channels_at_full_resolution():
    module = CrossAttention(2, None, kernel_init=INIT)
    params = _drawn(module)
    out, maps = jax.jit(module.apply)(params, BANDS, ALL)
    assert maps.shape == (2, 3, 3, 2, 2, 2)
    np.testing.assert_allclose(maps[:, 0, 1].sum(-1), 1.0, atol=1e-6)
    # The output is a mixture of the partners' values: it is linear in the values' projection.
    params["params"]["value"]["kernel"] *= 2.0
    doubled, _ = jax.jit(module.apply)(params, BANDS, ALL)
    np.testing.assert_allclose(doubled - BANDS, 2 * (out - BANDS), atol=1e-5)


def test_maps_carry_no_gradient_and_are_float32_in_bfloat16(tokens):
    apply, params = tokens
    gradient = jax.grad(lambda bands: (apply(params, bands, ALL)[1] ** 2).sum())(BANDS)
    np.testing.assert_array_equal(gradient, 0.0)
    half = CrossAttention(2, 2, dtype=jnp.bfloat16)
    out, maps = jax.eval_shape(half.apply, params, BANDS.astype(jnp.bfloat16), ALL)
    assert (out.dtype, maps.dtype) == (jnp.bfloat16, jnp.float32)


def test_tokens_are_means_of_cells_and_come_back_bilinearly():
    for sides, expected in (((2, 4), [2.5, 4.5]), ((4, 2), [1.5, 5.5])):
        np.testing.assert_array_equal(pool_tokens(jnp.arange(8.0).reshape(1, *sides, 1), 2)[0, :, 0], expected)
    # Centers of two cells of four pixels lie at 1.5 and 5.5.
    row = upsample_tokens(jnp.array([0.0, 4.0])[:, None], (1, 2), (2, 8))[0, :, 0]
    np.testing.assert_allclose(row, [0, 0, 0.5, 1.5, 2.5, 3.5, 4, 4], atol=1e-6)


def test_pictures_of_attention():
    # All queries of one head on a grid of 2 x 2 look at the last token only; the second head looks everywhere.
    maps = jnp.stack([jnp.zeros((4, 4)).at[:, 3].set(1.0), jnp.full((4, 4), 0.25)])
    np.testing.assert_allclose(received_attention(maps, (2, 2), (2, 2)), [[0.5, 0.5], [0.5, 2.5]], atol=1e-6)
    np.testing.assert_allclose(received_attention(maps[1:], (2, 2), (6, 6)), 1.0, atol=1e-6)
    refused("3 tokens make no grid of 2 x 2", received_attention, jnp.ones((2, 3, 3)), (2, 2), (4, 4))
