"""HyperDense-Net and HyperFusionNet: the papers' counts and sizes, and the canonical order against the literal one."""

import dataclasses
import functools

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from jaxfuse.errors import UserError
from jaxfuse.learning.system import System
from jaxfuse.losses.overlap import cross_entropy
from jaxfuse.models.hyperfusion.make import HYPER_FUSION_NET, HyperForm, make_system
from jaxfuse.models.hyperfusion.network import HyperDense
from jaxfuse.nn.initializers import he_normal
from jaxfuse.weights.hyperdense import own_first_order
from tests.refusals import refused
from tests.tiny_systems import KEY, close, count, kept_in_training, same, shape

NAMES = ("t1", "t2", "dwi", "flair")
INCREMENTAL = dataclasses.replace(HYPER_FUSION_NET, resfuse=False)
FLAT = {"ndim": 2}
# Of two and three modalities, each with two and four classes.
HYPER_DENSE_NET = HyperForm(filters="stepped", resfuse=False, head=(400, 200, 150))
ROWS = {
    "HyperDense-Net": (HYPER_DENSE_NET, {}, [10_361_620, 10_361_922, 23_173_129, 23_173_431]),
    "incremental": (INCREMENTAL, {}, [14_350_280, 14_350_582, 32_003_381, 32_003_683]),
    "narrow head": (INCREMENTAL, {"head": (400, 200, 150)}, [13_817_380, 13_817_682, 30_948_481, 30_948_783]),
    "HyperFusionNet": (HYPER_FUSION_NET, {}, [14_972_534, 14_972_836, 33_403_439, 33_403_741]),
    "HyperDense-Net 2D": (HYPER_DENSE_NET, FLAT, [4_015_720, 4_016_022, 8_895_529, 8_895_831]),
    "incremental 2D": (INCREMENTAL, FLAT, [5_778_716, 5_779_018, 12_718_037, 12_718_339]),
    "HyperFusionNet 2D": (HYPER_FUSION_NET, FLAT, [6_400_970, 6_401_272, 14_118_095, 14_118_397]),
}


def _system(form, modalities=2):
    options = {"modalities": NAMES[:modalities], "classes": 4, "loss": cross_entropy, "form": form}
    return make_system(optimizers={"net": optax.sgd(1.0)}, **options)


@functools.cache
def _built(form, modalities=2):
    """The System and the shapes of its state."""
    system = _system(form, modalities)
    image = jax.ShapeDtypeStruct((1, *(27,) * form.ndim, modalities), jnp.float32)
    return system, jax.eval_shape(system.init, KEY, {"image": image})


def _draw(seed, *shape):
    return np.random.default_rng(seed).normal(size=shape).astype(np.float32)


def _image(seed, *shape):
    return jnp.asarray(_draw(seed, *shape))


@pytest.mark.parametrize("modalities", [2, 3])
@pytest.mark.parametrize("row", ROWS)
def test_parameter_counts(row, modalities):
    base, changes, counts = ROWS[row]
    form = dataclasses.replace(base, **changes)
    system, state = _built(form, modalities)
    networks = system.networks(state.params)
    of_two_classes, of_four = counts[2 * modalities - 4 :][:2]
    assert count(state.params) == sum(map(count, networks.values())) == of_four
    # A class is one output of the last layer.
    assert of_four - of_two_classes == count(networks["head"]["scores"]) / 2
    assert list(networks) == (["blocks", "resfuse", "head"] if form.resfuse else ["blocks", "head"])


