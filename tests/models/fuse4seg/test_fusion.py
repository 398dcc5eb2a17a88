"""The fusion module: counts at the paper's size, the two-source formula, any combination of modalities, its options."""

from dataclasses import replace

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jaxfuse.models.fuse4seg.fusion import BandAttention, Decoder, Encoder, FusionForm, FusionLayers
from tests.refusals import refused
from tests.tiny_systems import counts, kept_bytes

# Minutes of compiling in all; `-m slow` runs them. The recipe's tiny preset trains in the unmarked suite.
pytestmark = pytest.mark.slow

KEY = jax.random.key(0, impl="rbg")
FORM = FusionForm(dim=8, front=1, decoder_blocks=1, heads=2, high_nodes=1, cell=2)
# The first example lacks the last modality, the second the first one.
PRESENCE = jnp.array([[1.0, 1.0, 0.0], [0.0, 1.0, 1.0]])
SOURCES = jax.random.uniform(jax.random.key(1), (2, 8, 8, 3))


def _apply(form, method="fuse", **options):
    network = form.network()
    return jax.jit(lambda params, *inputs: network.apply({"params": params}, *inputs, method=method, **options))


@pytest.fixture(scope="module")
def drawn():
    """Parameters as they start."""
    return jax.jit(FORM.network().init)(KEY, SOURCES[..., :2])["params"]


@pytest.fixture(scope="module")
def params(drawn):
    """Parameters with a cross-attention that says something."""

    def awake(path, leaf):
        return 0.5 * jax.random.normal(KEY, leaf.shape) if path[-2].key == "output" else leaf

    return {**drawn, "cross_attention": jax.tree_util.tree_map_with_path(awake, drawn["cross_attention"])}


@pytest.fixture(scope="module")
def fuse():
    """(params, sources, presence) -> everything, compiled once per number of slots."""
    return _apply(FORM, attention=True)


def _gradient(form, params):
    """The gradient of a bent sum of the fused image with respect to (params, sources)."""
    network = form.network()

    def bent(params, sources):
        return jnp.sin(9 * network.apply({"params": params}, sources, PRESENCE)["fused"]).sum()

    return jax.jit(jax.grad(bent, (0, 1)))(params, SOURCES.at[0, ..., 2].set(1e30))


@pytest.fixture(scope="module")
def gradient(params):
    return _gradient(FORM, params)


def _counts(form, slots=2, side=56):
    shapes = jax.ShapeDtypeStruct((1, side, side, slots), jnp.float32)
    params = jax.eval_shape(form.network().init, KEY, shapes)["params"]
    return counts(params)


@pytest.mark.parametrize(
    ("changes", "different"),
    [
        ({}, {}),
        ({"dtype": "bfloat16", "remat": True, "direction": "12"}, {}),
        ({"cross_attention": "none"}, {"cross_attention": None}),
        # One temperature per head and band.
        ({"cross_attention": "channel"}, {"cross_attention": 32_768 + 16}),
        # The first 1x1 convolution is all that is left.
        ({"decoder": False}, {"decoder": 8192}),
        ({"low_block": "lsra"}, {"encoder": 599_144 - 363_016 + 22_096, "fusion": 381_192 - 363_016 + 22_096}),
    ],
)
def test_parameter_counts_of_the_paper(changes, different):
    expected = {"encoder": 599_144, "decoder": 207_936, "fusion": 381_192, "cross_attention": 32_768} | different
    assert _counts(FusionForm(**changes)) == {name: count for name, count in expected.items() if count}


def test_weights_do_not_depend_on_the_number_of_slots():
    assert _counts(FORM, slots=4, side=8) == _counts(FORM, slots=2, side=8)
    assert sum(_counts(replace(FusionForm(), cross_attention="none")).values()) == 1_188_272


def test_two_sources_follow_the_plain_formula(params, fuse):
    @jax.jit
    def by_hand(params, sources):
        bands = [Encoder(FORM).apply({"params": params["encoder"]}, sources[..., i : i + 1]) for i in range(2)]
        low, high = (jnp.stack(band, axis=1) for band in zip(*bands, strict=True))
        (low, high), _ = BandAttention(FORM).apply({"params": params["cross_attention"]}, low, high, jnp.ones((2, 2)))
        sums = low[:, 0] + low[:, 1], high[:, 0] + high[:, 1]
        low, high = FusionLayers(FORM).apply({"params": params["fusion"]}, *sums)
        decoder = {"params": params["decoder"]}
        embedding = Decoder(FORM).apply(decoder, low, high, method="join")
        return bands, embedding, Decoder(FORM).apply(decoder, embedding)

    bands, embedding, fused = by_hand(params, SOURCES[..., :2])
    result = fuse(params, SOURCES[..., :2])
    assert fused.shape == (2, 8, 8, 1)
    np.testing.assert_allclose(result["fused"], fused, atol=1e-5)
    np.testing.assert_allclose(result["embedding"], embedding, atol=1e-5)
    for slot in range(2):
        np.testing.assert_allclose(result["bands"]["low"][slot], bands[slot][0], atol=1e-5)
        np.testing.assert_allclose(result["bands"]["high"][slot], bands[slot][1], atol=1e-5)
    assert {name: maps.shape for name, maps in result["attn"].items()} == {
        "low": (2, 2, 2, 2, 16, 16),
        "high": (2, 2, 2, 2, 16, 16),
    }


