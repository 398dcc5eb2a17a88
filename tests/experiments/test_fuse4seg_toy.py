"""On networks of a few weights the recipe's leader moves along the exact gradient."""

import pytest

from experiments.fuse4seg_rows.toy import trained_by_recipe


@pytest.mark.slow
@pytest.mark.parametrize("moves", [20, 40])
def test_the_leader_of_the_recipe_moves_along_the_exact_gradient(moves):
    assert trained_by_recipe(moves) >= 0.95
