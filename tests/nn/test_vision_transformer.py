"""Transformer blocks against their formula, where adapters stand, positions on other grids, dropout, remat."""

from functools import partial

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jaxfuse.nn.adapter import Adapter
from jaxfuse.nn.vision_transformer import MLP, PositionEmbedding, TransformerBlock, VisionTransformer, resize_positions
from tests.refusals import refused
from tests.tiny_systems import KEY, close, drawn_for

# Minutes of compiling in all; `-m slow` runs them. The recipe's tiny preset trains in the unmarked suite.
pytestmark = pytest.mark.slow

TOKENS, _block = jax.random.normal(KEY, (2, 2, 3, 8)), partial(TransformerBlock, 2, 12)


def _norm(p, x):
    return (x - x.mean(-1, keepdims=True)) / jnp.sqrt(x.var(-1, keepdims=True) + 1e-6) * p["scale"] + p["bias"]


def _linear(p, x):
    return x @ p["kernel"][0, 0] + p["bias"]


@jax.jit
def _middle(p, x):
    """h, u and h + MLP(u), one head at a time."""
    qkv = _linear(p["attention"]["qkv"], _norm(p["norm_1"], x)).reshape(2, 6, 24)
    heads = []
    for head in range(2):
        q, k, v = (qkv[..., part * 8 + head * 4 : part * 8 + head * 4 + 4] for part in range(3))
        logits = q @ k.swapaxes(1, 2) / 2.0
        weights = jnp.exp(logits) / jnp.exp(logits).sum(-1, keepdims=True)
        heads.append(weights @ v)
    h = x + _linear(p["attention"]["project"], jnp.concatenate(heads, -1).reshape(x.shape))
    u = _norm(p["norm_2"], h)
    hidden = _linear(p["mlp"]["expand"], u)
    hidden = hidden * 0.5 * (1 + jax.scipy.special.erf(hidden / np.sqrt(2)))
    return u, h + _linear(p["mlp"]["project"], hidden)


def test_a_block_is_attention_and_mlp_with_the_adapter_beside_the_mlp():
    params = drawn_for(_block(adapter="depthwise"), TOKENS, scale=0.4)["params"]
    u, plain = _middle(params, TOKENS)
    np.testing.assert_allclose(jax.jit(_block().apply)({"params": params}, TOKENS), plain, atol=1e-5)
    added = Adapter().apply({"params": params["adapter"]}, u)
    adapted = _block(adapter="depthwise").apply({"params": params}, TOKENS)
    np.testing.assert_allclose(adapted, plain + added, atol=1e-5)
    assert jnp.abs(added).max() > 0.1
    refused("8 channels do not divide among 3 heads", TransformerBlock(3, 12).init, KEY, TOKENS)


def test_adapters_of_the_plain_start_leave_the_block_as_it_is():
    block = _block(adapter="dense", plain_start=True)
    params = drawn_for(block, TOKENS, scale=0.4)["params"]
    params["adapter"]["norm"] = block.init(KEY, TOKENS)["params"]["adapter"]["norm"]
    with_adapters, plain = jax.jit(lambda p: (block.apply(p, TOKENS), _block().apply(p, TOKENS)))({"params": params})
    np.testing.assert_array_equal(with_adapters, plain)


def test_positions_of_the_training_size_are_used_as_they_are():
    x = jnp.zeros((2, 2, 3, 8))
    variables = PositionEmbedding((2, 3)).init(KEY, x)
    assert variables["params"]["table"].shape == (2, 3, 8)
    np.testing.assert_array_equal(PositionEmbedding((2, 3)).apply(variables, x)[1], variables["params"]["table"])


@pytest.mark.parametrize(("size", "expected"), [(5, [0.0, 0.7, 1.5, 2.3, 3.0]), (2, [0.5, 2.5]), (4, [0, 1, 2, 3])])
def test_positions_of_another_size_lie_between_their_neighbors(size, expected):
    """Cell centers: (i + 1/2) 4 / n - 1/2 on an axis where cell i holds i."""
    rows = jnp.broadcast_to(jnp.arange(4.0)[:, None, None], (4, 3, 1))
    resized = resize_positions(rows, (size, 3))
    np.testing.assert_allclose(resized[..., 0], np.repeat(np.array(expected)[:, None], 3, 1), atol=1e-6)
    np.testing.assert_allclose(resize_positions(rows.swapaxes(0, 1), (3, size))[0, :, 0], expected, atol=1e-6)


def test_dropout_acts_only_with_a_key():
    module = MLP(16, 0.5)
    variables = drawn_for(module, TOKENS, scale=0.4)
    np.testing.assert_array_equal(module.apply(variables, TOKENS), module.apply(variables, TOKENS))
    keys = [{"dropout": jax.random.key(seed)} for seed in (1, 1, 2)]
    first, again, other = (module.apply(variables, TOKENS, rngs=key) for key in keys)
    np.testing.assert_array_equal(first, again)
    assert (first != other).any()
    assert 0.3 < (first == 0).mean() < 0.7


def _gradients(module, params):
    def loss(params):
        y = module.apply({"params": params}, TOKENS, rngs={"dropout": KEY})
        return jnp.mean(jnp.sin(y)), y

    return jax.jit(jax.grad(loss, has_aux=True))(params)


def test_computing_blocks_again_changes_nothing_and_draws_the_same_dropout():
    module = VisionTransformer(8, 1, 2, 12, (2, 2), "none", dropout=0.2)
    params = drawn_for(module, TOKENS, scale=0.4)["params"]
    close(_gradients(module, params), _gradients(module.clone(remat=True), params), 1e-5)


def test_without_adapters_is_the_network_that_has_none():
    module = VisionTransformer(8, 1, 2, 12, (2, 2))
    params = drawn_for(module, TOKENS, scale=0.4)["params"]
    without = jax.jit(lambda p: module.apply({"params": p}, TOKENS, adapters=False))(params)
    none = module.clone(adapter="none")
    bare = {name: {key: part[key] for key in part if key != "adapter"} for name, part in params.items()}
    shapes = jax.eval_shape(none.init, KEY, TOKENS)["params"]
    assert jax.tree.map(jnp.shape, bare) == jax.tree.map(jnp.shape, shapes)
    np.testing.assert_array_equal(without, jax.jit(none.apply)({"params": bare}, TOKENS))
    assert jnp.abs(without - jax.jit(module.apply)({"params": params}, TOKENS)).max() > 0.1