def test_filters_and_what_the_head_and_the_resfuse_modules_read():
    assert HYPER_DENSE_NET.features() == (25, 25, 25, 50, 50, 50, 75, 75, 75)
    assert HYPER_FUSION_NET.features() == (25, 33, 41, 50, 58, 66, 75, 83, 91)
    for form, inputs in ((HYPER_DENSE_NET, [1800, 4050]), (HYPER_FUSION_NET, [2088, 4698])):
        for modalities, width in zip((2, 3), inputs, strict=True):
            head = _built(form, modalities)[1].params["net"]["head"]
            assert head["hidden_1"]["kernel"].shape[-2] == width
    # The column of the paper's Table 1 for three modalities.
    layers = _built(HYPER_FUSION_NET, 3)[1].params["net"]["resfuse"]
    widths = [layers[f"layer_{layer}"]["stream_2"]["lift"]["kernel"].shape[-1] for layer in range(1, 10)]
    assert widths == [75, 174, 297, 447, 621, 819, 1044, 1293, 1566]


def test_statistics_are_shared_without_fusion_and_by_stream_with_it():
    dense = 2 * (50 + 100 + 150 + 250 + 350 + 450 + 600 + 750)  # mean and variance of what layers 2 to 9 read
    assert count(_built(HYPER_DENSE_NET)[1].stats) == dense
    fused = 2 * (50 + 116 + 198 + 298 + 414 + 546 + 696 + 862)
    assert count(_built(HYPER_FUSION_NET)[1].stats) == 2 * fused


@pytest.mark.parametrize(("ndim", "side", "inner"), [(3, 27, 9), (2, 27, 9), (3, 35, 17)])
def test_nine_voxels_are_lost_on_each_side(ndim, side, inner):
    system, state = _built(dataclasses.replace(HYPER_FUSION_NET, ndim=ndim), 3)
    assert isinstance(system, System)
    assert (system.geometry.ndim, system.geometry.divisor, system.geometry.margin) == (ndim, 1, 9)
    inputs = {"image": jax.ShapeDtypeStruct((2, *(side,) * ndim, 3), jnp.float32)}
    outputs = jax.eval_shape(system.predict, state, inputs)
    assert outputs["segmentation"].shape == (2, *(inner,) * ndim, 4)


SMALL = (2, 1, 3)
STREAMS = 3
CHANNELS_LAST = {"dimension_numbers": ("NHWC", "HWIO", "NHWC")}


def _small(**changes):
    options = {"streams": STREAMS, "classes": 2, "filters": SMALL, "fused": True, "recursive": False}
    options |= {"head_widths": (4,), "head_activation": "none", "remat": False, "dtype": None}
    return HyperDense(**options | changes, kernel_init=he_normal(), head_init=he_normal())


def _variables(network, image):
    """Parameters and statistics that differ from where they start."""
    shapes = jax.eval_shape(lambda x: network.init(KEY, x, train=False), image)
    leaves, tree = jax.tree_util.tree_flatten_with_path(shapes)
    values = []
    for seed, (path, leaf) in enumerate(leaves):
        name, x = path[-1].key, _draw(seed, *leaf.shape)
        scaled = x * np.float32(np.sqrt(2 / np.prod(leaf.shape[:-1])))
        shifted = np.abs(0.3 * x) + np.float32({"bias": 0.0, "mean": 0.0, "slope": 0.1}.get(name, 0.7))
        values.append(scaled if name == "kernel" else shifted)
    return jax.tree.unflatten(tree, values)


def _own_first(params, fused):
    """The weights as the public code holds them, each stream's own features first."""
    order = functools.partial(own_first_order, STREAMS, SMALL)
    weights = {}
    for layer in range(1, len(SMALL) + 1):
        for stream in range(1, STREAMS + 1):
            block = jax.tree.map(lambda x: x, params["blocks"][f"layer_{layer}"][f"stream_{stream}"])
            if layer > 1:
                taken = order(stream, layer - 1)
                block |= {"scale": block["scale"][taken], "bias": block["bias"][taken]}
                block["conv"] = block["conv"] | {"kernel": block["conv"]["kernel"][..., taken, :]}
            if fused:
                rfm = params["resfuse"][f"layer_{layer}"][f"stream_{stream}"]
                lift = {name: x[..., order(stream, layer)] for name, x in rfm["lift"].items()}
                block["rfm"] = {"lift": lift, "slope": rfm["prelu"]["slope"]}
            weights[layer, stream] = block
    width = STREAMS * sum(SMALL)
    rows = np.concatenate([width * (m - 1) + order(m, len(SMALL)) for m in range(1, STREAMS + 1)])
    (first, bias), last = ((p["kernel"][0, 0], p["bias"]) for p in (params["head"][n] for n in ("hidden_1", "scores")))
    return weights, [(first[rows], bias), last]


