"""mmFormer: counts at the published sizes, what each term moves, and that nothing is read of what is absent."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jaxfuse.arrays import Shown
from jaxfuse.losses.overlap import dice_and_cross_entropy
from jaxfuse.models.baselines.mmformer import make_system, terms_of
from tests.models.baselines.by_terms import (
    convolved_in_bfloat16,
    drawing,
    lacking_the_second,
    mixed_equals_the_mean,
    trained_on,
)
from tests.refusals import refused
from tests.tiny_systems import KEY, count, counts, gradient_descent, largest, made, same

TERMS = ("fused", "separate", "coarser")
SMALL = {"base": 1, "levels": 2, "width": 4, "hidden": 4, "heads": 2, "grid": (2, 2, 2), "dropout": 0.0}


def _system(modalities=("t1", "flair"), classes=3, **form):
    options = {"modalities": modalities, "classes": classes, "loss": dice_and_cross_entropy, **form}
    return made(make_system, optimizers=gradient_descent("net"), **options)


def _conv(inputs, outputs, kernel=3):
    return kernel**3 * inputs * outputs + outputs


def test_parameters_at_the_published_sizes(tiny):
    """The public code's 36,654,416 but for the four convolutions that it does not use, of 512 x 128 weights."""
    system = _system(("t1", "t1ce", "t2", "flair"), 4)
    state = jax.eval_shape(system.init, KEY, tiny.shapes(128, 128, 128))
    widths = (8, 16, 32, 64, 128)
    convolutions = sum(_conv(a, b) + 2 * _conv(b, b) for a, b in zip((1, *widths), widths, strict=False))
    # Two norms, query, key and value without bias, projection, and both layers of the MLP.
    transformer = 2 * 2 * 512 + 512 * 3 * 512 + _conv(512, 512, 1) + _conv(512, 4096, 1) + _conv(4096, 512, 1)
    up = [2 * _conv(2 * b, b) + _conv(b, b, 1) for b in widths[:-1]]
    fusing = [_conv(4 * b, b, 1) + _conv(b, b) + _conv(b, b, 1) for b in widths]
    heads = [_conv(b, 4, 1) for b in widths]
    expected = {f"encoder_{n}": convolutions + _conv(128, 512, 1) + transformer for n in range(1, 5)}
    expected |= {f"positions_{n}": 8**3 * 512 for n in range(1, 5)}
    expected |= {"between": transformer, "leave": _conv(4 * 512, 4 * 128, 1)}
    expected |= {"decoder": sum(up) + sum(fusing) + sum(heads), "separate_decoder": sum(up) + heads[0]}
    assert counts(system.networks(state.params)) == expected
    assert count(state.params) == 36_391_760 == 36_654_416 - 4 * _conv(512, 128, 1)
    assert system.geometry.divisor == 16


@pytest.fixture(scope="module")
def trained():
    return trained_on(_system(**SMALL), TERMS)


def _moved(gradient):
    """By network, the names of what a gradient moves in it."""
    found = {
        part: {name for name, leaves in tree.items() if largest(leaves) > 0}
        for part, tree in gradient.items()
        if part.startswith(("encoder", "decoder", "separate"))
    }
    rest = {part for part in gradient if part not in found and largest(gradient[part]) > 0}
    return {part: names for part, names in found.items() if names}, rest


def test_each_term_moves_what_it_is_of(trained):
    of, batch = trained
    moved = {term: _moved(of(batch, term)[0]) for term in TERMS}
    levels, between = {"level_1", "level_2"}, {"positions_1", "positions_2", "between", "leave"}
    whole = {f"encoder_{n}": levels | {"embed", "transformer"} for n in (1, 2)}
    fusing = {f"fuse_{level}_{layer}" for level in (1, 2) for layer in (1, 2, 3)}
    assert moved["fused"] == (whole | {"decoder": {"level_1", "head_1"} | fusing}, between)
    # The coarser of two levels is the transformers' alone.
    coarsest = {f"fuse_2_{layer}" for layer in (1, 2, 3)} | {"head_2"}
    assert moved["coarser"] == (whole | {"decoder": coarsest}, between)
    alone = {f"encoder_{n}": levels for n in (1, 2)} | {"separate_decoder": {"level_1", "head_1"}}
    assert moved["separate"] == (alone, set())


def test_nothing_is_read_of_an_absent_modality_nor_learned_by_its_encoder(trained):
    of, batch = trained
    batch, garbled = lacking_the_second(batch)
    gradient, terms = of(batch, *TERMS)
    same((gradient, terms), of(garbled, *TERMS))
    assert largest(gradient["encoder_2"]) == 0
    assert min(largest(tree) for part, tree in gradient.items() if part != "encoder_2") > 0
    # A modality that is there and blank is another thing.
    blank = {**batch, "image": batch["image"].at[..., 1].set(0.0), "presence": jnp.ones((2, 2), bool)}
    assert abs(float(of(blank, *TERMS)[1]["fused"] - terms["fused"])) > 1e-5


def test_a_batch_may_mix_subsets(trained):
    first, second = mixed_equals_the_mean(*trained, TERMS)
    # Each example moves the encoder of the other's modality not at all.
    assert [largest(first["encoder_2"]), largest(second["encoder_1"])] == [0, 0]


def test_by_each_modality_alone_only_those_present_count():
    rng = np.random.default_rng(0)
    separate = jnp.asarray(rng.normal(size=(2, 3, 2, 2, 2, 4)), jnp.float32)
    label = jnp.asarray(rng.integers(0, 4, (2, 2, 2, 2)), jnp.int32)
    presence = jnp.asarray([[True, False, True], [False, True, False]])

    class Outputs:
        logits, coarser = separate[:, 0], (separate[:, 1], separate[:, 2])

    Outputs.separate = separate
    terms = terms_of(dice_and_cross_entropy)(Outputs, Shown(separate[:, 0], presence), label)
    each = [dice_and_cross_entropy(separate[b : b + 1, m], label[b : b + 1]) for b, m in ((0, 0), (0, 2), (1, 1))]
    np.testing.assert_allclose(terms["separate"], sum(each) / 2, rtol=1e-5)
    coarser = dice_and_cross_entropy(separate[:, 1], label) + dice_and_cross_entropy(separate[:, 2], label)
    np.testing.assert_allclose(terms["coarser"], coarser, rtol=1e-5)
    np.testing.assert_allclose(terms["fused"], dice_and_cross_entropy(separate[:, 0], label), rtol=1e-5)


@pytest.mark.slow
def test_dropout_acts_in_training_steps_alone(tiny):
    assert drawing(_system(**SMALL | {"dropout": 0.5}), tiny.shapes(4, 4, 4, modalities=2)) == {"train_step"}


@pytest.mark.slow
def test_bfloat16_keeps_weights_losses_and_outputs_in_float32(tiny):
    low, all_of_them = convolved_in_bfloat16(_system(**SMALL, dtype="bfloat16"), tiny.shapes(4, 4, 4, modalities=2))
    assert low == all_of_them > 10


def test_refusals(tiny):
    refused("10 channels do not divide among 8 heads", _system, width=10)
    refused(r"dropout is 1.0 and grid \(8, 8, 8\); give a rate below 1", _system, dropout=1.0)
    refused("levels is 1; give at least 2", _system, levels=1)
    system = _system(**SMALL)
    sentence = r"whose sides are multiples of 2, and at least 4, got shape \(1, 4, 4, 2, 2\)"
    refused(sentence, jax.eval_shape, system.init, KEY, tiny.shapes(4, 4, 2, modalities=2))
