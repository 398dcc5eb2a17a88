"""The segmentation network of Fuse4Seg: sizes, a forward pass written out, pooling, doubling, adapters, arithmetic."""

import json
from dataclasses import replace

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jaxfuse.models.fuse4seg.segmentation import (
    Encoder,
    SegmentationForm,
    StandardizedConv,
    max_pool,
    upsample_bilinear,
)
from tests.models.fuse4seg.small_forms import COMPACT, TINY
from tests.refusals import refused
from tests.tiny_systems import KEY, count, kept

# Minutes of compiling in all; `-m slow` runs them. The recipe's tiny preset trains in the unmarked suite.
pytestmark = pytest.mark.slow

FORM = replace(TINY, train_side=32, vit_depth=1)
IMAGE = jax.random.uniform(KEY, (1, 32, 32, 1))


def _shape(*sides, channels=1):
    return jax.ShapeDtypeStruct((1, *sides, channels), jnp.float32)


def _params(form, image, classes=4):
    return jax.eval_shape(form.network(classes).init, KEY, image)["params"]


def _drawn(form, seed=0):
    """Parameters of the form's shapes, drawn without compiling anything: norms and biases are nowhere trivial."""
    rng = np.random.default_rng(seed)

    def one(path, leaf):
        fan_in = np.prod(leaf.shape[:-1]) if len(leaf.shape) == 4 else 4
        start = 1.0 if "scale" in jax.tree_util.keystr(path) else 0.0
        return jnp.asarray(start + rng.normal(size=leaf.shape) / np.sqrt(fan_in), jnp.float32)

    return jax.tree_util.tree_map_with_path(one, _params(form, IMAGE))


@pytest.fixture(scope="module")
def params():
    return _drawn(FORM)


@pytest.fixture(scope="module")
def network():
    return jax.jit(FORM.network(4).apply, static_argnames="adapters")


def _adapters(params):
    return sum(
        leaf.size
        for path, leaf in jax.tree_util.tree_leaves_with_path(params)
        if "adapter" in jax.tree_util.keystr(path)
    )


@pytest.mark.parametrize(
    ("form", "plain", "adapters"),
    [(TINY, 101_148, 6_848), (COMPACT, 6_448_228, 1_024_512), (SegmentationForm(), 105_270_084, 12 * 1_495_296)],
    ids=("tiny", "compact", "paper"),
)
def test_weights_and_logits_of_224_pixels(form, plain, adapters):
    network = form.network(4)
    logits, variables = jax.eval_shape(lambda image: network.init_with_output(KEY, image), _shape(224, 224))
    assert (logits.shape, logits.dtype) == ((1, 224, 224, 4), jnp.float32)
    counted = _adapters(variables["params"])
    assert (count(variables) - counted, counted) == (plain, adapters)


def test_the_stem_reads_the_channels_that_come():
    """Channels of an embedding, in the row without decoder; nothing else depends on them."""
    gray, embedding = (_params(TINY, _shape(32, 32, channels=channels)) for channels in (1, 64))
    assert embedding["encoder"]["stem"]["kernel"].shape == (7, 7, 64, 8)
    assert count(embedding) - count(gray) == 63 * 49 * 8


def test_color_and_nine_classes_give_the_size_of_transunet():
    """105.28 million, as its paper's R50-ViT-B/16 with three copies of the image."""
    form = replace(SegmentationForm(), adapter="none")
    assert count(_params(form, _shape(224, 224, channels=3), classes=9)) == 105_277_081


def test_maps_of_an_image_of_224_pixels():
    form = SegmentationForm()
    (x, skips), _ = jax.eval_shape(lambda image: Encoder(form).init_with_output(KEY, image), _shape(224, 224))
    assert x.shape == (1, 14, 14, 1024)
    assert [skip.shape[1:] for skip in skips] == [(112, 112, 64), (56, 56, 256), (28, 28, 512)]


@pytest.mark.parametrize("sides", [(80, 80), (240, 256), (32, 48)])
def test_weights_of_one_size_serve_others(sides):
    variables = {"params": _params(TINY, _shape(64, 64))}
    assert variables["params"]["transformer"]["positions"]["table"].shape == (4, 4, 32)
    logits = jax.eval_shape(TINY.network(4).apply, variables, _shape(*sides))
    assert logits.shape == (1, *sides, 4)


