"""Hi-Net's networks: counts and shapes of the paper's size, each against its description, initial values, refusals."""

import functools
import re

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jaxfuse.models.hinet.critic import LEAST_SIDE, Critic
from jaxfuse.models.hinet.form import HiNetForm
from jaxfuse.models.hinet.fusion import concatenated, mixed
from jaxfuse.models.hinet.layers import EncoderStage
from jaxfuse.models.hinet.networks import GENERATORS
from tests.refusals import refused
from tests.tiny_systems import KEY, abstract, count, counts, drawn_for, kept_in_training, shape, size_bytes

T1_T2 = ("t1", "t2")
TINY = {"width": 2, "critic_width": 2}


def _generator(sources=T1_T2, **changes):
    form = HiNetForm(**changes)
    return GENERATORS[form.kind](form, sources)


def _abstract(module, side=128, channels=2):
    return abstract(module, 1, side, side, channels)


def test_parameters_by_piece():
    _, variables = _abstract(_generator())
    params = variables["params"]
    for name in T1_T2:
        assert counts(params[f"encoder_{name}"]) == {"stage_1": 9_696, "stage_2": 55_680, "stage_3": 221_952}
        assert count(params[f"decoder_{name}"]) == 434_785
    assert counts(params["fusion"]) == {"block_1": 46_368, "block_2": 258_624, "block_3": 738_048}
    blocks = {"block_1": 590_400, "block_2": 147_744, "block_3": 46_272}
    assert counts(params["synthesis"]) == blocks | {"layer_1": 295_680, "layer_2": 295_296, "image": 9_601}
    assert count(variables["batch_stats"]) == 6_208
    _, late = _abstract(_generator(kind="late"))
    assert sum(count(tree) for name, tree in late["params"].items() if "decoder" not in name) == 2_153_185


@pytest.mark.parametrize(
    ("changes", "channels", "trainable", "running"),
    [
        ({}, 1, 391_041, 896),
        ({"critic_first_norm": True}, 1, 391_105, 960),
        # Two channels more, nine weights each for 32 features.
        ({"conditional": True}, 3, 391_041 + 2 * 9 * 32, 896),
    ],
    ids=str,
)
def test_parameters_and_scores_of_the_critic(changes, channels, trainable, running):
    scores, variables = _abstract(Critic(HiNetForm(**changes)), channels=channels)
    assert (count(variables["params"]), count(variables["batch_stats"])) == (trainable, running)
    assert scores.shape == (1, 6, 6, 1)


def _shapes_within(module, channels=2):
    """The shapes of what every module inside gives, by its path, for a patch of the paper's size."""
    image = shape(1, 128, 128, channels)
    outputs = jax.eval_shape(lambda x: module.init_with_output(KEY, x, capture_intermediates=True), image)[1]
    leaves = jax.tree_util.tree_leaves_with_path(outputs["intermediates"], is_leaf=lambda leaf: isinstance(leaf, tuple))
    found = {"/".join(key.key for key in path[:-1]): calls[0] for path, calls in leaves}
    return jax.tree.map(lambda leaf: leaf.shape[1:], found)


def _numbered(shapes, path):
    return [shape for name, shape in sorted(shapes.items()) if re.fullmatch(rf"{path}_\d", name)]


def test_shapes_of_every_part_at_the_paper_patch():
    shapes = _shapes_within(_generator())
    pyramid = [(64, 64, 32), (32, 32, 64), (16, 16, 128)]
    for name in T1_T2:
        assert shapes[f"encoder_{name}/stage_1/layer_2"] == (128, 128, 32)
        assert _numbered(shapes, f"encoder_{name}/stage") == list(shapes[f"encoder_{name}"]) == pyramid
        assert _numbered(shapes, f"decoder_{name}/stage") == [(32, 32, 128), (64, 64, 64), (128, 128, 32)]
        assert shapes[f"decoder_{name}"] == (128, 128, 1)
    assert _numbered(shapes, "fusion/block") == [(64, 64, 64), (32, 32, 128), (16, 16, 128)]
    assert shapes["fusion"] == (16, 16, 128)
    assert _numbered(shapes, "synthesis/layer") == [(16, 16, 256), (16, 16, 128)]
    # Each block's map is doubled before the next one.
    assert _numbered(shapes, "synthesis/block") == [(16, 16, 64), (32, 32, 32), (64, 64, 32)]
    assert shapes["synthesis/image/layer"] == (128, 128, 32)
    assert shapes["synthesis"] == (128, 128, 1)


