"""Every recipe: it reads, every row of every preset traces, and its tiny preset trains."""

import math

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jaxfuse.engine.build import initial_state
from jaxfuse.learning.transfer import apply_rules
from tests.recipe_phases import (
    RECIPES,
    argument,
    arguments,
    config_of,
    distinct,
    is_telling,
    phases,
    random_batch,
    traced,
)
from tests.tiny_systems import structure

CALLS = [(recipe, text) for recipe in RECIPES for text in arguments(recipe)]


@pytest.mark.parametrize("recipe", RECIPES)
def test_a_recipe_says_how_it_is_called_and_what_it_offers(recipe):
    module = RECIPES[recipe]
    assert f"python -m jaxfuse.train --config configs/{recipe}.py\n" in module.__doc__
    assert {"", "tiny", "paper"} <= set(module.PRESETS)
    default = module.get_config()
    assert default.name == recipe
    assert (default.preset, default.variant) == ("", "")
    assert default.row in module.ROWS
    for offered in (module.PRESETS, module.ROWS, module.VARIANTS):
        assert all(about and "\n" not in about for about in offered.values())


@pytest.mark.parametrize(("recipe", "text"), CALLS)
def test_a_call_is_what_it_was_asked_to_be(recipe, text):
    config = RECIPES[recipe].get_config(text)
    assert argument(config.preset, config.row, config.variant) == text
    # Nothing in a recipe may be unreachable from the command line or lost in config.json: ConfigDicts of plain values.
    assert config.to_json()


def _quick(recipe, text):
    """Every row at the tiny sizes, and the default row of the quicker recipe at all.

    The other sizes of a row have the same structure.
    """
    if not is_telling(recipe, text):
        return False
    config = config_of(recipe, text)
    return config.preset == "tiny" or (recipe == "cmff" and config.row == config_of(recipe, "").row)


@pytest.mark.parametrize(
    ("recipe", "text"), [pytest.param(*call, marks=[] if _quick(*call) else pytest.mark.slow) for call in CALLS]
)
def test_every_row_traces_with_its_transfers(recipe, text):
    """Forward, at the sizes of the preset; `test_systems.py` traces the training step of every row once."""
    donors = {}
    for name, built in phases(recipe, text).items():
        state, metrics = traced(recipe, text, name)
        assert {leaf.shape for leaf in metrics.values()} == {()}
        taken = jax.eval_shape(lambda p, d, rules=built.phase.rules: apply_rules(p, rules, d)[0], state.params, donors)
        assert structure(taken) == structure(state.params)
        donors |= {(name, best): state.params for best in (False, True)}


@pytest.mark.slow
@pytest.mark.parametrize(("recipe", "text", "name"), distinct(CALLS).values(), ids=distinct(CALLS))
def test_every_training_step_traces(recipe, text, name):
    built = phases(recipe, text)[name]
    state = built.state
    after, _ = jax.eval_shape(built.system.train_step, state, built.batch)
    assert jax.tree.structure(after) == jax.tree.structure(state)
    assert structure(after) == structure(state)


# Networks of Fuse4Seg, which its own recipe compiles.
_ELSEWHERE = ("fusion",)


@pytest.mark.parametrize(
    "recipe", [pytest.param(one, marks=[pytest.mark.slow] * (one in _ELSEWHERE)) for one in RECIPES]
)
def test_the_tiny_preset_trains_two_steps_of_each_phase(recipe):
    trained = {}
    for number, (name, built) in enumerate(phases(recipe, "tiny").items()):
        state = initial_state(built.system, built.phase, built.modalities, seed=0, number=number)
        donors = {(rule.donor, rule.best): trained[rule.donor].params for rule in built.phase.rules}
        params, moved = apply_rules(state.params, built.phase.rules, donors)
        assert (moved > 0) == bool(built.phase.rules)
        state = state.replace(params=params)
        first = jax.tree.map(np.asarray, state.params)
        step = jax.jit(built.system.train_step, donate_argnums=0)
        for seed in range(2):
            state, metrics = step(state, random_batch(built, seed))
            assert all(math.isfinite(value) for value in jax.device_get(metrics).values()), metrics
        assert step._cache_size() == 1
        assert int(state.step) == 2
        for player, old in first.items():
            changed = jax.tree.map(lambda a, b: bool(jnp.any(a != b)), old, state.params[player])
            assert any(jax.tree.leaves(changed)), player
        trained[name] = state
