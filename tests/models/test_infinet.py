"""InfiNet: the parameters of every reading, the network against its description, its field of view, its System."""

import dataclasses

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jaxfuse.losses.overlap import dice_and_cross_entropy
from jaxfuse.models.infinet import Arm, InfiNetForm, make_system
from tests.refusals import refused
from tests.tiny_systems import KEY, abstract, close, count, counts, drawn_for, gradient_descent, kept_in_training, shape

T1_T2 = ("t1", "t2")
TINY = InfiNetForm(width=4, blocks=2)
IMAGE = jax.random.normal(KEY, (2, 8, 8, 2))


def _abstract(form, side=32, classes=4):
    return abstract(form.network(T1_T2, classes), 1, side, side, 2)


def _tiny_system(tiny, form=TINY, **changes):
    options = {"modalities": T1_T2, "classes": 3, "loss": dice_and_cross_entropy} | changes
    return make_system(optimizers=gradient_descent("net"), form=form, **options)


# Reading of the paper -> trainable parameters, and with running statistics.
COUNTS = [
    ({}, 731_784, 736_012),
    ({"input_bn": False}, 731_780, 736_004),
    ({"fused_bn": False}, 730_632, 733_708),
    ({"input_bn": False, "fused_bn": False}, 730_628, 733_700),
    ({"bias": False}, 730_628, 734_856),
    ({"convs_per_block": 1}, 509_448, 512_908),
    ({"convs_per_block": 1, "input_bn": False, "fused_bn": False}, 508_292, 510_596),
    ({"convs_per_block": 1, "input_bn": False, "fused_bn": False, "mix_kernel": 3}, 704_900, 707_204),
    ({"convs_per_block": 1, "blocks": 4}, 703_368, 707_980),
    ({"blocks": 4}, 999_816, 1_005_452),
    ({"single_encoder": True}, 422_664, 425_356),
]


@pytest.mark.parametrize(("changes", "trainable", "total"), COUNTS, ids=lambda value: str(value))
def test_parameters_of_every_reading(changes, trainable, total):
    logits, variables = _abstract(InfiNetForm(**changes))
    assert (count(variables["params"]), count(variables)) == (trainable, total)
    assert logits.shape == (1, 32, 32, 4)


def test_parameters_by_part_and_of_three_classes():
    _, variables = _abstract(InfiNetForm())
    parts = counts(variables["params"])
    fusions = {f"fusion_{level}": 119_808 for level in (1, 2, 3)}
    assert parts == {"t1_arm": 186_050, "t2_arm": 186_050, **fusions, "head": 260}
    _, variables = _abstract(InfiNetForm(), classes=3)
    assert (count(variables["params"]), count(variables)) == (731_719, 735_947)


def test_what_stays_float32_in_bfloat16():
    logits, variables = _abstract(InfiNetForm(dtype="bfloat16"))
    assert {leaf.dtype for leaf in (logits, *jax.tree.leaves(variables))} == {jnp.dtype("float32")}
    arm = Arm(InfiNetForm(dtype="bfloat16"), False)
    encoded, _ = jax.eval_shape(lambda x: arm.init_with_output(KEY, x), jnp.zeros((1, 8, 8, 1)))
    assert {leaf.dtype for leaf in (*encoded.maps, encoded.bottom)} == {jnp.dtype("bfloat16")}


