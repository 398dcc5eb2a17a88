"""The gradient itself: right with no options, on any pytree, under any transformation."""

import jax
import numpy as np
import pytest
from implicit_problems import error, logistic, quadratic

from jaxfuse import implicit


@pytest.mark.usefixtures("double")
@pytest.mark.parametrize("case", [quadratic, logistic])
def test_is_right_with_no_options(case):
    case = case()
    gradient, info = jax.jit(lambda x, y: implicit.hypergradient(case.upper, case.lower, x, y))(case.x, case.y)
    assert jax.tree.structure(gradient) == jax.tree.structure(case.x)
    assert error(gradient, case.exact) < 1e-12
    assert bool(info.check().converged)
    assert np.isclose(info.value, case.upper(case.x, case.y))
