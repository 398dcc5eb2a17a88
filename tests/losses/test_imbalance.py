"""Losses for unequal classes against numbers worked by hand: two or four voxels, two or three classes."""

from functools import partial
from math import exp, log

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jaxfuse.labels import IGNORED
from jaxfuse.losses.imbalance import combo, focal, generalized_dice, tversky, weighted_cross_entropy
from jaxfuse.losses.overlap import cross_entropy, dice_and_cross_entropy, dice_loss_of_logits
from tests.refusals import refused

EQUAL, THIRDS = (1 / 3, 1 / 3, 1 / 3), (1 / 2, 1 / 3, 1 / 6)
# Every loss as a function of logits and label alone, for three classes.
LOSSES = {
    "combo": combo,
    "combo, literal": partial(combo, form="literal"),
    "combo, scaled": partial(combo, form="scaled"),
    "focal": focal,
    "tversky": tversky,
    "generalized dice": partial(generalized_dice, frequencies=EQUAL),
    "weighted cross-entropy": partial(weighted_cross_entropy, frequencies=EQUAL),
}
# Two voxels, lesion and background, each with probability 0.8 or 0.3 of a lesion.
PAIR, PAIR_LABEL = (0.8, 0.3), jnp.array([[1, 0]])
# Two voxels, three classes: s of class 1 is 0.6 and 0.2, of class 2 it is 0.3 and 0.7.
TRIPLE = jnp.log(jnp.array([[[0.1, 0.6, 0.3], [0.1, 0.2, 0.7]]]))
TRIPLE_LABEL = jnp.array([[1, 2]])


def binary(*probabilities: float) -> jax.Array:
    """Logits (1 n 2) of these probabilities of the foreground."""
    s = jnp.array([probabilities])
    return jnp.log(jnp.stack([1 - s, s], axis=-1))


def value(loss, logits, label, **options) -> float:
    return float(loss(logits, label, **options))


DICE = (2 * 0.8 + 1) / (1.1 + 1 + 1)  # of PAIR: sum s y = 0.8, sum s = 1.1, sum y = 1, eps = 1
ASKED = {"alpha": 0.25, "beta": 0.3}


@pytest.mark.parametrize(
    ("loss", "options", "expected"),
    [
        (combo, {}, -(log(0.8) + log(0.7)) / 8 - 0.5 * DICE),
        (combo, {"eps": 0.0}, -(log(0.8) + log(0.7)) / 8 - 0.5 * 1.6 / 2.1),
        (combo, ASKED, -0.25 * (0.3 * log(0.8) + 0.7 * log(0.7)) / 2 - 0.75 * DICE),
        (combo, ASKED | {"form": "literal"}, 0.25 * (-0.3 * log(0.8) + 0.7 * log(0.7)) / 2 - 0.75 * DICE),
        (combo, ASKED | {"form": "scaled"}, -0.25 * 0.3 * (log(0.8) + 0.7 * log(0.7)) / 2 - 0.75 * DICE),
        # TP 0.8, FP 0.3, FN 0.2
        (tversky, {}, 1 - 1.8 / (0.8 + 0.09 + 0.14 + 1)),
        (tversky, {"a": 0.7, "b": 0.3}, 1 - 1.8 / (0.8 + 0.21 + 0.06 + 1)),
        (focal, {}, -(0.25 * 0.2**2 * log(0.8) + 0.75 * 0.3**2 * log(0.7)) / 2),
        (focal, {"gamma": 3.0, "alpha": 0.5}, -(0.5 * 0.2**3 * log(0.8) + 0.5 * 0.3**3 * log(0.7)) / 2),
        # Without focus: half of cross-entropy.
        (focal, {"gamma": 0.0, "alpha": 0.5}, -(log(0.8) + log(0.7)) / 4),
        (dice_loss_of_logits, {"over_batch": True, "eps": 1.0}, 1 - DICE),
    ],
)
def test_by_hand(loss, options, expected):
    tolerance = 1e-7 if loss is focal else 1e-6
    assert value(loss, binary(*PAIR), PAIR_LABEL, **options) == pytest.approx(expected, abs=tolerance)


def test_combo_sets_each_foreground_class_against_the_rest():
    def one(s, y):
        entropy = -np.mean([0.5 * log(p if truth else 1 - p) for p, truth in zip(s, y, strict=True)])
        return 0.5 * entropy - 0.5 * (2 * np.dot(s, y) + 1) / (sum(s) + sum(y) + 1)

    foreground = [one((0.6, 0.2), (1, 0)), one((0.3, 0.7), (0, 1))]
    assert value(combo, TRIPLE, TRIPLE_LABEL) == pytest.approx(np.mean(foreground), abs=1e-6)
    every = [one((0.1, 0.1), (0, 0)), *foreground]
    assert value(combo, TRIPLE, TRIPLE_LABEL, include_background=True) == pytest.approx(np.mean(every), abs=1e-6)