@pytest.mark.parametrize(("height", "width"), [(8, 11), (16, 7)])
def test_pooling_and_its_gradient_are_those_of_max_pool(height, width):
    x = jax.random.permutation(KEY, height * width * 3).reshape(1, height, width, 3).astype(jnp.float32)
    weights = jax.random.normal(KEY, (1, (height - 3) // 2 + 1, (width - 3) // 2 + 1, 3))

    @jax.jit
    def both(x):
        def pair(pool):
            return jax.value_and_grad(lambda x: jnp.sum(weights * pool(x)))(x), pool(x)

        return pair(max_pool), pair(lambda x: nn.max_pool(x, (3, 3), (2, 2), "VALID"))

    ours, theirs = both(x)
    assert ours[1].shape == weights.shape
    for a, b in zip(jax.tree.leaves(ours), jax.tree.leaves(theirs), strict=True):
        np.testing.assert_allclose(a, b, rtol=1e-6)


def test_doubling_is_bilinear_between_pixel_centers():
    upsample = jax.jit(upsample_bilinear)
    x = jnp.array([0.0, 4.0, 8.0]).reshape(1, 1, 3, 1)
    np.testing.assert_array_equal(upsample(x)[0, :, :, 0], [[0.0, 1.0, 3.0, 5.0, 7.0, 8.0]] * 2)
    x = jax.random.normal(KEY, (2, 3, 5, 4))
    np.testing.assert_allclose(upsample(x), jax.image.resize(x, (2, 6, 10, 4), "bilinear"), atol=1e-6)


def test_kernels_have_mean_zero_and_variance_one():
    kernel = jax.random.normal(KEY, (3, 3, 2, 4))
    x = jax.random.normal(KEY, (1, 6, 6, 2))
    spread = np.asarray(kernel).reshape(18, 4)
    standard = ((spread - spread.mean(0)) / np.sqrt(spread.var(0) + 1e-5)).reshape(3, 3, 2, 4)
    y = StandardizedConv(4, 3, 2).apply({"params": {"kernel": kernel}}, x)
    expected = jax.lax.conv_general_dilated(
        x, jnp.asarray(standard), (2, 2), [(1, 1)] * 2, dimension_numbers=("NHWC", "HWIO", "NHWC")
    )
    np.testing.assert_allclose(y, expected, atol=1e-5)


def _convolve(x, kernel, strides=1, standard=False):
    if standard:
        kernel = (kernel - kernel.mean((0, 1, 2))) / jnp.sqrt(kernel.var((0, 1, 2)) + 1e-5)
    pad = [(kernel.shape[0] // 2,) * 2] * 2
    return jax.lax.conv_general_dilated(x, kernel, (strides,) * 2, pad, dimension_numbers=("NHWC", "HWIO", "NHWC"))


def _groups(p, x):
    """Two channels in each group, as everywhere in the tiny form but at its 64 channels, which have 32 groups too."""
    apart = x.reshape(*x.shape[:3], -1, 2)
    centered = apart - apart.mean((1, 2, 4), keepdims=True)
    y = centered / jnp.sqrt(apart.var((1, 2, 4), keepdims=True) + 1e-6)
    return y.reshape(x.shape) * p["scale"] + p["bias"]


def _layers(p, x):
    return (x - x.mean(-1, keepdims=True)) / jnp.sqrt(x.var(-1, keepdims=True) + 1e-6) * p["scale"] + p["bias"]


def _encode(p, image):
    x = jax.nn.relu(_groups(p["stem_norm"], _convolve(image, p["stem"]["kernel"], 2, True)))
    skips = [x]
    x = nn.max_pool(x, (3, 3), (2, 2), "VALID")
    for stage in (1, 2, 3):
        unit, strides = p[f"stage_{stage}_unit_1"], 1 if stage == 1 else 2
        y = x
        for name, stride in (("reduce", 1), ("spatial", strides), ("expand", 1)):
            y = _groups(unit[f"{name}_norm"], _convolve(y, unit[name]["kernel"], stride, True))
            y = y if name == "expand" else jax.nn.relu(y)
        x = jax.nn.relu(_groups(unit["shortcut_norm"], _convolve(x, unit["shortcut"]["kernel"], strides, True)) + y)
        skips.append(x)
    assert skips[1].shape[1:3] == (7, 7)
    skips[1] = jnp.zeros((1, 8, 8, 16)).at[:, :7, :7].set(skips[1])
    return skips


def _transform(p, x):
    def linear(p, x):
        return x @ p["kernel"][0, 0] + p["bias"]

    x = (linear(p["embed"], x) + p["positions"]["table"]).reshape(1, 4, 32)
    block = p["block_1"]
    q, k, v = jnp.split(linear(block["attention"]["qkv"], _layers(block["norm_1"], x)), 3, -1)
    heads = []
    for own in (slice(0, 16), slice(16, 32)):
        heads.append(jax.nn.softmax(q[..., own] @ k[..., own].swapaxes(1, 2) / 4.0) @ v[..., own])
    x = x + linear(block["attention"]["project"], jnp.concatenate(heads, -1))
    hidden = jax.nn.gelu(linear(block["mlp"]["expand"], _layers(block["norm_2"], x)), approximate=False)
    x = x + linear(block["mlp"]["project"], hidden)
    return _layers(p["norm"], x).reshape(1, 2, 2, 32)


@jax.jit
def _by_hand(p, image):
    """The tiny form with one block, without adapters, from 32 x 32 pixels to logits."""

    def layer(p, x):
        return jax.nn.relu(_groups(p["norm"], _convolve(x, p["conv"]["kernel"])))

    half, quarter, eighth, x = _encode(p["encoder"], image)
    x = layer(p["decoder"]["bridge"], _transform(p["transformer"], x))
    for number, skip in enumerate((eighth, quarter, half, None), start=1):
        x = jax.image.resize(x, (1, 2 * x.shape[1], 2 * x.shape[2], x.shape[3]), "bilinear")
        x = x if skip is None else jnp.concatenate([x, skip], -1)
        step = p["decoder"][f"step_{number}"]
        x = layer(step["conv_2"], layer(step["conv_1"], x))
    return _convolve(x, p["head"]["kernel"]) + p["head"]["bias"]


def test_without_adapters_it_is_the_forward_pass_written_out(params, network):
    plain = network({"params": params}, IMAGE, adapters=False)
    expected = _by_hand(params, IMAGE)
    assert jnp.abs(expected).max() > 0.5
    np.testing.assert_allclose(plain, expected, atol=2e-4)
    adapted = network({"params": params}, IMAGE)
    assert jnp.abs(adapted - plain).max() > 0.05


def test_in_bfloat16_the_answer_stays_close_and_every_weight_learns(params, network):
    half = replace(FORM, dtype="bfloat16").network(4)

    def loss(params):
        logits = half.apply({"params": params}, IMAGE)
        return jnp.mean(jnp.sin(logits)), logits

    lowered = jax.jit(jax.grad(loss, has_aux=True)).lower(params)
    assert "select_and_scatter" not in lowered.as_text()
    gradient, logits = lowered.compile()(params)
    assert logits.dtype == jnp.float32
    assert jnp.corrcoef(network({"params": params}, IMAGE).ravel(), logits.ravel())[0, 1] > 0.99
    still = [
        jax.tree_util.keystr(path)
        for path, leaf in jax.tree_util.tree_leaves_with_path(gradient)
        if leaf.dtype != jnp.float32 or not np.isfinite(leaf).all() or np.abs(leaf).max() < 1e-9
    ]
    assert not still


def test_remat_keeps_the_weights_and_less_for_the_backward_pass(params):
    """The inputs of units, blocks and steps, and not the results of all layers."""
    again = replace(FORM, remat=True, dtype="bfloat16")
    drawn = _params(again, IMAGE)
    assert jax.tree.map(lambda x: (x.shape, x.dtype), drawn) == jax.tree.map(lambda x: (x.shape, x.dtype), params)
    assert _kept(again, params) < 0.5 * _kept(replace(again, remat=False), params)


def _kept(form, params):
    """Values that the backward pass is handed, besides the parameters."""
    return count(kept(lambda p: form.network(4).apply({"params": p}, IMAGE), params)) - count(params)


def test_nothing_is_drawn_without_a_key(params):
    def draws(rngs):
        return "random_bits" in str(jax.make_jaxpr(lambda p: FORM.network(4).apply(p, IMAGE, rngs=rngs))(params))

    params = {"params": params}
    assert not draws({})
    assert draws({"dropout": KEY})


@pytest.mark.parametrize("sides", [(30, 32), (16, 32), (32, 40)], ids=str)
def test_images_of_other_sides_are_refused(sides):
    refused(r"multiples of 16 from 32 pixels on, got shape \(1, .*; pad or crop", _params, FORM, _shape(*sides))


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"adapter": "wide"}, "adapter is 'wide'; choose one of depthwise, dense, none"),
        ({"dtype": "float16"}, "dtype is 'float16'; choose one of float32, bfloat16"),
        ({"widths": (16, 32, 60)}, "give multiples of 8"),
        ({"units": (1, 0, 1)}, r"units is \(1, 0, 1\); give 3 positive numbers"),
        ({"train_side": 72}, "train_side is 72; give a multiple of 16 from 32 pixels on"),
        ({"dropout": 1.0}, "dropout is 1.0; give a rate from 0 to below 1"),
    ],
    ids=json.dumps,
)
def test_forms_that_cannot_be_are_refused(changes, message):
    refused(message, replace(TINY, **changes).network, 4)


def test_weights_are_never_drawn_without_adapters():
    refused("weights drawn without adapters would lack theirs", FORM.network(4).init, KEY, IMAGE, adapters=False)
