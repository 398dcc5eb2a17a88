"""Parameter counts, shapes, exposed features and rematerialization of the U-Net trunk."""

from collections import Counter

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jaxfuse.nn.conv import ConvNormAct
from jaxfuse.nn.initializers import he_normal
from jaxfuse.nn.unet import Features, Head, UNet, upsample_nearest
from tests.refusals import refused
from tests.tiny_systems import abstract, close, count, counts, kept_bytes, shape

KEY = jax.random.key(0, impl="rbg")
SMALL, PAPER = UNet(base=2, levels=2, kernel_init=he_normal()), shape(1, 128, 128, 128, 2)


def _kept_bytes(module, image):
    return kept_bytes(lambda p, x: module.apply(p, x).last, jax.eval_shape(module.init, KEY, image), image)


@pytest.mark.parametrize(
    ("arch", "channels", "weights"),
    [("residual", 2, 8_261_728), ("residual", 1, 8_261_296), ("plain", 2, 5_882_976), ("plain", 1, 5_882_544)],
)
def test_parameter_counts(arch, channels, weights):
    assert count(abstract(UNet(arch=arch), 1, 32, 32, 32, channels)[1]) == weights


def test_parameter_counts_of_heads_and_of_the_flat_network_for_photographs():
    assert [count(abstract(Head(classes), 1, 32, 32, 32, 16)[1]) for classes in (1, 2, 4)] == [17, 34, 68]
    trunk, head = abstract(UNet(), 1, 32, 32, 3)[1], abstract(Head(21), 1, 32, 32, 16)[1]
    assert count(trunk) + count(head) == 2_768_917


def test_parameter_count_by_part():
    levels = abstract(UNet(), 1, 32, 32, 32, 2)[1]["params"].values()
    encoder = {"entry": 1_175_904, "context_1": 2_356_992, "context_2": 2_356_992}
    decoder = {"up": 1_175_040, "localize_1": 1_175_040, "localize_2": 21_760}
    assert sum((Counter(counts(level)) for level in levels), Counter()) == encoder | decoder


def test_features_have_full_resolution_and_base_width():
    for sides in ((1, 128, 128, 128, 2), (2, 64, 32, 3)):
        features = abstract(UNet(), *sides)[0]
        assert isinstance(features, Features)
        assert features.penultimate.shape == features.last.shape == (*sides[:-1], 16)


@pytest.mark.parametrize(("arch", "kernel"), [("residual", 1), ("plain", 3)])
def test_last_is_one_block_after_penultimate(arch, kernel):
    module = SMALL.clone(arch=arch)
    features, params = jax.jit(module.init_with_output)(KEY, jax.random.normal(KEY, (1, 8, 8, 2)))
    block = {"params": params["params"]["decoder_1"]["localize_2"]}
    expected = ConvNormAct(2, kernel).apply(block, features.penultimate)
    np.testing.assert_allclose(features.last, expected, atol=1e-6)
    assert jnp.abs(features.last - features.penultimate).max() > 0.1


def test_residual_encoder_adds_its_entry():
    image = jax.random.normal(KEY, (1, 8, 8, 2))
    params = jax.jit(SMALL.init)(KEY, image)
    level = params["params"]["encoder_1"]
    block = jax.jit(lambda name, x: ConvNormAct(2, 3).apply({"params": level[name]}, x), static_argnums=0)
    entry = block("entry", image)
    expected = entry + block("context_2", block("context_1", entry))
    _, state = jax.jit(lambda p: SMALL.apply(p, image, capture_intermediates=True, mutable=["intermediates"]))(params)
    np.testing.assert_allclose(state["intermediates"]["encoder_1"]["__call__"][0], expected, atol=1e-6)


def test_remat_changes_neither_parameters_nor_gradients():
    image = jax.random.normal(KEY, (1, 4, 4, 1))
    kept = UNet(base=1, levels=2, kernel_init=he_normal())
    recomputed = kept.clone(remat=True)
    params = jax.jit(kept.init)(KEY, image)
    assert jax.eval_shape(recomputed.init, KEY, image) == jax.eval_shape(kept.init, KEY, image)
    modules = (kept, recomputed)
    close(*(jax.jit(jax.grad(lambda p, m=m: jnp.sum(jnp.sin(m.apply(p, image).last))))(params) for m in modules), 1e-5)


@pytest.mark.slow
def test_remat_keeps_a_tenth_at_the_paper_size():
    # Compiled memory would not show it on CPU, where the barriers that force recomputation are dropped.
    kept = _kept_bytes(UNet(), PAPER)
    assert 3.5e9 < kept < 4.2e9
    assert _kept_bytes(UNet(remat=True), PAPER) < 0.1 * kept


def test_bfloat16_is_close_and_keeps_less():
    image = jax.random.normal(KEY, (1, 16, 16, 2))
    module = UNet(base=4, levels=2, kernel_init=he_normal())
    params = jax.jit(module.init)(KEY, image)
    full, half = (jax.jit(m.apply)(params, image) for m in (module, module.clone(dtype=jnp.bfloat16)))
    assert half.last.dtype == half.penultimate.dtype == jnp.bfloat16
    assert jnp.corrcoef(full.last.ravel(), half.last.astype(jnp.float32).ravel())[0, 1] > 0.995
    assert jax.eval_shape(lambda x: Head(2).init_with_output(KEY, x)[0], half.last).dtype == jnp.float32
    assert _kept_bytes(UNet(remat=True, dtype=jnp.bfloat16), PAPER) < 0.65 * _kept_bytes(UNet(remat=True), PAPER)


def test_refusals_say_what_came():
    refused(r"divisible by 16, got shape \(1, 32, 30, 32, 2\)", abstract, UNet(), 1, 32, 30, 32, 2)
    refused("'dense' is not known; choose one of residual, plain", abstract, UNet(arch="dense"), 1, 32, 32, 32, 2)
    refused("at least 2 levels, got 1", abstract, UNet(levels=1), 1, 32, 32, 32, 2)
    refused("single voxel", abstract, UNet(), 1, 16, 16, 16, 2)


@pytest.mark.parametrize("sides", [(2, 3), (2, 3, 4)])
def test_upsample_repeats_voxels_and_its_gradient_sums_blocks(sides):
    x = jnp.arange(2.0 * np.prod(sides) * 2).reshape(2, *sides, 2)
    y, backward = jax.vjp(upsample_nearest, x)
    np.testing.assert_array_equal(y, np.kron(x, np.ones((1, *[2] * len(sides), 1))))
    np.testing.assert_array_equal(backward(y)[0], 2 ** len(sides) * x)