@pytest.mark.parametrize(("s", "literal"), [(0.1, -0.053), (0.9, -1.15)])
def test_the_literal_form_rewards_false_positives(s, literal):
    """One voxel of background, beta 1/2: the entropy is log(1 - s) / 2, where the true one is -log(1 - s) / 2."""
    found, true = (value(combo, binary(s), jnp.array([[0]]), alpha=1.0, form=form) for form in ("literal", "weighted"))
    assert (found, true) == (pytest.approx(0.5 * log(1 - s), abs=1e-6), pytest.approx(-0.5 * log(1 - s), abs=1e-6))
    assert found == pytest.approx(literal, abs=2e-3)


@pytest.mark.parametrize("form", ["weighted", "scaled"])
@pytest.mark.parametrize("alpha", [0.25, 0.5])
def test_combo_is_least_at_the_truth(form, alpha):
    label = jnp.array([[0, 1, 1, 2]])
    sure = value(combo, 40.0 * jax.nn.one_hot(label, 3), label, alpha=alpha, form=form)
    assert sure == pytest.approx(-(1 - alpha), abs=1e-5)


def test_combo_clips_its_logarithms():
    """A hopeless voxel costs -log 1e-7, not its whole margin; clipping is at 16.1 nats, far from any rounding."""
    wrong = value(combo, jnp.array([[[300.0, -300.0]]]), jnp.array([[1]]), alpha=1.0)
    assert wrong == pytest.approx(0.5 * 7 * log(10), abs=1e-4)
    # 1 - s is 3e-7 here, of which a softmax in float32 would keep one digit.
    nearly = value(combo, jnp.array([[[-15.0, 0.0]]]), jnp.array([[0]]), alpha=1.0)
    assert nearly == pytest.approx(0.5 * (15 + exp(-15)), abs=1e-5)


def test_dice_sums_over_the_batch_or_each_example():
    apart = jnp.moveaxis(binary(*PAIR), 1, 0)
    over_batch = value(dice_loss_of_logits, apart, PAIR_LABEL.T, over_batch=True, eps=1.0)
    assert over_batch == pytest.approx(1 - DICE, abs=1e-6)
    each = value(dice_loss_of_logits, apart, PAIR_LABEL.T, eps=1.0)
    assert each == pytest.approx(1 - np.mean([2.6 / 2.8, 1 / 1.3]), abs=1e-6)


def test_balanced_tversky_is_dice_with_twice_the_smoothing():
    dice = partial(dice_loss_of_logits, over_batch=True, eps=2.0)
    assert value(tversky, TRIPLE, TRIPLE_LABEL, a=0.5, b=0.5) == pytest.approx(value(dice, TRIPLE, TRIPLE_LABEL))


# Of padded 256^3 volumes, as the numbers of InfiNet's code imply: background, CSF, GM, WM.
INFANT = (0.952, 0.0107, 0.0223, 0.0147)


def test_generalized_dice_by_hand():
    # f 1/2, 1/3, 1/6: 1/f^2 is 4, 9, 36. Sums of s y: 0, 0.6, 0.7; of s + y: 0.2, 1.8, 2.0.
    overlap, total = 9 * 0.6 + 36 * 0.7, 4 * 0.2 + 9 * 1.8 + 36 * 2.0
    got = value(generalized_dice, TRIPLE, TRIPLE_LABEL, frequencies=THIRDS)
    assert got == pytest.approx(1 - 2 * overlap / total, abs=1e-6)
    # One number over all classes, not the mean of one per class.
    assert got != pytest.approx(1 - np.mean([0, 1.2 / 1.8, 1.4 / 2.0]), abs=0.01)
    # Counts of a large data set, whose 1/f^2 would be nothing beside eps, give the same as their shares.
    counts = value(generalized_dice, TRIPLE, TRIPLE_LABEL, frequencies=(6e9, 4e9, 2e9))
    assert counts == pytest.approx(got, rel=1e-6)


def test_generalized_dice_lies_between_truth_and_opposite():
    label = jnp.array([[0, 1, 1, 2]])
    loss = partial(generalized_dice, frequencies=(1 / 4, 1 / 2, 1 / 4))
    assert value(loss, 40.0 * jax.nn.one_hot(label, 3), label) == pytest.approx(0, abs=1e-6)
    assert value(loss, 40.0 * jax.nn.one_hot((label + 1) % 3, 3), label) == pytest.approx(1, abs=1e-6)


