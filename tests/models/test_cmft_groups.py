"""CMFT and CMFF of three groups; with two, the cycle GAN of CMFT."""

import jax
import pytest

from jaxfuse.models import cmff, cmft
from jaxfuse.models.cmft_groups import make_group_translation
from tests.refusals import refused
from tests.tiny_systems import close, counts, gradient_descent, made, moving, structure

THREE = ("t1+t1ce", "t2", "flair")
PLAYERS = ("generators", "discriminators")


def _groups(tiny, pairs=THREE, **changes):
    options = tiny.translation | {"pairs": pairs} | changes
    return made(make_group_translation, optimizers=gradient_descent(*PLAYERS), **options)


@pytest.mark.slow
def test_with_two_groups_a_step_is_that_of_cmft(tiny, translation):
    state, after, metrics = translation
    found, values = jax.jit(_groups(tiny, tiny.translation["pairs"]).train_step)(state, tiny.batch)
    close(found.params, after.params)
    close(found.memory, after.memory)
    close(values, metrics)


def test_each_of_three_generators_makes_all_other_groups(tiny):
    system = _groups(tiny)
    state = jax.eval_shape(system.init, tiny.key, tiny.batch)
    assert set(state.params["generators"]) == {"abc", "bac", "cab"}
    heads = {name: tree["head"]["conv"]["kernel"].shape[-1] for name, tree in state.params["generators"].items()}
    assert heads == {"abc": 2, "bac": 3, "cab": 3}
    outputs = jax.eval_shape(system.predict, state, tiny.batch)
    channels = {"a": 2, "b": 1, "c": 1}
    assert {name: out.shape[-1] for name, out in outputs.items()} == {
        f"{kind}_{side}": count for kind in ("fake", "cycle") for side, count in channels.items()
    }
    after, metrics = jax.eval_shape(system.train_step, state, tiny.batch)
    assert structure(after) == structure(state)
    assert {f"generators/cycle_{side}" for side in "abc"} < set(metrics)
    assert set(system.networks(state.params)) == {"G_ABC", "G_BAC", "G_CAB", "D_A", "D_B", "D_C"}


def test_trunks_of_three_generators_are_those_of_three_branches(tiny):
    translation = jax.eval_shape(_groups(tiny).init, tiny.key, tiny.batch).params["generators"]
    system = made(cmff.make_system, optimizers=gradient_descent("net"), **tiny.fusion | {"pairs": THREE})
    state = jax.eval_shape(system.init, tiny.key, tiny.batch)
    for branch, generator in (("branch_a", "abc"), ("branch_b", "bac"), ("branch_c", "cab")):
        assert structure(state.params["net"][branch]["trunk"]) == structure(translation[generator]["trunk"])
    assert system.probabilities == ("S_A", "S_B", "S_C", "S_F")
    after, metrics = jax.eval_shape(system.train_step, state, tiny.batch)
    assert structure(after) == structure(state)
    assert {"net/S_C", "net/S_F"} < set(metrics)
    two = made(cmff.make_system, optimizers=gradient_descent("net"), **tiny.fusion)
    pair = counts(two.networks(jax.eval_shape(two.init, tiny.key, tiny.batch).params))
    width, base = 2, 2
    # One branch more: its two maps, and a further masked copy of the fused features.
    more = 27 * width * (2 * base + width)
    assert counts(system.networks(state.params))["S_F"] == pair["S_F"] + more


@pytest.mark.slow
def test_each_term_moves_the_networks_that_it_should_and_no_others(tiny):
    system = _groups(tiny)
    state = jax.jit(system.init)(tiny.key, tiny.batch)
    terms = ["generators/adversarial_b", "generators/cycle_a", "discriminators/critic_c"]
    found = moving(system, state, tiny.batch, terms)
    assert found["generators/adversarial_b"] == {"G_ABC", "G_CAB", "D_B"}
    assert found["generators/cycle_a"] == {"G_ABC", "G_BAC", "G_CAB"}
    assert found["discriminators/critic_c"] == {"G_ABC", "G_BAC", "D_C"}


def test_refusals(tiny):
    refused("it must name two to 4 groups", _groups, tiny, ("t1+t1ce+t2+flair",))
    refused("t1 stands twice", _groups, tiny, ("t1", "t2", "t1+flair"))
    assert len(cmft.pairing(("t1", "t1ce", "t2", "flair"), ("t1", "t1ce", "t2", "flair"), most=4).groups) == 4
