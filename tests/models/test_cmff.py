"""CMFF: counts at the paper's sizes, how masks act, what each loss moves, and rates of the trunks."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jaxfuse.errors import UserError
from jaxfuse.learning.transfer import apply_rules, parse_rule
from jaxfuse.models import cmff, cmft
from jaxfuse.models.cmff import FusionBranch
from jaxfuse.nn.attention import CBAM
from jaxfuse.nn.conv import Conv, ConvNormAct
from jaxfuse.nn.initializers import he_normal
from jaxfuse.nn.unet import Features
from tests.refusals import refused
from tests.tiny_systems import (
    close,
    count,
    counts,
    gradient_descent,
    in_float32,
    kept_bytes,
    largest,
    made,
    minus,
    same,
    slopes,
    structure,
)

DATA = {"modalities": ("t1", "t1ce", "t2", "flair"), "pairs": ("t1+t1ce", "t2+flair")}


def _fusion(tiny, **changes):
    return made(cmff.make_system, optimizers=gradient_descent("net"), **tiny.fusion | changes)


def _paper(tiny, make=cmff.make_system, players=("net",), **changes):
    options = DATA | {"classes": 4, "loss": tiny.fusion["loss"]} | changes
    system = made(make, optimizers=gradient_descent(*players), **options)
    return system, jax.eval_shape(system.init, tiny.key, tiny.shapes(32, 32, 32))


@pytest.mark.parametrize(
    ("changes", "branch", "fusion"),
    [
        ({}, 8_261_796, 166_020),
        ({"arch": "plain"}, 5_883_044, 166_020),
        ({"attention": "plain"}, 8_261_796, 166_020),
        ({"attention": "none"}, 8_261_796, 110_724),
        ({"attention": "cbam"}, 8_261_796, 111_574),
        ({"pairs": ("t1", "flair")}, 8_261_364, 166_020),
        ({"pairs": ("t1", "flair"), "arch": "plain"}, 5_882_612, 166_020),
        # Six products of 32 channels go into the guided convolution instead of two.
        ({"mask_mode": "class"}, 8_261_796, 166_020 + 4 * 32 * 27 * 32),
    ],
)
def test_parameter_counts(tiny, changes, branch, fusion):
    system, state = _paper(tiny, **changes)
    assert counts(system.networks(state.params)) == {"S_A": branch, "S_B": branch, "S_F": fusion}
    assert count(state.params) == 2 * branch + fusion


@pytest.mark.parametrize("side", ["a", "b"])
def test_a_branch_alone_is_the_branch_of_the_whole(tiny, side):
    (_, alone), (_, whole) = _paper(tiny, cmff.make_branch, side=side), _paper(tiny)
    assert structure(alone.params["net"]) == structure(whole.params["net"][f"branch_{side}"])


def test_generator_and_branch_differ_in_the_head_alone_and_the_rest_is_handed_over(tiny):
    optimizers = gradient_descent("generators", "discriminators")
    translation = made(cmft.make_system, optimizers=optimizers, pool_size=0, **DATA)
    donor = jax.eval_shape(translation.init, tiny.key, tiny.shapes(32, 32, 32)).params
    _, state = _paper(tiny)
    # Zeros take the place of the target, ones of the donor: what is one afterwards was handed over.
    ones = jax.tree.map(lambda x: jnp.ones(x.shape), donor)
    zeros = jax.tree.map(lambda x: jnp.zeros(x.shape), state.params)
    for generator, branch in (("ab", "branch_a"), ("ba", "branch_b")):
        given, taking = donor["generators"][generator], state.params["net"][branch]
        assert structure(given["trunk"]) == structure(taking["trunk"])
        assert [net["head"]["conv"]["kernel"].shape[-1] for net in (given, taking)] == [2, 4]
        rule = parse_rule((f"net/{branch}/trunk", f"transition:generators/{generator}/trunk"))
        params, moved = apply_rules(zeros, [rule], {("transition", False): ones})
        arrived = [
            sum(int(leaf.sum()) for leaf in jax.tree.leaves(t)) for t in (params["net"][branch]["trunk"], params)
        ]
        assert [moved, *arrived] == [8_261_728] * 3


def _branch(**changes):
    options = {"width": 3, "classes": 4, "attention": "mask", "mask_mode": "whole", "residual_attention": True}
    return FusionBranch(**options | changes, dtype=jnp.float32, kernel_init=he_normal())


@pytest.fixture(scope="module")
def inputs():
    """Features of both trunks and class probabilities of both branches, at 4^3 voxels."""
    rng = np.random.default_rng(1)

    def draw(channels):
        return jnp.asarray(rng.normal(size=(1, 4, 4, 4, channels)), jnp.float32)

    return Features(draw(2), draw(2)), Features(draw(2), draw(2)), jax.nn.softmax(draw(4)), jax.nn.softmax(draw(4))


def _until_mix(params, a, b):
    """The features that the masks act on, layer by layer as the paper's text has it."""

    def layer(x, name):
        return ConvNormAct(3, 3).apply({"params": params[name]}, x)

    x = layer(jnp.concatenate([a.penultimate, b.penultimate], -1), "fuse_penultimate")
    return layer(layer(jnp.concatenate([x, a.last, b.last], -1), "fuse_last"), "mix")