def _prelu(x, slope):
    return jnp.maximum(x, 0) + slope * jnp.minimum(x, 0)


def _literal(weights, head, image, *, fused, recursive):
    """The public code's forward pass in training mode: a concatenation per stream, batch statistics of each."""
    streams = range(1, STREAMS + 1)
    read, dense = {m: image[..., m - 1 : m] for m in streams}, {}
    for layer in range(1, len(SMALL) + 1):
        newest = {}
        for m in streams:
            w, x = weights[layer, m], read[m]
            if layer > 1:
                x = (x - x.mean((0, 1, 2))) / jnp.sqrt(x.var((0, 1, 2)) + 1e-5) * w["scale"] + w["bias"]
            x, conv = _prelu(x, w["prelu"]["slope"]), w["conv"]
            newest[m] = jax.lax.conv_general_dilated(x, conv["kernel"], (1, 1), "VALID", **CHANNELS_LAST) + conv["bias"]
        for m in streams:
            group = [newest[other] for other in [m, *(other for other in streams if other != m)]]
            older = [] if layer == 1 else [(read[m] if recursive else dense[m])[:, 1:-1, 1:-1]]
            dense[m] = jnp.concatenate([*older, *group], -1)
        for m in streams:
            read[m] = dense[m]
            if fused:
                rfm = weights[layer, m]["rfm"]
                lifted = newest[m] @ rfm["lift"]["kernel"][0, 0] + rfm["lift"]["bias"]
                read[m] = lifted + _prelu(dense[m], rfm["slope"])
    x = jnp.concatenate([read[m] for m in streams], -1)
    for kernel, bias in head:
        x = x @ kernel + bias
    return x


@pytest.mark.parametrize(("fused", "recursive"), [(False, False), (True, False), (True, True)])
def test_one_canonical_tensor_is_the_same_network_as_one_per_stream(fused, recursive):
    network = _small(fused=fused, recursive=recursive)
    image = _image(0, 2, 10, 9, STREAMS)
    variables = _variables(network, image)
    logits, _ = jax.jit(lambda v, x: network.apply(v, x, train=True, mutable=["batch_stats"]))(variables, image)
    expected = jax.jit(lambda v, x: _literal(*_own_first(v["params"], fused), x, fused=fused, recursive=recursive))
    assert float(logits.std()) > 0.1
    np.testing.assert_allclose(logits, expected(variables, image), atol=2e-5 * float(jnp.abs(logits).max()))


def _gradient(network, variables, image, label, *, train):
    """By parameters, and the statistics after the batch."""

    def loss(params):
        logits, changed = network.apply(variables | {"params": params}, image, train=train, mutable=["batch_stats"])
        return cross_entropy(logits, label), changed["batch_stats"]

    return jax.jit(jax.grad(loss, has_aux=True))(variables["params"])


@pytest.fixture(scope="module")
def example():
    """A fused network of two streams and three layers, its variables, images and labels."""
    network, image = _small(streams=2), _image(0, 2, 10, 9, 2)
    label = jnp.asarray(np.random.default_rng(1).integers(0, 2, (2, 4, 3), np.int32))
    return network, _variables(network, image), image, label


@pytest.fixture(scope="module")
def trained(example):
    """Its gradient by the statistics of the batch, and the running ones afterwards."""
    return _gradient(*example, train=True)


def test_a_gradient_reaches_every_parameter(example):
    gradient, stats = _gradient(*example, train=False)
    for path, leaf in jax.tree_util.tree_leaves_with_path(gradient):
        assert float(jnp.abs(leaf).max()) > 1e-4, jax.tree_util.keystr(path)
    same(stats, example[1]["batch_stats"])