def test_shapes_of_the_critic_at_the_paper_patch():
    shapes = _shapes_within(Critic(HiNetForm()), channels=1)
    assert _numbered(shapes, "down") == [(64, 64, 32), (32, 32, 64), (16, 16, 128), (8, 8, 256)]
    assert shapes["score"] == (6, 6, 1)


def test_three_sources_widen_no_mixed_block_and_every_concatenating_one():
    two, three = (_abstract(_generator(("t1", "t1ce", "t2")[:n]), 16, n)[1]["params"] for n in (2, 3))
    assert count(three) == count(two) + 287_328 + 434_785
    joined = _abstract(_generator(("t1", "t1ce", "t2"), fusion_block="concatenate"), 16, 3)[1]["params"]
    # Three maps of 32, 64 and 128 channels come to the width of sum, product and maximum.
    assert count(joined["fusion"]) == count(two["fusion"])
    late = [_abstract(_generator(("t1", "t1ce", "t2")[:n], kind="late"), 16, n)[1]["params"] for n in (2, 3)]
    kernels = 9 * (128 * 256 + 128 * 128 + 64 * 64 + 32 * 32)
    assert count(late[1]["synthesis"]) - count(late[0]["synthesis"]) == kernels


def test_joins_by_hand():
    maps = [jnp.full((1, 1, 1, 1), value) for value in (2.0, -3.0, 5.0)]
    np.testing.assert_array_equal(mixed(maps[:2]).ravel(), [-1, -6, 2])
    np.testing.assert_array_equal(mixed(maps).ravel(), [4, -30, 5])
    np.testing.assert_array_equal(concatenated(maps).ravel(), [2, -3, 5])


class Described:
    """The networks as their description has them, with trained statistics; each name is a path in the parameters."""

    def __init__(self, variables, fused, eps=1e-5):
        self.params, self.stats = variables["params"], variables["batch_stats"]
        # The activation of fusion network and first layer of the synthesis network.
        self.fused, self.eps = fused, eps

    def conv(self, x, path, stride=1, padding=1):
        p = self._at(self.params, path)
        pads, order = [(padding, padding)] * 2, ("NHWC", "HWIO", "NHWC")
        return jax.lax.conv_general_dilated(x, p["kernel"], (stride, stride), pads, dimension_numbers=order) + p["bias"]

    def norm(self, x, path):
        p, s = self._at(self.params, path), self._at(self.stats, path)
        return (x - s["mean"]) / jnp.sqrt(s["var"] + self.eps) * p["scale"] + p["bias"]

    def layer(self, x, path, act):
        return act(self.norm(self.conv(x, f"{path}/conv"), f"{path}/norm"))

    def encoder(self, x, path):
        maps = []
        for stage in ("stage_1", "stage_2", "stage_3"):
            for layer in ("layer_1", "layer_2"):
                x = self.layer(x, f"{path}/{stage}/{layer}", leaky)
            x = pool(x)
            maps.append(x)
        return maps

    def decoder(self, x, path):
        for stage, layers in (("stage_1", 1), ("stage_2", 2), ("stage_3", 2)):
            for layer in range(1, layers + 1):
                x = self.layer(x, f"{path}/{stage}/layer_{layer}", relu)
            x = double(x)
        return self.image(x, f"{path}/image")

    def image(self, x, path):
        return jnp.tanh(self.conv(self.layer(x, f"{path}/layer", relu), f"{path}/conv"))

    def mfb(self, maps, previous, path, act, join):
        u = self.layer(join(maps), f"{path}/mix", act)
        u = u if previous is None else jnp.concatenate([u, previous], -1)
        return self.layer(u, f"{path}/fuse", act)

    def skip(self, maps, previous, path):
        u = self.layer(jnp.concatenate([*maps, previous], -1), f"{path}/mix", relu)
        return self.layer(u, f"{path}/fuse", relu)

    def synthesis(self, x, levels, block):
        x = self.layer(x, "synthesis/layer_1", self.fused)
        x = self.layer(x, "synthesis/layer_2", relu)
        for number in (1, 2, 3):
            x = double(block(levels[3 - number], x, f"synthesis/block_{number}"))
        return self.image(x, "synthesis/image")

    def autoencoded(self, image, sources):
        each = [self.encoder(image[..., i : i + 1], f"encoder_{name}") for i, name in enumerate(sources)]
        copies = [self.decoder(maps[-1], f"decoder_{name}") for maps, name in zip(each, sources, strict=True)]
        return [[maps[level] for maps in each] for level in range(3)], copies

    def hybrid(self, image, sources, fuse, make):
        levels, copies = self.autoencoded(image, sources)
        x = self.mfb(levels[0], None, "fusion/block_1", self.fused, fuse)
        x = self.mfb(levels[1], pool(x), "fusion/block_2", self.fused, fuse)
        x = self.mfb(levels[2], pool(x), "fusion/block_3", self.fused, fuse)
        target = self.synthesis(x, levels, lambda maps, x, path: self.mfb(maps, x, path, relu, make))
        return jnp.concatenate([target, *copies], -1)

    def early(self, image):
        maps = self.encoder(image, "encoder")
        return self.synthesis(maps[-1], [[one] for one in maps], self.skip)

    def late(self, image, sources):
        levels, copies = self.autoencoded(image, sources)
        target = self.synthesis(jnp.concatenate(levels[-1], -1), levels, self.skip)
        return jnp.concatenate([target, *copies], -1)

    def critic(self, x):
        x = leaky(self.conv(x, "down_1", 2))
        for layer in (2, 3, 4):
            x = leaky(self.norm(self.conv(x, f"down_{layer}", 2), f"norm_{layer}"))
        return self.conv(x, "score", padding=0)

    @staticmethod
    def _at(tree, path):
        return functools.reduce(lambda tree, name: tree[name], path.split("/"), tree)