def test_without_cross_attention_is_the_initial_function(drawn, params, fuse):
    none = {name: part for name, part in drawn.items() if name != "cross_attention"}
    fused = _apply(replace(FORM, cross_attention="none"))(none, SOURCES[..., :2])["fused"]
    np.testing.assert_allclose(fuse(drawn, SOURCES[..., :2])["fused"], fused, atol=1e-6)
    assert jnp.abs(fuse(params, SOURCES[..., :2])["fused"] - fused).max() > 1e-4


def test_order_of_modalities_does_not_matter(params, fuse):
    presence = jnp.array([[1.0, 1.0, 1.0], [1.0, 0.0, 1.0]])
    order = np.array([2, 0, 1])
    straight = fuse(params, SOURCES, presence)
    turned = fuse(params, SOURCES[..., order], presence[:, order])
    np.testing.assert_allclose(turned["fused"], straight["fused"], atol=1e-5)
    maps = straight["attn"]["low"][:, order][:, :, order]
    np.testing.assert_allclose(turned["attn"]["low"], maps, atol=1e-5)


def test_an_absent_slot_is_as_if_it_were_not_there(params, fuse):
    presence = jnp.array([1.0, 1.0, 0.0])
    two = fuse(params, SOURCES[..., :2])
    for garbage in (1e30, jnp.nan):
        three = fuse(params, SOURCES.at[..., 2].set(garbage), presence)
        np.testing.assert_allclose(three["fused"], two["fused"], atol=1e-6)
        np.testing.assert_array_equal(three["fused"], fuse(params, SOURCES, presence)["fused"])


def test_an_absent_slot_has_no_gradient(gradient):
    moves = np.abs(gradient[1]).max((1, 2))
    np.testing.assert_array_equal(moves > 0, PRESENCE > 0)


def test_every_layer_learns_from_the_fused_image(gradient):
    leaves = jax.tree_util.tree_leaves_with_path(gradient[0])
    assert [jax.tree_util.keystr(path) for path, leaf in leaves if not leaf.any()] == []


def test_reconstruction_sees_each_source_alone(params, fuse):
    result = _apply(replace(FORM, residual="max"), "reconstruct")(params, SOURCES)
    bands = fuse(params, SOURCES)["bands"]
    decode = jax.jit(lambda p, low, high, added: Decoder(FORM).apply({"params": p}, low, high, added, method=_decode))
    for slot in range(3):
        low, high = bands["low"][slot], bands["high"][slot]
        np.testing.assert_allclose(result["low"][slot], low, atol=1e-5)
        np.testing.assert_allclose(result["high"][slot], high, atol=1e-5)
        image = decode(params["decoder"], low, high, SOURCES[..., slot : slot + 1])
        np.testing.assert_allclose(result["reconstruction"][..., slot], image[..., 0], atol=1e-5)


def _decode(decoder, low, high, added):
    return jax.nn.sigmoid(jax.scipy.special.logit(decoder(decoder.join(low, high))) + added)


def test_residual_is_the_maximum_over_present_sources(params, fuse):
    presence = jnp.array([1.0, 1.0, 0.0])
    fused = fuse(params, SOURCES, presence)["fused"]
    residual = _apply(replace(FORM, residual="max"))(params, SOURCES, presence)["fused"]
    logit = jnp.log(fused) - jnp.log1p(-fused)
    expected = jax.nn.sigmoid(logit + SOURCES[..., :2].max(-1, keepdims=True))
    np.testing.assert_allclose(residual, expected, atol=1e-5)


def test_fold_fuses_one_after_the_other(params, fuse):
    fold = _apply(replace(FORM, combine="fold"))

    def pair(a, b):
        return fuse(params, jnp.concatenate([a, b], -1))["fused"]

    a, b, c = (SOURCES[..., i : i + 1] for i in range(3))
    np.testing.assert_allclose(fold(params, SOURCES, jnp.ones(3))["fused"], pair(pair(a, b), c), atol=1e-5)
    for presence, expected in (((1.0, 0.0, 1.0), pair(a, c)), ((0.0, 1.0, 1.0), pair(b, c)), ((1, 1, 0.0), pair(a, b))):
        np.testing.assert_allclose(fold(params, SOURCES, jnp.array(presence))["fused"], expected, atol=1e-5)
    alone = fold(params, SOURCES, jnp.array([0.0, 0.0, 1.0]))["fused"]
    expected = fuse(params, SOURCES[..., 1:], jnp.array([0.0, 1.0]))["fused"]
    np.testing.assert_allclose(alone, expected, atol=1e-5)


