"""MM-Syns: counts, every term by hand, what each one moves, one source or several, refusals."""

import dataclasses
import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jaxfuse.learning.system import System
from jaxfuse.models.baselines.mmsyns import Encoder, MMSynsForm, make_system
from tests.refusals import refused
from tests.tiny_systems import KEY, agree, count, counts, gradient_descent, in_float32, largest, moved

MODALITIES = ("t1", "t1ce", "t2", "flair")
# The order of the sources is not that of the channels.
PAIRS = ("t2+t1", "flair")
TINY = MMSynsForm(width=2, latent=3)
BATCH = {"image": jax.random.uniform(KEY, (2, 8, 8, 4))}


def make(form=TINY, pairs=PAIRS, **options):
    optimizers = gradient_descent("net")
    return make_system(optimizers=optimizers, modalities=MODALITIES, pairs=pairs, form=form, **options)


@pytest.fixture(scope="module")
def system():
    return make()


@pytest.fixture(scope="module")
def start(system):
    return jax.jit(system.init)(KEY, BATCH)


@pytest.fixture(scope="module")
def step(system):
    return jax.jit(system.train_step)


@pytest.fixture(scope="module")
def look(system):
    """Evaluation and prediction."""
    return jax.jit(lambda state, batch: (system.eval_step(state, batch), system.predict(state, batch)))


def test_it_is_a_system_of_one_player(system):
    assert isinstance(system, System)
    assert dataclasses.astuple(system.geometry)[:3] == (2, 4, 0)
    assert (system.players, system.primary, system.probabilities) == (("net",), "synthesized", ())
    assert not system.accepts_unpaired


@pytest.mark.parametrize(("pairs", "total"), [(("t1+t2", "flair"), 1_080_561), (("t1", "flair"), 558_817)])
def test_weights(pairs, total):
    system = make(MMSynsForm(), pairs)
    state = jax.eval_shape(system.init, KEY, BATCH)
    found = counts(system.networks(state.params))
    encoders = {f"encoder_{name}": 521_744 for name in pairs[0].split("+")}
    assert found == encoders | {"decoder": 37_073}
    assert count(state.params) == total


def test_an_encoder_is_linear_where_it_doubles_and_leaky_elsewhere():
    """By how often its program selects between a value and its part: two layers at each of five levels, one latent."""
    image = jnp.zeros((1, 8, 8, 1))
    encoder = Encoder(TINY)
    params = jax.eval_shape(encoder.init, KEY, image)
    program = str(jax.make_jaxpr(encoder.apply)(params, image))
    assert program.count(" convolve[") == 13
    assert program.count("name=leaky_relu") == 11


def test_terms_by_hand(system, start, step, look):
    evaluated, predicted = look(start, BATCH)
    net, image = start.params["net"], BATCH["image"]
    encode, decode = jax.jit(system.encoder.apply), jax.jit(system.decode)
    latents = {}
    for name, source in (("t1", image[..., :1]), ("t2", image[..., 2:3])):
        latents[name] = encode({"params": net[f"encoder_{name}"]}, source)
    latents["fused"] = jnp.maximum(latents["t1"], latents["t2"])
    decoded = {name: np.asarray(decode(net, latent)) for name, latent in latents.items()}
    errors = {name: np.abs(made - image[..., 3:]).mean() for name, made in decoded.items()}
    expected = {f"net/latent_{name}": errors[name] for name in ("t1", "t2")} | {"net/fused": errors["fused"]}
    # The variance of two numbers is the square of half their difference.
    expected["net/variance"] = np.square((latents["t1"] - latents["t2"]) / 2).mean()
    expected["net/loss"] = sum(expected.values())
    _, metrics = step(start, BATCH)
    agree(evaluated, expected)
    agree(metrics, expected)
    np.testing.assert_allclose(predicted["synthesized"], decoded["fused"], atol=1e-6)
    assert len({round(float(error), 5) for error in errors.values()}) == 3


def test_each_term_moves_the_networks_that_it_should_and_no_others(system, start, step):
    gradients = jax.jit(jax.jacrev(lambda net: system.loss(net, BATCH)[1]))(start.params["net"])
    reached = {
        term: {name for name, tree in gradient.items() if largest(tree) > 0} for term, gradient in gradients.items()
    }
    encoders = {"encoder_t1", "encoder_t2"}
    assert reached == {
        "latent_t1": {"encoder_t1", "decoder"},
        "latent_t2": {"encoder_t2", "decoder"},
        "fused": encoders | {"decoder"},
        "variance": encoders,
    }
    after, _ = step(start, BATCH)
    total = jax.tree.map(lambda *terms: sum(terms), *gradients.values())
    near = functools.partial(np.testing.assert_allclose, atol=1e-5)
    jax.tree.map(near, moved(start, after, "net"), total)
    assert int(after.step) == 1


def test_with_one_source_its_error_counts_twice_and_nothing_varies():
    system = make(pairs=("t1ce", "t1"))
    state = jax.jit(system.init)(KEY, BATCH)
    terms = jax.jit(system.eval_step)(state, BATCH)
    assert float(terms["net/variance"]) == 0
    np.testing.assert_allclose(terms["net/fused"], terms["net/latent_t1ce"])
    np.testing.assert_allclose(terms["net/loss"], 2 * terms["net/fused"], rtol=1e-6)


def test_the_variance_has_a_weight(start):
    program = {weight: jax.jit(make(variance_weight=weight).eval_step)(start, BATCH) for weight in (0.0, 3.0)}
    difference = program[3.0]["net/loss"] - program[0.0]["net/loss"]
    np.testing.assert_allclose(difference, 3 * program[0.0]["net/variance"], rtol=1e-3)
    assert difference > 0


def test_predictions_read_the_sources_alone_and_are_not_negative(start, look):
    predicted = look(start, BATCH)[1]["synthesized"]
    unknown = {"image": BATCH["image"].at[..., np.array([1, 3])].set(jnp.nan)}
    np.testing.assert_array_equal(look(start, unknown)[1]["synthesized"], predicted)
    assert (predicted.shape, predicted.dtype) == ((2, 8, 8, 1), jnp.float32)
    assert float(predicted.min()) == 0.0 < float(predicted.max())


@pytest.mark.parametrize("level", [0.0, 1.0])
def test_constant_images_give_finite_losses_and_gradients(start, step, level):
    after, metrics = step(start, {"image": jnp.full_like(BATCH["image"], level)})
    assert all(np.isfinite(leaf).all() for leaf in jax.tree.leaves((metrics, after.params)))


def test_bfloat16_keeps_float32_weights_losses_and_images(start):
    system = make(dataclasses.replace(TINY, dtype="bfloat16"))
    assert "bf16[2,8,8,2]" in in_float32(system, start, BATCH)


def test_refusals():
    refused(r"\('t1\+t2', 't1'\); it must name one or more sources and one other modality", make, pairs=("t1+t2", "t1"))
    refused("pairs names pd, but the data has t1, t1ce, t2, flair", make, pairs=("pd", "t1"))
    for options, message in (
        ({"dtype": "half"}, "dtype is 'half'; choose one of float32, bfloat16"),
        ({"latent": 0}, "latent is 0; give at least 1"),
        ({"slope": -0.3}, "slope is -0.3; it may not be negative"),
    ):
        refused(message, make, dataclasses.replace(TINY, **options))
    refused("variance_weight is -1; it may not be negative", make, variance_weight=-1)
    odd = {"image": jnp.zeros((1, 8, 6, 4))}
    refused(r"multiples of 4, got shape \(1, 8, 6, 1\)", jax.eval_shape, make().init, KEY, odd)
