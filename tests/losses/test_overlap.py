"""Dice and cross-entropy against numbers worked by hand."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jaxfuse.losses import overlap
from tests.refusals import refused

# Compiled as in training; one compilation costs less than one per operation.
OPTIONS = ("include_background", "squared", "eps")
dice_loss = jax.jit(overlap.dice_loss, static_argnames=OPTIONS)
dice_loss_of_logits = jax.jit(overlap.dice_loss_of_logits, static_argnames=OPTIONS)
dice_and_cross_entropy = jax.jit(overlap.dice_and_cross_entropy, static_argnames=OPTIONS)
cross_entropy = jax.jit(overlap.cross_entropy)

EPS = 1e-5
# Four voxels, three classes.
LABEL = jnp.array([[[0, 1], [1, 2]]])
PROBS = jnp.array([[[[0.5, 0.5, 0.0], [0.2, 0.6, 0.2]], [[0.0, 1.0, 0.0], [0.3, 0.1, 0.6]]]])


@pytest.mark.parametrize(
    ("options", "expected"),
    [
        # class 1: 2 (0.6 + 1.0) / (2 + 2.2); class 2: 2 * 0.6 / (1 + 0.8)
        ({}, [3.2 / 4.2, 1.2 / 1.8]),
        # class 0: 2 * 0.5 / (1 + 1.0)
        ({"include_background": True}, [0.5, 3.2 / 4.2, 1.2 / 1.8]),
        # class 1: squares .25 + .36 + 1 + .01; class 2: .04 + .36
        ({"squared": True}, [3.2 / (2 + 1.62), 1.2 / (1 + 0.4)]),
    ],
)
def test_dice_by_hand(options, expected):
    assert float(dice_loss(PROBS, LABEL, **options)) == pytest.approx(1 - np.mean(expected), abs=1e-5)


def test_dice_is_zero_for_the_truth_and_one_for_its_opposite():
    assert float(dice_loss(jax.nn.one_hot(LABEL, 3), LABEL)) == pytest.approx(0, abs=1e-6)
    assert float(dice_loss(jax.nn.one_hot((LABEL + 1) % 3, 3), LABEL)) == pytest.approx(1, abs=1e-4)


def test_absent_class():
    label = jnp.zeros((1, 2, 2), int)
    silent = jax.nn.one_hot(label, 2)
    assert float(dice_loss(silent, label)) == 0
    # One hundredth predicted in each of four voxels: eps / (0.04 + eps).
    faint = jnp.broadcast_to(jnp.array([0.99, 0.01]), (1, 2, 2, 2))
    assert float(dice_loss(faint, label)) == pytest.approx(1 - EPS / (0.04 + EPS), abs=1e-6)


def test_examples_are_scored_apart_then_averaged():
    other = jnp.flip(PROBS, axis=-1)
    apart = [float(dice_loss(p, LABEL)) for p in (PROBS, other)]
    both = dice_loss(jnp.concatenate([PROBS, other]), jnp.concatenate([LABEL, LABEL]))
    assert float(both) == pytest.approx(np.mean(apart), abs=1e-6)
    assert apart[0] != pytest.approx(apart[1], abs=1e-2)


def test_dice_gradient_raises_the_true_class():
    gradient = jax.grad(dice_loss)(PROBS, LABEL)
    np.testing.assert_array_equal(gradient[..., 1:] < 0, jax.nn.one_hot(LABEL, 3)[..., 1:] > 0)
    assert gradient[..., 1:].all()
    assert not gradient[..., 0].any()


def test_dice_of_one_class_needs_the_background():
    probs, label = jnp.ones((1, 2, 2, 1)), jnp.zeros((1, 2, 2), int)
    refused("at least 2 classes, got 1", dice_loss, probs, label)
    assert float(dice_loss(probs, label, include_background=True)) == 0


def test_dice_of_logits_is_dice_of_their_softmax():
    logits = jnp.log(PROBS + 1e-3)
    for options in ({}, {"squared": True}, {"include_background": True}, {"eps": 1.0}):
        expected = dice_loss(jax.nn.softmax(logits), LABEL, **options)
        assert float(dice_loss_of_logits(logits, LABEL, **options)) == pytest.approx(float(expected), abs=1e-6)
    smoothed, plain = (float(dice_loss_of_logits(logits, LABEL, eps=eps)) for eps in (1.0, EPS))
    assert smoothed != pytest.approx(plain, abs=1e-3)


def test_cross_entropy_by_hand():
    logits = jnp.log(jnp.array([[[0.5, 0.25, 0.25], [0.1, 0.8, 0.1]]]))
    label = jnp.array([[1, 1]])
    assert float(cross_entropy(logits, label)) == pytest.approx((np.log(4) - np.log(0.8)) / 2, abs=1e-6)


def test_ignored_voxels_count_nowhere():
    logits = jax.random.normal(jax.random.key(0), (2, 3, 3, 21))
    label = jax.random.randint(jax.random.key(1), (2, 3, 3), 0, 21)
    void = jnp.zeros(label.shape, bool).at[0, 0].set(True).at[1, 2, 2].set(True)
    marked = jnp.where(void, 255, label)
    value, gradient = jax.value_and_grad(lambda x: cross_entropy(x, marked))(logits)
    picked = np.asarray(jax.nn.log_softmax(logits))[~np.asarray(void)]
    expected = -picked[np.arange(len(picked)), np.asarray(label)[~np.asarray(void)]].mean()
    assert float(value) == pytest.approx(float(expected), abs=1e-5)
    assert not gradient[void].any()
    assert gradient[~void].any(-1).all()


def test_all_may_be_ignored():
    label = jnp.full((1, 2, 2), 255)
    value, gradient = jax.value_and_grad(lambda x: cross_entropy(x, label))(jnp.ones((1, 2, 2, 3)))
    assert float(value) == 0
    assert not gradient.any()


def test_sum_of_both_is_the_sum_and_survives_hopeless_logits():
    logits = jnp.log(PROBS + 1e-3)
    expected = dice_loss_of_logits(logits, LABEL, squared=True) + cross_entropy(logits, LABEL)
    assert float(dice_and_cross_entropy(logits, LABEL, squared=True)) == pytest.approx(float(expected), abs=1e-6)
    hopeless = jnp.array([[[300.0, -300.0]]])
    value, gradient = jax.value_and_grad(dice_and_cross_entropy)(hopeless, jnp.array([[1]]))
    assert float(value) == pytest.approx(600 + 1, abs=1e-2)
    np.testing.assert_allclose(gradient, [[[1.0, -1.0]]], atol=1e-5)


@pytest.mark.parametrize("loss", [dice_loss_of_logits, cross_entropy, dice_and_cross_entropy])
def test_losses_are_float32_for_bfloat16_logits(loss):
    # 32^3 voxels: a bfloat16 sum would stop growing at 256.
    label = jax.random.randint(jax.random.key(0), (1, 32, 32, 32), 0, 2)
    logits = jax.random.normal(jax.random.key(1), (1, 32, 32, 32, 2)).astype(jnp.bfloat16)
    value = loss(logits, label)
    assert value.dtype == jnp.float32
    assert float(value) == pytest.approx(float(loss(logits.astype(jnp.float32), label)), abs=1e-6)


def test_dice_over_the_batch_and_the_weights_of_eq_14():
    rng = np.random.default_rng(0)
    logits = jnp.asarray(rng.normal(size=(2, 4, 4, 3)), jnp.float32)
    label = jnp.asarray(rng.integers(0, 3, (2, 4, 4)))
    probs = np.asarray(jax.nn.softmax(logits))
    truth = np.eye(3)[np.asarray(label)]
    shared = 2 * (probs * truth).sum((0, 1, 2)) + 1e-5
    dice = (shared / ((probs**2).sum((0, 1, 2)) + truth.sum((0, 1, 2)) + 1e-5)).mean()
    entropy = -np.log((probs * truth).sum(-1)).mean()
    options = {"include_background": True, "squared": True, "over_batch": True}
    found = overlap.dice_and_cross_entropy(logits, label, **options, dice_weight=0.5, entropy_weight=0.5)
    assert float(found) == pytest.approx(0.5 * (1 - dice) + 0.5 * entropy, rel=1e-5)
