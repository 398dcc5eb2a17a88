"""The contract that training, validation and prediction rely on, for every System that a recipe builds."""

import jax
import jax.numpy as jnp
import pytest
from recipe_phases import RECIPES, argument, concrete_state, distinct, phases

from jaxfuse.learning.system import System

TINY = [(recipe, argument("tiny", row)) for recipe in RECIPES for row in RECIPES[recipe].ROWS]
SYSTEMS = distinct(TINY)


@pytest.fixture(scope="module", params=SYSTEMS.values(), ids=SYSTEMS.keys())
def built(request):
    recipe, text, name = request.param
    return phases(recipe, text)[name]


@pytest.fixture(scope="module")
def state(built):
    return built.state


def _inputs(built):
    """A batch as prediction gets it: the image alone."""
    batch = built.batch
    return {"image": batch["image"]}


def test_it_has_the_attributes_of_a_system(built):
    assert isinstance(built.system, System)
    assert built.system.geometry.ndim == len(built.phase.patch)


def test_players_key_parameters_statistics_and_optimizers(built, state):
    players = set(built.system.players)
    assert set(state.params) == set(state.stats) == set(state.opt_state) == players
    assert all(jax.tree.leaves(state.params[player]) for player in players)


def test_a_step_counts_and_keeps_the_form_of_the_state(built, state):
    # Asking for the step alone leaves nothing of the networks to compile.
    count = jax.jit(lambda s, b: built.system.train_step(s, b)[0].step)
    start = concrete_state(state)
    assert int(count(start, built.batch)) == 1
    assert int(count(start.replace(step=jnp.int32(6)), built.batch)) == 7
    after, metrics = jax.eval_shape(built.system.train_step, state, built.batch)
    assert jax.tree.structure(after) == jax.tree.structure(state)
    assert (after.rng.shape, after.rng.dtype) == (state.rng.shape, state.rng.dtype)
    _check_metrics(built, metrics)


def test_an_evaluation_gives_scalars_under_the_players_names(built, state):
    _check_metrics(built, jax.eval_shape(built.system.eval_step, state, built.batch))


def _check_metrics(built, metrics):
    assert metrics
    for name, value in metrics.items():
        assert (value.shape, value.dtype) == ((), jnp.float32), name
        assert name.split("/")[0] in built.system.players, name


def test_an_evaluation_needs_neither_optimizers_nor_memory(built, state):
    weights = state.replace(opt_state={}, memory={})
    assert jax.eval_shape(built.system.eval_step, weights, built.batch)
    assert jax.eval_shape(built.system.predict, weights, _inputs(built))


def test_predictions_are_named_and_lose_the_margin(built, state):
    system, inputs = built.system, _inputs(built)
    outputs = jax.eval_shape(system.predict, state, inputs)
    assert system.primary in outputs
    batch, *sides, _ = inputs["image"].shape
    expected = (batch, *(side - 2 * system.geometry.margin for side in sides))
    for name, output in outputs.items():
        assert output.shape[:-1] == expected, name
        assert output.dtype == jnp.float32, name


def test_every_multiple_of_the_divisor_is_a_patch(built, state):
    batch, *sides, channels = _inputs(built)["image"].shape
    longer = (batch, sides[0] + built.system.geometry.divisor, *sides[1:], channels)
    outputs = jax.eval_shape(built.system.predict, state, {"image": jax.ShapeDtypeStruct(longer, jnp.float32)})
    margin = built.system.geometry.margin
    assert outputs[built.system.primary].shape[1] == longer[1] - 2 * margin


def test_named_networks_share_out_all_parameters(built, state):
    named = built.system.networks(state.params)
    assert _count(named) == _count(state.params)


def _count(tree):
    return sum(leaf.size for leaf in jax.tree.leaves(tree))


def test_unpaired_batches_are_accepted_where_it_says_so(built, state):
    two = {"a": built.batch, "b": built.batch}
    if built.system.accepts_unpaired:
        assert jax.eval_shape(built.system.train_step, state, two)
        assert jax.eval_shape(built.system.eval_step, state, two)
    else:
        with pytest.raises(KeyError):
            jax.eval_shape(built.system.train_step, state, two)