def test_training_normalizes_away_the_biases_of_resfuse_modules_but_the_last(trained):
    layers = trained[0]["resfuse"]
    sizes = [float(jnp.abs(layers[f"layer_{layer}"]["stream_1"]["lift"]["bias"]).max()) for layer in (1, 2, 3)]
    assert max(sizes[:2]) < 1e-6
    assert sizes[2] > 1e-2


def test_training_moves_the_running_statistics_a_tenth_of_the_way(example, trained):
    """By those of what the second stream reads after layer 1, here in NumPy."""
    _, variables, image, _ = example
    params, maps = variables["params"], []
    for stream, block in enumerate(params["blocks"]["layer_1"].values()):
        x = np.asarray(_prelu(image[..., stream], block["prelu"]["slope"]))
        windows = np.lib.stride_tricks.sliding_window_view(x, (3, 3), (1, 2))
        kernel = block["conv"]["kernel"][:, :, 0]
        maps.append(np.einsum("bhwij,ijk->bhwk", windows, kernel) + block["conv"]["bias"])
    rfm = params["resfuse"]["layer_1"]["stream_2"]
    read = maps[1] @ rfm["lift"]["kernel"][0, 0] + rfm["lift"]["bias"]
    read = read + _prelu(np.concatenate(maps, -1), rfm["prelu"]["slope"])
    before, after = (stats["blocks"]["layer_2"]["moments_stream_2"] for stats in (variables["batch_stats"], trained[1]))
    for name, found in (("mean", read.mean((0, 1, 2))), ("variance", read.var((0, 1, 2)))):
        np.testing.assert_allclose(after[name], 0.9 * before[name] + 0.1 * found, rtol=1e-4)


@pytest.mark.parametrize(("layers", "recursive"), [(3, False), (2, True)])
def test_remat_changes_no_gradient(layers, recursive):
    side, label = 2 * layers + 1, jnp.array([[[0]], [[1]]])
    form, image = {"streams": 2, "filters": (1,) * layers, "recursive": recursive}, _image(0, 2, side, side, 2)
    variables = _variables(_small(**form), image)
    kept, again = (_gradient(_small(**form, remat=r), variables, image, label, train=True) for r in (False, True))
    close(again, kept, relative=1e-3)


@pytest.mark.parametrize("fused", [False, True])
def test_with_remat_each_output_of_a_convolution_is_kept_once_for_the_backward_pass(fused):
    """By the numbers of the images kept: the input and what the head reads and computes besides."""
    kept = {}
    for remat in (False, True):
        network = _small(streams=2, filters=(3,) * 9, fused=fused, remat=remat)
        saved, _ = kept_in_training(network, shape(1, 27, 27, 2))
        kept[remat] = sum(leaf.size for leaf in saved if leaf.ndim == 4 and leaf.shape[1] > 3)
    outputs = sum(2 * 3 * (27 - 2 * layer) ** 2 for layer in range(1, 10))
    width = 2 * 9 * 3
    head = 9 * 9 * (4 + (2 + 2 + 2 if fused else 1) * width)
    assert outputs <= kept[True] <= outputs + 2 * 27**2 + head
    assert kept[False] > 4 * kept[True]


@pytest.fixture(scope="module")
def slices():
    """Image -> logits of a 2D network of nine layers, by its running statistics."""
    network = _small(streams=2, filters=(1,) * 9, fused=False)
    variables = jax.tree.map(jnp.asarray, _variables(network, _image(0, 1, 19, 19, 2)))
    return lambda image: network.apply(variables, image, train=False)


def test_the_receptive_field_is_19_voxels(slices):
    image = _image(0, 1, 21, 21, 2)
    reached = np.array(jax.jit(jax.grad(lambda x: slices(x)[0, 1, 1, 0]))(image))[0]
    # A voxel 9 away from the center moves it, one that is 10 away does not.
    assert (reached[1:20, 1:20] != 0).all()
    reached[1:20, 1:20] = 0
    assert not reached.any()