class Described:
    """The network as its description has it, with trained statistics, and unpooling by comparison (all ties)."""

    def __init__(self, variables):
        self.params, self.stats = variables["params"], variables["batch_stats"]

    def conv(self, x, *path):
        p = self._at(self.params, path)
        y = jax.lax.conv_general_dilated(x, p["kernel"], (1, 1), "SAME", dimension_numbers=("NHWC", "HWIO", "NHWC"))
        return y + p["bias"]

    def norm(self, x, *path):
        p, s = self._at(self.params, path), self._at(self.stats, path)
        return (x - s["mean"]) / jnp.sqrt(s["var"] + 1e-3) * p["scale"] + p["bias"]

    def layer(self, x, *path):
        return self.norm(jnp.maximum(self.conv(x, *path, "conv"), 0), *path, "norm")

    def arm(self, x, name):
        x, maps = self.norm(x, name, "input_norm"), []
        for block in ("block_1", "block_2"):
            maps.append(self.layer(self.layer(x, name, block, "layer_1"), name, block, "layer_2"))
            x = self.pool(maps[-1])
        return maps, x

    def fuse(self, a, b, map_a, map_b, name):
        x = jnp.concatenate([self.unpool(a, map_a), self.unpool(b, map_b)], -1)
        x = self.layer(self.norm(x, name, "unpooled_norm"), name, "mix")
        x = jnp.concatenate([x, map_a, map_b], -1)
        return self.layer(self.norm(x, name, "fused_norm"), name, "fuse")

    def __call__(self, image):
        (a1, a2), a = self.arm(image[..., :1], "t1_arm")
        (b1, b2), b = self.arm(image[..., 1:], "t2_arm")
        x = self.fuse(a, b, a2, b2, "fusion_2")
        return self.conv(self.fuse(x, x, a1, b1, "fusion_1"), "head")

    def pool(self, x):
        return jax.lax.reduce_window(x, -jnp.inf, jax.lax.max, (1, 2, 2, 1), (1, 2, 2, 1), "VALID")

    def unpool(self, y, e):
        mask = e >= self.pool(e).repeat(2, axis=1).repeat(2, axis=2)
        return mask * y.repeat(2, axis=1).repeat(2, axis=2)

    @staticmethod
    def _at(tree, path):
        for name in path:
            tree = tree[name]
        return tree


def test_it_is_the_network_of_its_description():
    # A quarter of the image is air: after the input's normalization a constant, so that its maxima tie.
    image = IMAGE.at[:, :6, :6].set(0.0)
    network = dataclasses.replace(TINY, ties="all").network(T1_T2, 3)
    variables = drawn_for(network, image, scale=0.5, positive=("var",))
    answer, expected = jax.jit(lambda v: (network.apply(v, image), Described(v)(image)))(variables)
    scale = float(jnp.abs(expected).max())
    np.testing.assert_allclose(answer, expected, atol=1e-5 * scale)
    other = jax.jit(TINY.network(T1_T2, 3).apply)(variables, image)
    assert float(jnp.abs(other - expected).max()) > 1e-3 * scale


def test_training_takes_the_batch_and_moves_the_statistics():
    network = TINY.network(T1_T2, 3)
    variables = jax.tree.map(lambda leaf: jnp.ones(leaf.shape), jax.eval_shape(network.init, KEY, IMAGE))
    _, after = jax.jit(lambda v: network.apply(v, IMAGE + 3.0, train=True, mutable=["batch_stats"]))(variables)
    stats = after["batch_stats"]["t2_arm"]["input_norm"]
    second = np.asarray(IMAGE[..., 1] + 3.0)
    np.testing.assert_allclose(stats["mean"], [0.99 + 0.01 * second.mean()], rtol=1e-5)
    np.testing.assert_allclose(stats["var"], [0.99 + 0.01 * second.var()], rtol=1e-5)


def _extents(answer, places, rows=64, draws=8):
    """Per place along the first axis of the answer, over how many rows of the image it hears of a change.

    One row at a time is drawn anew, ten times as bright, in several random images; columns are few, to be quick.
    """
    image_key, row_key = jax.random.split(KEY)
    images = jax.random.normal(image_key, (draws, rows, 16, 1))
    other = 10.0 * jax.random.normal(row_key, images.shape)
    drawn_anew = jnp.eye(rows, dtype=bool)[:, None, :, None, None]
    changed = jnp.where(drawn_anew, other, images).reshape(-1, rows, 16, 1)
    before, after = (np.asarray(jax.jit(answer)(x))[:, list(places)] for x in (images, changed))
    difference = np.abs(after.reshape(rows, *before.shape) - before).max((1, 3, 4))
    heard = difference > 1e-4 * np.abs(before).max()
    return [int(np.ptp(np.flatnonzero(place)) + 1) for place in heard.T]


@pytest.mark.parametrize(("convs", "extent"), [(2, 36), (1, 22)])
def test_the_third_pooling_sees_36_pixels(convs, extent):
    arm = Arm(InfiNetForm(width=8, convs_per_block=convs), False)
    variables = jax.jit(arm.init)(KEY, jnp.zeros((1, 64, 16, 1)))

    def pooled(image):
        return arm.apply(variables, image).bottom  # pyright: ignore[reportAttributeAccessIssue]

    assert _extents(pooled, [4]) == [extent]


