"""Rules of transfer: what they take, and that nothing goes unnoticed."""

import jax.numpy as jnp
import numpy as np
import pytest

from jaxfuse.errors import UserError
from jaxfuse.learning.transfer import Rule, apply_rules, parse_rule
from tests.refusals import refused


def _tree(value, head=4):
    return {"trunk": {"a": jnp.full((2, 3), value), "b": jnp.full(5, value)}, "head": jnp.full((3, head), value)}


def _params():
    return {"net": {"branch_a": _tree(0.0), "branch_b": _tree(0.0)}}


def _donors():
    return {("transition", False): {"generators": {"ab": _tree(1.0, head=2), "ba": _tree(2.0, head=2)}}}


BOTH = (
    Rule("net/branch_a/trunk", "transition", "generators/ab/trunk"),
    Rule("net/branch_b/trunk", "transition", "generators/ba/trunk"),
)


def test_each_branch_takes_its_donor_and_keeps_its_head():
    fresh = _params()
    params, moved = apply_rules(fresh, BOTH, _donors())
    assert moved == 2 * (6 + 5)
    for branch, value in (("branch_a", 1.0), ("branch_b", 2.0)):
        np.testing.assert_array_equal(params["net"][branch]["trunk"]["a"], np.full((2, 3), value))
        np.testing.assert_array_equal(params["net"][branch]["trunk"]["b"], np.full(5, value))
        np.testing.assert_array_equal(params["net"][branch]["head"], np.zeros((3, 4)))
    # The parameters that came in are untouched.
    assert float(fresh["net"]["branch_a"]["trunk"]["a"].sum()) == 0.0


def test_no_rule_moves_nothing():
    params, moved = apply_rules(_params(), (), {})
    assert moved == 0
    assert float(params["net"]["branch_a"]["trunk"]["b"].sum()) == 0.0


def test_a_transform_sees_donor_and_target_before_the_check():
    def widen(donor, target):
        return jnp.pad(donor, ((0, 0), (0, target.shape[1] - donor.shape[1])))

    rule = Rule("net/branch_a/head", "transition", "generators/ab/head", transform=widen)
    params, moved = apply_rules(_params(), (rule,), _donors())
    assert moved == 12
    np.testing.assert_array_equal(params["net"]["branch_a"]["head"], [[1, 1, 0, 0]] * 3)


def test_best_and_last_are_different_donors():
    rule = parse_rule(("net/branch_a/trunk", "transition@best:generators/ab/trunk"))
    donors = _donors() | {("transition", True): {"generators": {"ab": _tree(9.0)}}}
    params, _ = apply_rules(_params(), (rule,), donors)
    assert float(params["net"]["branch_a"]["trunk"]["b"][0]) == 9.0


def test_other_shapes_stop_with_both_trees():
    with pytest.raises(UserError) as error:
        apply_rules(_params(), (Rule("net/branch_a", "transition", "generators/ab"),), _donors())
    target, source = str(error.value).split("source:")
    assert "transition:generators/ab -> net/branch_a: the trees differ" in target
    assert "['head'] (3, 4)" in target
    assert "['trunk']['a'] (2, 3)" in target
    assert "['head'] (3, 2)" in source
    assert "['trunk']['b'] (5,)" in source


def test_a_leaf_missing_on_either_side_stops():
    donors = _donors()
    del donors["transition", False]["generators"]["ab"]["trunk"]["b"]
    refused("the trees differ", apply_rules, _params(), BOTH, donors)


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
    with pytest.raises(UserError, match="matches nothing") as error:
        apply_rules(_params(), (Rule(target, "transition", source),), _donors())
    assert sentence in str(error.value)


def test_rules_are_read_from_a_config():
    assert parse_rule(("net/trunk", "first:net/trunk")) == Rule("net/trunk", "first", "net/trunk")
    assert parse_rule(("net/trunk", "first@last:net/trunk")) == Rule("net/trunk", "first", "net/trunk")
    assert parse_rule(("net", "first@best:net")) == Rule("net", "first", "net", best=True)
    with_transform = parse_rule(("net", "first:net", "models.baselines.unet:inflate"))
    assert with_transform.transform is not None
    assert with_transform.transform.__name__ == "inflate"


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
    with pytest.raises(UserError) as error:
        parse_rule(entry)
    assert sentence in str(error.value)
