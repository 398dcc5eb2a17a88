"""U-HVED: counts at the published sizes, products of distributions, what each term moves, and what is not read."""

import itertools

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jaxfuse.losses.overlap import dice_and_cross_entropy
from jaxfuse.models.baselines.uhved import Gaussians, divergence_of_subsets, halved, make_system, product
from tests.models.baselines.by_terms import (
    convolved_in_bfloat16,
    drawing,
    lacking_the_second,
    mixed_equals_the_mean,
    trained_on,
)
from tests.refusals import refused
from tests.tiny_systems import KEY, count, counts, gradient_descent, largest, made, same

TERMS = ("segmentation", "divergence", "reconstruction")
SMALL = {"base": 2, "levels": 2}
RNG = np.random.default_rng(0)


def _system(modalities=("t1", "flair"), classes=3, **options):
    options = {"modalities": modalities, "classes": classes, "loss": dice_and_cross_entropy, **options}
    return made(make_system, optimizers=gradient_descent("net"), **options)


def test_parameters_at_the_published_sizes(tiny):
    """27 weights for each pair of channels: 8,192 pairs in an encoder, 2,688 in a decoder; and kernels of one voxel."""
    system = _system(("t1", "t1ce", "t2", "flair"), 4)
    state = jax.eval_shape(system.init, KEY, tiny.shapes(112, 112, 112))
    widths = (8, 16, 32, 64)
    encoder = 8 + 27 * sum(a * b + b * b for a, b in zip((8, *widths), widths, strict=False))
    # Half of a level's channels are means; the level below is doubled and joined to them.
    decoder = 27 * sum((b + b // 2) * b + b * (b // 2) for b in widths[:-1])
    expected = {f"encoder_{n}": encoder for n in range(1, 5)} | {f"decoder_{n}": decoder + 4 for n in range(1, 5)}
    assert counts(system.networks(state.params)) == expected | {"decoder": decoder + 4 * 4}
    assert count(state.params) == 1_247_680 == 4 * (8 + 27 * 8_192) + 5 * 27 * 2_688 + 4 * (4 + 4)
    # Scale and shift of the norms of the public code's library, if it has them.
    assert 2 * (4 * (8 + 8 + 8 + 16 + 16 + 32 + 32 + 64) + 5 * (48 + 32 + 24 + 16 + 12 + 8)) == 2_872


@pytest.fixture(scope="module")
def trained():
    return trained_on(_system(**SMALL), TERMS)


def test_each_term_moves_what_it_is_of(trained):
    of, batch = trained
    moved = {term: {part for part, tree in of(batch, term)[0].items() if largest(tree) > 0} for term in TERMS}
    encoders = {"encoder_1", "encoder_2"}
    assert moved["segmentation"] == encoders | {"decoder"}
    assert moved["divergence"] == encoders
    assert moved["reconstruction"] == encoders | {"decoder_1", "decoder_2"}


def test_nothing_is_read_of_an_absent_modality_nor_learned_by_what_belongs_to_it(trained):
    of, batch = trained
    batch, garbled = lacking_the_second(batch)
    gradient, terms = of(batch, *TERMS)
    same((gradient, terms), of(garbled, *TERMS))
    moved = {part for part, tree in gradient.items() if largest(tree) > 0}
    assert moved == {"encoder_1", "decoder_1", "decoder"}


def test_a_batch_may_mix_subsets(trained):
    first, second = mixed_equals_the_mean(*trained, TERMS)
    # Each example moves the encoder of the other's modality not at all.
    assert [largest(first["encoder_2"]), largest(second["encoder_1"])] == [0, 0]


def _told(count):
    """Distributions of two latent maps of 2 x 1 x 1 voxels by so many modalities, for two examples."""
    return Gaussians(*(jnp.asarray(RNG.normal(size=(2, count, 2, 1, 1, 2)), jnp.float32) for _ in range(2)))


def test_a_product_adds_precisions_and_weighs_means_by_them():
    told, members = _told(3), jnp.asarray([[True, False, True], [False, False, False]])
    found = product(told, members)
    mean, precision = np.asarray(told.mean)[0, [0, 2]], np.exp(-np.asarray(told.log_variance)[0, [0, 2]])
    np.testing.assert_allclose(found.mean[0], (mean * precision).sum(0) / (1 + precision.sum(0)), rtol=1e-5)
    np.testing.assert_allclose(np.exp(found.log_variance[0]), 1 / (1 + precision.sum(0)), rtol=1e-5)
    # Of nothing it is the standard normal distribution.
    np.testing.assert_allclose(found.mean[1], 0.0)
    np.testing.assert_allclose(found.log_variance[1], 0.0, atol=1e-6)


def _kl(a, b):
    """The divergence between normal distributions (mean, variance), averaged over their numbers."""
    return (0.5 * (np.log(b[1] / a[1]) - 1 + (a[1] + (a[0] - b[0]) ** 2) / b[1])).mean()


def _divergence(told, there):
    """The divergence of an example whose modalities are `there`, by its definition, over subsets one by one."""

    def joint(members):
        mean, precision = told[0][list(members)], np.exp(-told[1][list(members)])
        return (mean * precision).sum(0) / (1 + precision.sum(0)), 1 / (1 + precision.sum(0))

    subsets = [s for size in range(1, len(there) + 1) for s in itertools.combinations(there, size)]
    whole = joint(there)
    between = sum(_kl(whole, joint(s)) for s in subsets) / max(len(subsets) - 1, 1)
    return between + np.mean([_kl(joint(s), (0.0 * whole[0], 1 + 0 * whole[1])) for s in subsets])


def test_the_divergence_goes_over_the_subsets_of_what_an_example_has():
    told = _told(3)
    presence = jnp.asarray([[True, True, True], [True, False, True]])
    apart = [[np.asarray(side, np.float64)[example] for side in told] for example in (0, 1)]
    expected = (_divergence(apart[0], (0, 1, 2)) + _divergence(apart[1], (0, 2))) / 2
    np.testing.assert_allclose(divergence_of_subsets(told, presence), expected, rtol=1e-4)


def test_maps_are_halved_by_the_largest_of_eight():
    x = jnp.arange(64.0).reshape(1, 4, 4, 4, 1)
    blocks = np.arange(64.0).reshape(2, 2, 2, 2, 2, 2).max(axis=(1, 3, 5))
    np.testing.assert_array_equal(halved(x)[0, ..., 0], blocks)


@pytest.mark.slow
def test_it_draws_in_training_steps_alone(tiny):
    assert drawing(_system(**SMALL), tiny.shapes(4, 4, 4, modalities=2)) == {"train_step"}


@pytest.mark.slow
def test_bfloat16_keeps_weights_losses_and_outputs_in_float32(tiny):
    low, all_of_them = convolved_in_bfloat16(_system(**SMALL, dtype="bfloat16"), tiny.shapes(4, 4, 4, modalities=2))
    assert low == all_of_them > 5


def test_refusals(tiny):
    refused("base is 3; half of the channels are means, so give an even number", _system, base=3)
    refused("divergence_weight is -0.1; it may not be negative", _system, divergence_weight=-0.1)
    sentence = r"whose sides are multiples of 2, and at least 4, got shape \(1, 4, 4, 2, 2\)"
    refused(sentence, jax.eval_shape, _system(**SMALL).init, KEY, tiny.shapes(4, 4, 2, modalities=2))