def test_the_output_sees_44_or_52_pixels():
    """By its place in a window of 8: next to the border it hears of two pooled pixels there, else of three."""
    network = InfiNetForm(width=8, single_encoder=True).network(("t1",), 2)
    variables = jax.jit(network.init)(KEY, jnp.zeros((1, 64, 16, 1)))
    extents = _extents(lambda image: network.apply(variables, image), range(32, 40))
    assert extents == [44, 52, 52, 52, 52, 52, 52, 44]


BATCH = {"image": IMAGE, "label": jax.random.randint(KEY, IMAGE.shape[:3], 0, 3)}
SMALLEST = InfiNetForm(width=2, blocks=2, convs_per_block=1)


@pytest.fixture(scope="module")
def stepped(tiny):
    """A System, and its state before and after a step."""
    system = _tiny_system(tiny, SMALLEST)
    state = jax.jit(system.init)(KEY, BATCH)
    return system, state, jax.jit(system.train_step)(state, BATCH)[0]


def test_a_step_moves_all_but_the_shifts_that_the_next_norm_removes(stepped):
    _, before, after = stepped
    moved = jax.tree.map(
        jnp.subtract, (before.params["net"], before.stats["net"]), (after.params["net"], after.stats["net"])
    )
    params, stats = (jax.tree_util.tree_leaves_with_path(tree) for tree in moved)
    still = {"/".join(key.key for key in path) for path, leaf in params if jnp.abs(leaf).max() < 1e-6}
    assert still == {f"fusion_{level}/mix/norm/bias" for level in (1, 2)}
    for path, leaf in stats:
        # What is normalized twice has mean 0 already.
        assert jnp.abs(leaf).max() > 1e-6 or path[-1].key == "mean", jax.tree_util.keystr(path)


def test_a_slice_is_answered_alike_whatever_its_company(stepped):
    system, _, after = stepped
    predict = jax.jit(lambda image: system.predict(after, {"image": image})["segmentation"])
    probs, other = predict(IMAGE), predict(IMAGE.at[1].set(7.0))
    assert probs.shape == (2, 8, 8, 3)
    np.testing.assert_allclose(probs.sum(-1), 1.0, atol=1e-6)
    np.testing.assert_allclose(probs[0], other[0], atol=1e-6)
    assert jnp.abs(probs[1] - other[1]).max() > 1e-3


def test_recomputing_blocks_changes_neither_gradients_nor_statistics(tiny, stepped):
    _, before, after = stepped
    system = _tiny_system(tiny, dataclasses.replace(SMALLEST, remat=True))
    assert jax.eval_shape(system.init, KEY, BATCH) == jax.eval_shape(lambda: before)
    again = jax.jit(system.train_step)(before, BATCH)[0]
    close(after.params, again.params)
    close(after.stats, again.stats)


def test_recomputing_blocks_keeps_less():
    networks = (InfiNetForm(remat=remat).network(T1_T2, 4) for remat in (True, False))
    recomputed, plain = (count(kept_in_training(network, shape(1, 32, 32, 2))[0]) for network in networks)
    assert recomputed < 0.5 * plain


def test_geometry_and_channels_follow_the_form(tiny):
    system = make_system(optimizers=gradient_descent("net"), modalities=T1_T2, classes=4, loss=dice_and_cross_entropy)
    assert dataclasses.astuple(system.geometry)[:3] == (2, 8, 0)
    assert _tiny_system(tiny).geometry.divisor == 4
    three = _tiny_system(tiny, modalities=("t1", "t2", "flair"))
    state = jax.eval_shape(three.init, KEY, tiny.shapes(8, 8, modalities=3))
    assert {name for name in state.params["net"] if name.endswith("arm")} == {"t1_arm", "t2_arm", "flair_arm"}


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"ties": "last"}, "ties is 'last'; choose one of first, all"),
        ({"dtype": "float16"}, "dtype is 'float16'; choose one of float32, bfloat16"),
        ({"mix_kernel": 2}, "mix_kernel is 2; choose one of 1, 3"),
        ({"blocks": 0}, "blocks is 0; give a positive number"),
        ({"norm_decay": 1.0}, "norm_decay is 1.0; give a rate from 0 to below 1"),
    ],
)
def test_forms_that_do_not_exist_are_refused(changes, message):
    refused(message, dataclasses.replace(TINY, **changes).network, T1_T2, 4)


def test_slices_that_do_not_fit_are_refused():
    network = TINY.network(T1_T2, 4)
    refused("multiples of 4, got shape", abstract, network, 1, 8, 6, 2)
    refused("t1, t2, got slices of 3", abstract, network, 1, 8, 8, 3)