def test_published_weights_of_infant_brains():
    """Each class alone: the loss of one voxel with probability 1/4 of its class is w log 4."""
    logits = jnp.zeros((1, 1, 4))
    weights = [value(weighted_cross_entropy, logits, jnp.array([[k]]), frequencies=INFANT) / log(4) for k in range(4)]
    # The mean of the middle two frequencies is 0.0185.
    assert weights == pytest.approx([0.0194, 1.729, 0.8296, 1.2585], abs=1e-3)
    # Probability 1/4 of each class, truth k: 1 - 2 w_k / 4 / (w_k + 1/4), as the weights sum to 1.
    losses = [value(generalized_dice, logits, jnp.array([[k]]), frequencies=INFANT) for k in range(4)]
    inferred = [(1 - loss) / 4 / (0.5 - (1 - loss)) for loss in losses]
    assert inferred == pytest.approx([0.0001, 0.570, 0.130, 0.300], abs=2e-3)


def test_weighted_cross_entropy_by_hand():
    # Median frequency 1/3: w 2/3, 1, 2.
    got = value(weighted_cross_entropy, TRIPLE, TRIPLE_LABEL, frequencies=THIRDS)
    assert got == pytest.approx(-(log(0.6) + 2 * log(0.7)) / 2, abs=1e-6)


def test_refusals_say_what_came():
    refused("form is 'F1'; choose one of weighted, literal, scaled", combo, binary(0.5), jnp.array([[0]]), form="F1")
    refused("have 1 class; give them at least 2", tversky, jnp.zeros((1, 2, 1)), jnp.zeros((1, 2), int))
    never = "a class that never occurs has no weight"
    for loss in (generalized_dice, weighted_cross_entropy):
        refused("2 values for 3 classes", loss, TRIPLE, TRIPLE_LABEL, frequencies=(0.5, 0.5))
        refused(never, loss, TRIPLE, TRIPLE_LABEL, frequencies=(0.5, 0.5, 0.0))


@pytest.mark.parametrize("name", LOSSES)
def test_gradients_are_finite_at_saturated_logits_and_the_value_is_float32(name):
    label = jnp.array([[0, 1, 2, 1]])
    right, wrong = (1e4 * jax.nn.one_hot((label + turn) % 3, 3) for turn in (0, 1))
    differentiate = jax.jit(jax.value_and_grad(LOSSES[name]))
    for logits in (right, wrong, -wrong):
        assert all(jnp.isfinite(found).all() for found in differentiate(logits, label))
    exact = LOSSES[name](TRIPLE.astype(jnp.bfloat16).astype(jnp.float32), TRIPLE_LABEL)
    rounded = LOSSES[name](TRIPLE.astype(jnp.bfloat16), TRIPLE_LABEL)
    assert rounded.dtype == jnp.float32
    assert float(rounded) == pytest.approx(float(exact), abs=1e-6)


@pytest.mark.parametrize("name", [name for name in LOSSES if name != "combo, literal"])
def test_gradients_raise_the_true_class(name):
    gradient = jax.jit(jax.grad(LOSSES[name]))(TRIPLE, TRIPLE_LABEL)
    assert max(gradient[0, 0, 1], gradient[0, 1, 2]) < 0


def test_an_index_beyond_the_classes_is_rest_everywhere():
    beyond = jnp.array([[1, 254]])
    assert value(focal, binary(*PAIR), beyond) == pytest.approx(value(focal, binary(*PAIR), PAIR_LABEL))
    half = value(weighted_cross_entropy, TRIPLE, beyond, frequencies=EQUAL)
    assert half == pytest.approx(-log(0.6) / 2, abs=1e-6)


OF_OVERLAP = {
    "Dice": dice_loss_of_logits,
    "Dice, all switches": partial(dice_loss_of_logits, include_background=True, squared=True, over_batch=True),
    "cross-entropy": cross_entropy,
    "Dice and cross-entropy": dice_and_cross_entropy,
    "combo with background": partial(combo, include_background=True),
    "focal with background": partial(focal, include_background=True),
    "tversky with background": partial(tversky, include_background=True),
}


@pytest.mark.parametrize("loss", [*LOSSES.values(), *OF_OVERLAP.values()], ids=[*LOSSES, *OF_OVERLAP])
def test_ignored_voxels_are_as_if_they_were_not_there(loss):
    """Equal loss and gradient without them, whatever the network says there, and no gradient at all from them."""
    strange = jnp.array([[[90.0, -90.0, 3.0], [-4.0, 5.0, 60.0], [0.0, 0.0, 0.0]]])
    logits, label = jnp.concatenate([TRIPLE, strange], 1), jnp.concatenate([TRIPLE_LABEL, jnp.full((1, 3), IGNORED)], 1)
    expected, wanted = jax.value_and_grad(loss)(TRIPLE, TRIPLE_LABEL)
    found, gradient = jax.value_and_grad(loss)(logits, label)
    assert float(found) == pytest.approx(float(expected), rel=1e-6)
    np.testing.assert_allclose(gradient[:, :2], wanted, rtol=1e-5, atol=1e-7)
    assert not gradient[:, 2:].any()
