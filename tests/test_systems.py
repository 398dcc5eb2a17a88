"""The contract that training, validation and prediction rely on, for every System that a recipe builds."""

import dataclasses

import jax
import jax.numpy as jnp
import pytest

from jaxfuse.engine.build import build_system, example_batch
from jaxfuse.engine.judging.segmentation import segmentation
from jaxfuse.errors import UserError
from jaxfuse.learning.system import System
from jaxfuse.models.baselines.pointwise import Pointwise
from tests.recipe_phases import RECIPES, argument, concrete_state, distinct, has_implicit_scheme, is_telling, phases
from tests.tiny_systems import count, structure, valid_system

TINY = [(recipe, argument("tiny", row)) for recipe in RECIPES for row in RECIPES[recipe].ROWS]


def _is_slow(recipe, text, name):
    """Fuse4Seg's ablations take seconds each to trace, and its implicit schemes tens of them."""
    ablation = recipe == "fuse4seg" and ("row=wo_" in text or "row=film_" in text)
    return has_implicit_scheme(recipe, text, name) or ablation or not is_telling(recipe, text)


SYSTEMS = {
    name: pytest.param(call, marks=[pytest.mark.slow] if _is_slow(*call) else [])
    for name, call in distinct(TINY).items()
}


@pytest.fixture(scope="module", autouse=True)
def strict_ranks():
    """Refuses a rank that is promoted in silence, in every network, loss and step."""
    with jax.numpy_rank_promotion("raise"):
        yield


@pytest.fixture(scope="module", params=SYSTEMS.values(), ids=SYSTEMS.keys())
def built(request):
    recipe, text, name = request.param
    return phases(recipe, text)[name]


@pytest.fixture(scope="module")
def state(built):
    return built.state


def test_it_has_the_attributes_of_a_system(built):
    assert isinstance(built.system, System)
    assert built.system.geometry.ndim == len(built.phase.patch)


def test_players_key_parameters_statistics_and_optimizers(built, state):
    players = set(built.system.players)
    assert set(state.params) == set(state.stats) == set(state.opt_state) == players
    learns = not isinstance(getattr(built.system, "network", None), Pointwise)
    assert all(jax.tree.leaves(state.params[player]) for player in players) == learns


def test_a_step_counts_and_keeps_the_form_of_the_state(built, state):
    seen = {}

    # Returning the step alone leaves nothing of the networks to compile.
    @jax.jit
    def count(state, batch):
        after, metrics = built.system.train_step(state, batch)
        seen["forms"] = structure((after, metrics))
        return after.step

    start = concrete_state(state)
    assert int(count(start, built.batch)) == 1
    assert int(count(start.replace(step=jnp.int32(6)), built.batch)) == 7
    after, metrics = seen["forms"]
    # The loop donates the state and compiles the step once.
    assert after == structure(state)
    _check_metrics(built, metrics)


def test_an_evaluation_gives_scalars_and_needs_neither_optimizers_nor_memory(built, state):
    weights = state.replace(opt_state={}, memory={})
    metrics = jax.eval_shape(built.system.eval_step, weights, built.batch)
    _check_metrics(built, structure(metrics))


def _check_metrics(built, forms):
    assert forms
    assert all(form == ((), jnp.float32) for form in forms.values()), forms
    assert {name.split("/")[0] for name in forms} <= set(built.system.players)


def test_predictions_are_named_lose_the_margin_and_take_any_multiple_of_the_divisor(built, state):
    _check_predictions(built.system, state, built.batch["image"].shape)


@pytest.mark.parametrize(("ndim", "divisor"), [(2, 1), (3, 1), (2, 4)])
def test_predictions_of_valid_convolutions_lose_the_margin_on_each_side(ndim, divisor):
    system = valid_system(3, ndim=ndim, divisor=divisor)
    sides = (12, 8, 16)[:ndim]
    batch = {"image": jnp.zeros((2, *sides, 1)), "label": jnp.zeros((2, *(side - 6 for side in sides)), jnp.int32)}
    state = jax.eval_shape(system.init, jax.random.key(0), batch)
    _check_predictions(system, state, batch["image"].shape)
    wrong = dataclasses.replace(system, geometry=dataclasses.replace(system.geometry, margin=2))
    with pytest.raises(AssertionError):
        _check_predictions(wrong, state, batch["image"].shape)


def _check_predictions(system, state, image_shape):
    batch, *sides, channels = image_shape
    sides[0] += system.geometry.divisor
    inputs = {"image": jax.ShapeDtypeStruct((batch, *sides, channels), jnp.float32)}
    outputs = jax.eval_shape(system.predict, state.replace(opt_state={}, memory={}), inputs)
    assert system.primary in outputs
    expected = (batch, *(side - 2 * system.geometry.margin for side in sides))
    for name, output in outputs.items():
        assert (output.shape[:-1], output.dtype) == (expected, jnp.float32), name


def test_probabilities_are_outputs_over_the_classes(built, state):
    system = built.system
    weights = state.replace(opt_state={}, memory={})
    image = example_batch(dataclasses.replace(built.phase, unpaired=False), built.modalities, margin=0)["image"]
    outputs = jax.eval_shape(system.predict, weights, {"image": image})
    assert set(system.probabilities) <= set(outputs)
    for name in system.probabilities:
        assert outputs[name].shape[-1] == len(built.classes), name
    # Every phase that is judged as a segmentation has its result among them.
    if built.phase.assess is segmentation:
        assert system.primary in system.probabilities


def test_named_networks_share_out_all_parameters(built, state):
    named = built.system.networks(state.params)
    assert count(named) == count(state.params)


def test_unpaired_batches_are_taken_where_it_says_so_and_refused_elsewhere(built, state):
    unpaired = dataclasses.replace(built.phase, unpaired=True)
    if built.system.accepts_unpaired:
        system = build_system(unpaired, built.modalities, built.classes, 4)
        batch = example_batch(unpaired, built.modalities, margin=system.geometry.margin)
        assert set(batch) == {"a", "b"}
        assert jax.eval_shape(system.eval_step, state, batch)
    else:
        with pytest.raises(UserError, match="unpaired must be False"):
            build_system(unpaired, built.modalities, built.classes, 4)