@pytest.mark.parametrize(
    ("mask_mode", "residual"), [("whole", True), ("whole", False), ("class", True), ("class", False)]
)
def test_masks_multiply_the_fused_features(inputs, mask_mode, residual):
    branch = _branch(mask_mode=mask_mode, residual_attention=residual)
    logits, variables = jax.jit(branch.init_with_output)(jax.random.key(0), *inputs)
    a, b, probs_a, probs_b = inputs
    if mask_mode == "whole":
        masks = [probs[..., 1:].sum(-1, keepdims=True) for probs in (probs_a, probs_b)]
    else:
        masks = [probs[..., k, None] for probs in (probs_a, probs_b) for k in (1, 2, 3)]
    offset = 1.0 if residual else 0.0

    @jax.jit
    def expected(params):
        x = _until_mix(params, a, b)
        guided = jnp.concatenate([x * (offset + mask) for mask in masks], -1)
        x = ConvNormAct(3, 3).apply({"params": params["guided"]}, guided)
        return Conv(4, 1).apply({"params": params["head"]}, x)

    np.testing.assert_allclose(logits, expected(variables["params"]), atol=1e-5)


def test_a_tumor_that_both_branches_miss_is_erased_without_the_residual_form_only(inputs):
    a, b, *_ = inputs
    background = jnp.zeros((1, 4, 4, 4, 4)).at[..., 0].set(1.0)
    erased, kept = (
        jax.jit(_branch(residual_attention=residual).init_with_output)(jax.random.key(0), a, b, background, background)
        for residual in (False, True)
    )
    np.testing.assert_array_equal(erased[0], jnp.zeros_like(erased[0]))
    assert float(kept[0].std()) > 0.1


@pytest.mark.parametrize("attention", ["none", "cbam"])
def test_variants_do_without_masks(inputs, attention):
    branch = _branch(attention=attention)
    logits, variables = jax.jit(branch.init_with_output)(jax.random.key(0), *inputs)
    a, b, probs_a, probs_b = inputs

    @jax.jit
    def expected(params):
        x = _until_mix(params, a, b)
        if attention == "cbam":
            x = CBAM().apply({"params": params["cbam"]}, x)
        return Conv(4, 1).apply({"params": params["head"]}, x)

    np.testing.assert_allclose(logits, expected(variables["params"]), atol=1e-5)
    assert "guided" not in variables["params"]
    swapped = jax.jit(branch.apply)(variables, a, b, probs_b, probs_a)
    np.testing.assert_array_equal(swapped, logits)


@pytest.mark.parametrize("mask_mode", ["whole", "class"])
def test_plain_has_the_layers_of_mask_guidance_and_masks_of_one(inputs, mask_mode):
    a, b, *probs = inputs
    guided = jax.eval_shape(_branch(mask_mode=mask_mode).init, jax.random.key(0), *inputs)
    branch = _branch(attention="plain", mask_mode=mask_mode)
    logits, variables = jax.jit(branch.init_with_output)(jax.random.key(0), *inputs)
    assert structure(variables) == structure(guided)

    @jax.jit
    def expected(params):
        copies = jnp.concatenate([_until_mix(params, a, b)] * (2 if mask_mode == "whole" else 6), -1)
        return Conv(4, 1).apply(
            {"params": params["head"]}, ConvNormAct(3, 3).apply({"params": params["guided"]}, copies)
        )

    np.testing.assert_allclose(logits, expected(variables["params"]), atol=1e-5)
    # Nothing that the branches believe reaches it.
    slopes = jax.jit(jax.grad(lambda probs: (branch.apply(variables, a, b, *probs) ** 2).sum()))(probs)
    assert largest(slopes) == 0


def _reached(gradient):
    """Parts of the fusion's parameters in which a gradient is not zero."""
    parts = {"S_F": gradient["fusion"]}
    for side in ("a", "b"):
        parts |= {f"{part}_{side}": gradient[f"branch_{side}"][part] for part in ("trunk", "head")}
    return {name for name, tree in parts.items() if largest(tree) > 0}


@pytest.mark.parametrize("stop", [False, True])
def test_each_loss_moves_the_weights_that_it_should_and_no_others(tiny, fusion, stop):
    system = _fusion(tiny, stop_gradient_masks=stop)
    gradients = slopes(system, fusion[1], tiny.batch, ("net/S_A", "net/S_B", "net/S_F"))
    gradients = {term: gradient["net"] for term, gradient in gradients.items()}
    assert _reached(gradients["net/S_A"]) == {"trunk_a", "head_a"}
    assert _reached(gradients["net/S_B"]) == {"trunk_b", "head_b"}
    # S_F's loss reaches a branch's head through the masks alone.
    through_masks = set() if stop else {"head_a", "head_b"}
    assert _reached(gradients["net/S_F"]) == {"S_F", "trunk_a", "trunk_b"} | through_masks