def leaky(x):
    return jnp.where(x > 0, x, 0.2 * x)


def relu(x):
    return jnp.where(x > 0, x, 0.0)


def pool(x):
    return jax.lax.reduce_window(x, -jnp.inf, jax.lax.max, (1, 2, 2, 1), (1, 2, 2, 1), "VALID")


def double(x):
    return x.repeat(2, axis=1).repeat(2, axis=2)


def three(maps):
    return jnp.concatenate([sum(maps), functools.reduce(jnp.multiply, maps), functools.reduce(jnp.maximum, maps)], -1)


@functools.partial(jax.jit, static_argnums=0)
def _both(case, variables, image):
    name, sources = case
    described = Described(variables, relu if name == "mixed synthesis" else leaky)
    if name == "hybrid":
        return _generator(sources, **TINY).apply(variables, image), described.hybrid(image, sources, three, three)
    if name == "mixed synthesis":
        network = _generator(sources, **TINY, fusion_block="concatenate", activation_fusion="relu")
        return network.apply(variables, image), described.hybrid(image, sources, concatenated, three)
    network = _generator(sources, **TINY, kind=name)
    expected = described.early(image) if name == "early" else described.late(image, sources)
    return network.apply(variables, image), expected


IMAGES = jax.random.normal(KEY, (1, 16, 8, 3))


@pytest.mark.parametrize(
    ("name", "sources", "changes"),
    [
        ("hybrid", ("t1", "t1ce", "t2"), {}),
        ("mixed synthesis", T1_T2, {"fusion_block": "concatenate"}),
        ("early", T1_T2, {"kind": "early"}),
        ("late", T1_T2, {"kind": "late"}),
    ],
)
def test_generators_are_those_of_their_description(name, sources, changes):
    image = IMAGES[..., : len(sources)]
    # Values of 0.3 keep tanh off its ends.
    variables = drawn_for(_generator(sources, **TINY, **changes), image, scale=0.3, positive=("var", "scale"))
    made, expected = _both((name, sources), variables, image)
    np.testing.assert_allclose(made, expected, atol=1e-4)
    # The images are neither flat nor at the ends of tanh, where all would agree.
    assert float(made.std((1, 2)).min()) > 0.01
    assert float(jnp.abs(made).min((0, 1, 2)).max()) < 0.9


