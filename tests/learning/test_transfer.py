"""Rules of transfer: what they take, and that nothing goes unnoticed."""

import re

import jax.numpy as jnp
import numpy as np
import pytest

from jaxfuse.errors import UserError
from jaxfuse.learning.transfer import Rule, apply_rules, parse_rule
from tests.refusals import refused
from tests.tiny_systems import same


def _tree(value, head=4):
    return {"trunk": {"a": jnp.full((2, 3), value), "b": jnp.full(5, value)}, "head": jnp.full((3, head), value)}


PARAMS = {"net": {"branch_a": _tree(0.0), "branch_b": _tree(0.0)}}
DONORS = {("transition", False): {"generators": {"ab": _tree(1.0, head=2), "ba": _tree(2.0, head=2)}}}
BOTH = (
    Rule("net/branch_a/trunk", "transition", "generators/ab/trunk"),
    Rule("net/branch_b/trunk", "transition", "generators/ba/trunk"),
)


def test_each_branch_takes_its_donor_and_keeps_its_head():
    params, moved = apply_rules(PARAMS, BOTH, DONORS)
    assert moved == 2 * (6 + 5)
    taken = {f"branch_{a}": _tree(value) | {"head": jnp.zeros((3, 4))} for a, value in (("a", 1.0), ("b", 2.0))}
    same(params, {"net": taken})
    # The parameters that came in are untouched.
    same(PARAMS["net"], dict.fromkeys(("branch_a", "branch_b"), _tree(0.0)))


def test_no_rule_moves_nothing():
    params, moved = apply_rules(PARAMS, (), {})
    assert moved == 0
    same(params, PARAMS)


def test_a_transform_sees_donor_and_target_before_the_check():
    def widen(donor, target):
        return jnp.pad(donor, ((0, 0), (0, target.shape[1] - donor.shape[1])))

    rule = Rule("net/branch_a/head", "transition", "generators/ab/head", transform=widen)
    params, moved = apply_rules(PARAMS, (rule,), DONORS)
    assert moved == 12
    np.testing.assert_array_equal(params["net"]["branch_a"]["head"], [[1, 1, 0, 0]] * 3)


def test_best_and_last_are_different_donors():
    rule = parse_rule(("net/branch_a/trunk", "transition@best:generators/ab/trunk"))
    params, _ = apply_rules(PARAMS, (rule,), DONORS | {("transition", True): {"generators": {"ab": _tree(9.0)}}})
    assert float(params["net"]["branch_a"]["trunk"]["b"][0]) == 9.0


def test_other_shapes_stop_with_both_trees():
    with pytest.raises(UserError) as error:
        apply_rules(PARAMS, (Rule("net/branch_a", "transition", "generators/ab"),), DONORS)
    target, source = str(error.value).split("source:")
    for words in ("transition:generators/ab -> net/branch_a: the trees differ", "['head'] (3, 4)"):
        assert words in target
    assert "['trunk']['a'] (2, 3)" in target
    for words in ("['head'] (3, 2)", "['trunk']['b'] (5,)"):
        assert words in source


def test_a_leaf_missing_on_either_side_stops():
    partial = {"trunk": {"a": jnp.ones((2, 3))}}
    donors = {("transition", False): {"generators": {"ab": partial, "ba": _tree(2.0)}}}
    refused("the trees differ", apply_rules, PARAMS, BOTH, donors)


@pytest.mark.parametrize(
    ("target", "source", "sentence"),
    [
        ("net/branch_c/trunk", "generators/ab/trunk", "in the new parameters: net has branch_a, branch_b"),
        ("net/branch_a/trunk", "generators/ab/torso", "of phase transition: generators/ab has trunk, head"),
        ("critic", "generators", "in the new parameters: the top has net"),
        ("net/branch_a/head/x", "generators", "in the new parameters: net/branch_a/head has a leaf"),
    ],
)
def test_a_path_that_matches_nothing_stops(target, source, sentence):
    refused(f"matches nothing .*{sentence}", apply_rules, PARAMS, (Rule(target, "transition", source),), DONORS)


def test_rules_are_read_from_a_config():
    for source in ("first:net/trunk", "first@last:net/trunk"):
        assert parse_rule(("net/trunk", source)) == Rule("net/trunk", "first", "net/trunk")
    assert parse_rule(("net", "first@best:net")) == Rule("net", "first", "net", best=True)
    assert parse_rule(("net", "first:net", "models.baselines.unet:inflate")).transform.__name__ == "inflate"


@pytest.mark.parametrize(
    ("entry", "sentence"),
    [
        (("net",), "is not understood; write (target, 'phase:source')"),
        (("net", "first"), "is not understood"),
        ("net first:net", "is not understood"),
        (("net", "first@newest:net"), "asks for the checkpoint 'newest'; choose @last or @best"),
        (("net", "first:net", "models.nothing:inflate"), "'models.nothing:inflate' names no function"),
        (("net", "first:net", "models.baselines.unet:deflate"), "'models.baselines.unet:deflate' names no function"),
    ],
)
def test_rules_that_cannot_be_read_are_refused(entry, sentence):
    refused(re.escape(sentence), parse_rule, entry)