def test_remat_keeps_names_and_gradients(params, gradient):
    recomputed = _gradient(replace(FORM, remat=True), params)
    assert jax.tree.structure(recomputed) == jax.tree.structure(gradient)
    for (path, a), b in zip(jax.tree_util.tree_leaves_with_path(gradient), jax.tree.leaves(recomputed), strict=True):
        tolerance = 1e-4 * max(1e-2, float(jnp.abs(a).max()))
        np.testing.assert_allclose(a, b, atol=tolerance, err_msg=jax.tree_util.keystr(path))


def test_remat_keeps_a_tenth_of_large_images():
    image = jax.ShapeDtypeStruct((1, 224, 224, 2), jnp.float32)
    short = FusionForm(front=1, decoder_blocks=1, high_nodes=1)
    params = jax.eval_shape(short.network().init, KEY, image)

    def of_form(form):
        return kept_bytes(lambda p, x: form.network().apply(p, x)["fused"], params, image)

    assert of_form(replace(short, remat=True)) < 0.1 * of_form(short)


def test_bfloat16_is_close_and_its_image_is_float32(params, fuse):
    full = fuse(params, SOURCES[..., :2])["fused"]
    half = _apply(replace(FORM, dtype="bfloat16", clamp=2.0), attention=True)(params, SOURCES[..., :2])
    assert half["fused"].dtype == half["attn"]["low"].dtype == jnp.float32
    assert half["embedding"].dtype == jnp.bfloat16
    np.testing.assert_allclose(half["fused"], full, atol=0.02)


def test_without_decoder_the_embedding_is_handed_on(params, fuse):
    result = _apply(replace(FORM, decoder=False))(params, SOURCES[..., :2])
    assert sorted(result) == ["bands", "embedding"]
    np.testing.assert_allclose(result["embedding"], fuse(params, SOURCES[..., :2])["embedding"], atol=1e-6)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"low_block": "wide"}, "low_block is 'wide'; choose one of cddfuse, lsra"),
        ({"cross_attention": "yes"}, "cross_attention is 'yes'; choose one of tokens, channel, none"),
        ({"direction": "21"}, "direction is '21'; choose one of both, 12"),
        ({"residual": "mean"}, "residual is 'mean'; choose one of None, max"),
        ({"combine": "sum"}, "combine is 'sum'; choose one of all, fold"),
        ({"dtype": "float16"}, "dtype is 'float16'; choose one of float32, bfloat16"),
    ],
)
def test_unknown_options(changes, message):
    refused(message, replace(FORM, **changes).network)


def test_impossible_calls():
    def call(sources, *presence, method="fuse", attention=None, **changes):
        options = {} if attention is None else {"attention": attention}
        shapes = (jax.ShapeDtypeStruct(shape, jnp.float32) for shape in (sources, *presence))
        jax.eval_shape(lambda *x: replace(FORM, **changes).network().init(KEY, *x, method=method, **options), *shapes)

    refused(r"2 to 4 sources \(b h w m\), got shape \(1, 8, 8, 1\)", call, (1, 8, 8, 1))
    refused(r"got shape \(1, 8, 8, 8, 2\)", call, (1, 8, 8, 8, 2))
    refused(r"presence must be \(1, 3\) or \(3,\)", call, (1, 8, 8, 3), (2,))
    refused("9 x 8 pixels does not divide into cells of 2 x 2", call, (1, 9, 8, 2))
    refused("no attention maps without cross-attention", call, (1, 8, 8, 2), cross_attention="none", attention=True)
    refused("'fold' with more than 2 sources", call, (1, 8, 8, 3), combine="fold", decoder=False)
    refused("no reconstruction without decoder", call, (1, 8, 8, 2), method="reconstruct", decoder=False)
    assert FORM.divisor == 2
    assert replace(FORM, cross_attention="channel").divisor == 1


def test_images_in_color_are_made_of_the_same_bands_by_a_wider_last_layer(params):
    color = replace(FORM, image_channels=3)
    assert _counts(color) == {**_counts(FORM), "decoder": _counts(FORM)["decoder"] + 2 * 9 * FORM.dim // 2}
    kernel = jnp.concatenate([params["decoder"]["image"]["kernel"]] * 3, axis=-1)
    tripled = {**params, "decoder": {**params["decoder"], "image": {"kernel": kernel}}}
    gray, made = (_apply(form)(p, SOURCES)["fused"] for form, p in ((FORM, params), (color, tripled)))
    np.testing.assert_allclose(made, jnp.broadcast_to(gray, made.shape), atol=1e-5)
    one, three = (_apply(form, "reconstruct")(p, SOURCES) for form, p in ((FORM, params), (color, tripled)))
    np.testing.assert_allclose(three["reconstruction"], one["reconstruction"], atol=1e-5)
    assert three["channels"].shape == (2, 8, 8, 3, 3)
    refused("needs the decoder and gray images", _apply(replace(color, combine="fold")), tripled, SOURCES)
    refused("image_channels is 4; choose one of 1, 2, 3", replace(FORM, image_channels=4).network)