@pytest.mark.parametrize("rate", [0.0, pytest.param(0.25, marks=pytest.mark.slow)])
def test_trunks_learn_at_their_own_rate_and_all_else_as_before(tiny, fusion, rate):
    _, state, whole, metrics = fusion
    after, values = jax.jit(_fusion(tiny, trunk_rate=rate).train_step)(state, tiny.batch)
    before = state.params["net"]
    for part in ("branch_a", "branch_b"):
        far, near = (minus(x.params["net"][part]["trunk"], before[part]["trunk"]) for x in (whole, after))
        assert largest(far) > 0
        if rate == 0:
            same(after.params["net"][part]["trunk"], before[part]["trunk"])
        else:
            close(near, jax.tree.map(lambda x: rate * x, far), 1e-3)
        close(after.params["net"][part]["head"], whole.params["net"][part]["head"])
    close(after.params["net"]["fusion"], whole.params["net"]["fusion"])
    close(values, metrics)


def test_frozen_trunks_cost_no_backward_pass(tiny, fusion):
    params, image = fusion[1].params["net"], tiny.batch["image"]

    def kept(rate):
        forward = _fusion(tiny, trunk_rate=rate).fusion
        return kept_bytes(lambda p, x: forward(p, x[..., :2], x[..., 2:]), params, image)

    assert kept(1.0) == kept(0.5) > 1.5 * kept(0.0)


def test_the_loss_is_the_sum_of_the_three(tiny, fusion):
    system, state, after, metrics = fusion
    evaluated, probs = jax.jit(lambda s, b: (system.eval_step(s, b), system.predict(s, b)))(state, tiny.batch)
    assert set(probs) == set(system.probabilities) == {"S_A", "S_B", "S_F"}
    total = sum(metrics[f"net/{name}"] for name in probs)
    np.testing.assert_allclose(metrics["net/loss"], total, rtol=1e-6)
    close(metrics, evaluated)
    label = np.asarray(tiny.batch["label"])
    for name, values in probs.items():
        np.testing.assert_allclose(values.sum(-1), 1.0, rtol=1e-5)
        # Dice and cross-entropy by their definitions.
        truth, values = np.eye(4)[label].reshape(-1, 4), np.asarray(values).reshape(-1, 4)
        dice = 2 * (truth * values).sum(0) / (truth.sum(0) + values.sum(0))
        expected = 1 - dice[1:].mean() - np.log((truth * values).sum(1)).mean()
        np.testing.assert_allclose(metrics[f"net/{name}"], expected, rtol=1e-4)
    assert int(after.step) == 1


def test_remat_changes_no_gradient_of_the_fusion(tiny, fusion):
    _, state, after, metrics = fusion
    again, values = jax.jit(_fusion(tiny, remat=True).train_step)(state, tiny.batch)
    close(again.params, after.params)
    close(values, metrics)


def test_bfloat16_keeps_weights_losses_and_outputs_in_float32(tiny):
    system = _fusion(tiny, dtype="bfloat16")
    state = jax.eval_shape(system.init, tiny.key, tiny.batch)
    convolved = in_float32(system, state, tiny.batch)
    assert len([made for made in convolved if made.startswith("bf16")]) == len(convolved) > 10


def test_refusals(tiny):
    refused("attention is 'guided'; choose one of mask, plain, none, cbam", _fusion, tiny, attention="guided")
    refused("mask_mode is 'classes'; choose one of whole, class", _fusion, tiny, mask_mode="classes")
    with pytest.raises(UserError, match="side is 'A'; choose a or b"):
        made(cmff.make_branch, optimizers=gradient_descent("net"), side="A", **tiny.branch)


def test_branches_learn_by_coarser_levels_where_they_are_asked_to(tiny):
    options = {**tiny.branch, "levels": 4, "side": "a", "optimizers": gradient_descent("net")}
    system = made(cmff.make_branch, **options, deep_supervision=2)
    batch = tiny.shapes(16, 16, 16)
    state = jax.eval_shape(system.init, tiny.key, batch)
    assert set(state.params["net"]) == {"trunk", "head", "coarser"}
    after, metrics = jax.eval_shape(system.train_step, state, batch)
    assert structure(after) == structure(state)
    assert metrics["net/loss"].shape == ()
    assert jax.eval_shape(system.predict, state, batch)["S_A"].shape == (1, 16, 16, 16, 4)
    sentence = "deep_supervision is 3, and a U-Net of 4 levels has 2 that are coarser"
    refused(sentence, made, cmff.make_branch, **options, deep_supervision=3)