def test_a_large_tile_answers_as_small_ones(slices):
    image = _image(1, 1, 21, 19, 2)
    large = jax.jit(slices)(image)[0]
    small = jax.jit(slices)(jnp.concatenate([image[:, i : i + 19] for i in range(3)]))[:, 0]
    assert float(large.std()) > 0.1
    np.testing.assert_allclose(large, small, atol=1e-5)


def test_volumes_of_equal_slices_are_answered_as_one_slice():
    """Kernels along depth that are 0 but in the middle make a 3D network of a 2D one."""
    network, image = _small(streams=2, filters=(2, 1)), _image(2, 1, 6, 5, 2)
    variables = _variables(network, image)

    def deepen(path, x):
        if path[-1].key != "kernel":
            return x
        return x[None] if x.shape[0] == 1 else np.stack([0 * x, x, 0 * x])

    stack = np.repeat(image[:, None], 6, axis=1)
    apply = jax.jit(lambda v, x: network.apply(v, x, train=False))
    flat = apply(variables, image)
    deep = apply(jax.tree_util.tree_map_with_path(deepen, variables), stack)
    np.testing.assert_allclose(deep, np.repeat(flat[:, None], 2, axis=1), atol=1e-5)


def test_in_bfloat16_weights_statistics_and_logits_stay_float32():
    image = _image(0, 1, 6, 5, 2)
    networks = [_small(streams=2, filters=(2, 1), dtype=dtype) for dtype in (jnp.bfloat16, None)]
    variables = _variables(networks[0], image)
    shapes = jax.eval_shape(lambda x: networks[0].init(KEY, x, train=True), image)
    assert {x.dtype for x in jax.tree.leaves(shapes)} == {np.dtype("float32")}
    logits, exact = (jax.jit(lambda v, x, n=n: n.apply(v, x, train=False))(variables, image) for n in networks)
    assert logits.dtype == jnp.float32
    assert 0 < float(jnp.abs(logits - exact).max()) < 0.05 * float(jnp.abs(exact).max())


def test_kernels_keep_the_variance_through_what_follows_them():
    shape, key = (1, 1, 100, 900), jax.random.key(0, impl="rbg")
    for activation, head in (("none", 1.0), ("prelu", 2 / (1 + 0.25**2))):
        network = dataclasses.replace(HYPER_DENSE_NET, head_activation=activation).module(2, 4)
        for init, gain in ((network.kernel_init, 2 / (1 + 0.25**2)), (network.head_init, head)):
            np.testing.assert_allclose(init(key, shape, jnp.float32).var() * 100, gain, rtol=0.03)


def test_an_activated_head_has_a_slope_per_hidden_layer():
    activated = dataclasses.replace(HYPER_DENSE_NET, head_activation="prelu")
    plain, more = (_built(form)[1].params for form in (HYPER_DENSE_NET, activated))
    assert count(more) == count(plain) + 3


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"filters": "grown"}, "filters is 'grown'; choose one of stepped, incremental"),
        ({"head_activation": "relu"}, "head_activation is 'relu'"),
        ({"dtype": "float16"}, "dtype is 'float16'"),
        ({"ndim": 1}, "ndim is 1; choose one of 2, 3"),
        ({"width": 0}, "give positive numbers"),
        ({"recursive": True, "resfuse": False}, "recursive is True and resfuse False"),
    ],
)
def test_a_form_that_cannot_be_is_refused(changes, message):
    refused(message, _system, dataclasses.replace(HYPER_FUSION_NET, **changes))


@pytest.mark.parametrize("shape", [(1, 18, 27, 27, 2), (1, 27, 27, 27, 3), (1, 27, 2)])
def test_an_image_that_it_cannot_read_is_refused(shape):
    network = _system(HYPER_FUSION_NET).network
    with pytest.raises(UserError, match="9 valid convolutions and 2 modalities"):
        jax.eval_shape(network.init, KEY, jax.ShapeDtypeStruct(shape, jnp.float32))