def test_the_critic_is_that_of_its_description():
    critic = Critic(HiNetForm(**TINY))
    image = jax.random.normal(KEY, (1, 64, 48, 1))
    variables = drawn_for(critic, image, scale=0.3, positive=("var", "scale"))
    scores, expected = jax.jit(lambda v: (critic.apply(v, image), Described(v, None, eps=0.8).critic(image)))(variables)
    assert scores.shape == (1, 2, 1, 1)
    np.testing.assert_allclose(scores, expected, atol=1e-5)
    # The variance counts for little where 0.8 is added to it.
    usual = Critic(HiNetForm(**TINY, critic_norm_eps=1e-5))
    assert float(jnp.abs(jax.jit(usual.apply)(variables, image) - expected).max()) > 1e-3


def test_initial_values_are_those_of_the_public_code_but_for_biases():
    stage = EncoderStage(HiNetForm(), False, 64)
    params = jax.jit(stage.init)(KEY, jnp.zeros((1, 2, 2, 32)))["params"]["layer_2"]
    kernel, scale = params["conv"]["kernel"], params["norm"]["scale"]
    np.testing.assert_allclose([kernel.mean(), kernel.std()], [0.0, 0.02], atol=0.001)
    # 64 values: the standard error of mean and standard deviation is about 0.0025 and 0.0018.
    assert abs(float(scale.mean()) - 1.0) < 0.01
    assert 0.012 < float(scale.std()) < 0.028
    assert not any(np.any(params[layer]["bias"]) for layer in ("conv", "norm"))


def test_what_stays_float32_in_bfloat16():
    form = HiNetForm(dtype="bfloat16")
    for module, channels in ((_generator(dtype="bfloat16"), 2), (Critic(form), 1)):
        output, variables = _abstract(module, 64, channels)
        assert {leaf.dtype for leaf in (output, *jax.tree.leaves(variables))} == {jnp.dtype("float32")}
    stage = EncoderStage(form, False, 32)
    features, _ = jax.eval_shape(lambda x: stage.init_with_output(KEY, x), jnp.zeros((1, 8, 8, 1)))
    assert features.dtype == jnp.bfloat16


def test_recomputing_blocks_keeps_less_and_names_parameters_alike():
    image = shape(1, 32, 32, 2)
    (recomputed, variables), (plain, same) = (kept_in_training(_generator(remat=r), image) for r in (True, False))
    assert variables == same
    assert size_bytes(recomputed) < 0.7 * size_bytes(plain)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"kind": "middle"}, "kind is 'middle'; choose one of hybrid, early, late"),
        ({"fusion_block": "sum"}, "fusion_block is 'sum'; choose one of mixed, concatenate"),
        ({"synthesis_block": "sum"}, "synthesis_block is 'sum'; choose one of mixed, concatenate"),
        ({"activation_fusion": "gelu"}, "activation_fusion is 'gelu'; choose one of leaky_relu, relu"),
        ({"dtype": "float16"}, "dtype is 'float16'; choose one of float32, bfloat16"),
        ({"width": 0}, "width is 0; give a positive number"),
        ({"critic_norm_eps": 0.0}, "critic_norm_eps is 0.0; give a positive number"),
        ({"norm_decay": 1.0}, "norm_decay is 1.0; give a rate from 0 to below 1"),
        ({"kind": "late", "fusion_block": "concatenate"}, "kind 'late' has no such block; remove it"),
        ({"kind": "early", "synthesis_block": "concatenate"}, "kind 'early' has no such block; remove it"),
    ],
    ids=str,
)
def test_forms_that_do_not_exist_are_refused(changes, message):
    refused(message, HiNetForm(**changes).check)


def test_slices_that_do_not_fit_are_refused():
    for kind in GENERATORS:
        refused(r"multiples of 8, got shape \(1, 16, 12, 2\)", abstract, _generator(kind=kind), 1, 16, 12, 2)
        refused("the sources t1, t2, got slices of 3 channels", abstract, _generator(kind=kind), 1, 16, 16, 3)


def test_the_critic_names_the_least_side_that_works():
    assert _abstract(Critic(HiNetForm()), LEAST_SIDE, 1)[0].shape == (1, 1, 1, 1)
    refused(r"least 33 pixels, got \(32, 32\); use larger patches", _abstract, Critic(HiNetForm()), LEAST_SIDE - 1, 1)
