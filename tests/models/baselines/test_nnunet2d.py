"""The 2D nnU-Net: sizes, resolutions of its heads, the way up, deep supervision, arithmetic."""

from itertools import pairwise

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jaxfuse.models.baselines.nnunet2d import AffineConv, DecoderStage, NNUNet2D
from tests.refusals import refused
from tests.tiny_systems import KEY, count, drawn_for

# Minutes of compiling in all; `-m slow` runs them. The recipe's tiny preset trains in the unmarked suite.
pytestmark = pytest.mark.slow

IMAGE = jax.random.normal(KEY, (1, 16, 16, 1))
SMALL = NNUNet2D(3, stages=4, base=4, most=8)


@pytest.fixture(scope="module")
def params():
    return drawn_for(SMALL, IMAGE, scale=0.3)["params"]


def test_weights_and_resolutions_of_224_pixels():
    image = jax.ShapeDtypeStruct((1, 224, 224, 1), jnp.float32)
    out, variables = jax.eval_shape(lambda image: NNUNet2D(4).init_with_output(KEY, image), image)
    assert out.logits.shape == (1, 224, 224, 4)
    assert [logits.shape for logits in out.auxiliary] == [(1, 112, 112, 4), (1, 56, 56, 4), (1, 28, 28, 4)]
    widths = (32, 64, 128, 256, 512, 512)
    expected = 0
    for stage, width in enumerate(widths):
        before = 1 if stage == 0 else widths[stage - 1]
        expected += 9 * (before + width) * width + 4 * width
    for width, below in pairwise(widths):
        expected += 4 * below * width + width + 9 * (2 * width + width) * width + 4 * width
    expected += sum(4 * width + 4 for width in widths[:4])
    assert count(variables) == expected == 20_614_032


def test_two_stages_have_one_head():
    out, variables = jax.eval_shape(lambda image: NNUNet2D(2, stages=2, base=4).init_with_output(KEY, image), IMAGE)
    assert (out.logits.shape, out.auxiliary) == ((1, 16, 16, 2), ())
    assert {name for name in variables["params"] if "head" in name} == {"head_1"}


def test_a_layer_is_convolution_norm_scale_shift_and_leak():
    module = AffineConv(4, 2)
    p = drawn_for(module, IMAGE, scale=0.3)["params"]
    y = jax.lax.conv_general_dilated(
        IMAGE, p["conv"]["kernel"], (2, 2), [(1, 1)] * 2, dimension_numbers=("NHWC", "HWIO", "NHWC")
    )
    y = (y - y.mean((1, 2), keepdims=True)) / jnp.sqrt(y.var((1, 2), keepdims=True) + 1e-5) * p["scale"] + p["shift"]
    np.testing.assert_allclose(module.apply({"params": p}, IMAGE), jnp.where(y > 0, y, 0.01 * y), atol=1e-5)


def test_the_way_up_is_a_transposed_convolution_of_side_and_stride_two():
    coarse, skip = jax.random.normal(KEY, (1, 3, 2, 6)), jnp.zeros((1, 6, 4, 4))
    module = DecoderStage(4)
    p = drawn_for(module, coarse, skip, scale=0.3)["params"]
    kernel = p["up"]["kernel"].reshape(6, 2, 2, 4)
    expected = np.zeros((6, 4, 4))
    for row in range(6):
        for column in range(4):
            window = kernel[:, row % 2, column % 2]
            expected[row, column] = coarse[0, row // 2, column // 2] @ window + p["up_bias"]
    joined = jnp.concatenate([jnp.asarray(expected, jnp.float32)[None], skip], -1)

    @jax.jit
    def both(p):
        y = joined
        for name in ("conv_1", "conv_2"):
            y = AffineConv(4).apply({"params": p[name]}, y)
        return module.apply({"params": p}, coarse, skip), y

    np.testing.assert_allclose(*both(p), atol=2e-5)


def test_every_head_learns_and_so_does_every_weight(params):
    @jax.jit
    def gradients(params):
        def loss(params):
            out = SMALL.apply({"params": params}, IMAGE)
            return sum(jnp.sin(logits).mean() / 2**i for i, logits in enumerate((out.logits, *out.auxiliary)))

        return jax.grad(loss)(params)

    for path, leaf in jax.tree_util.tree_leaves_with_path(gradients(params)):
        assert jnp.abs(leaf).max() > 1e-7, jax.tree_util.keystr(path)


def test_bfloat16_and_remat_keep_the_weights_and_the_answer(params):
    half = SMALL.clone(dtype=jnp.bfloat16, remat=True)
    drawn = jax.eval_shape(half.init, KEY, IMAGE)["params"]
    assert jax.tree.map(lambda x: (x.shape, x.dtype), drawn) == jax.tree.map(lambda x: (x.shape, x.dtype), params)
    outs = [jax.jit(network.apply)({"params": params}, IMAGE) for network in (SMALL, half)]
    for a, b in zip(*(jax.tree.leaves(out) for out in outs), strict=True):
        assert b.dtype == jnp.float32
        assert jnp.corrcoef(a.ravel(), b.ravel())[0, 1] > 0.99


def test_refusals_say_what_came():
    refused("at least 2 stages, got 1", NNUNet2D(2, stages=1).init, KEY, IMAGE)
    refused(r"divisible by 32, got shape \(1, 16, 16, 1\)", NNUNet2D(2).init, KEY, IMAGE)
