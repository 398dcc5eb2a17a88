"""Maxima whose gradient selects."""

import re
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import jaxfuse
from jaxfuse.nn.maximum import largest

PACKAGE = Path(jaxfuse.__file__).parent


@pytest.mark.parametrize("axes", [0, -1, (1, 2), (2, 0), (0, 1, 2)])
@pytest.mark.parametrize("keepdims", [False, True])
def test_values_are_those_of_numpy(axes, keepdims):
    x = np.random.default_rng(0).normal(size=(3, 4, 5)).astype(np.float32)
    np.testing.assert_array_equal(
        largest(jnp.array(x), axes, keepdims=keepdims), x.max(axes, keepdims=keepdims), strict=True
    )


def test_infinite_values_and_no_number():
    x = jnp.array([[-jnp.inf, -jnp.inf], [1.0, jnp.inf], [jnp.nan, 2.0], [2.0, jnp.nan]])
    np.testing.assert_array_equal(largest(x, 1), [-np.inf, np.inf, np.nan, np.nan])


def test_the_gradient_goes_to_the_first_of_equal_elements():
    x = jnp.array([[0.0, 2.0, 2.0], [5.0, 5.0, 5.0]])
    grad = jax.grad(lambda x: (largest(x, 1) ** 2).sum())
    np.testing.assert_array_equal(grad(x), [[0, 4, 0], [10, 0, 0]])
    # Row by row, in whichever order the axes are named.
    over_both = jax.grad(lambda x: largest(x, (1, 0)))(jnp.array([[0.0, 3.0], [3.0, 1.0]]))
    np.testing.assert_array_equal(over_both, [[0, 1], [0, 0]])
    tangent = jnp.array([[1.0, 3.0, 7.0], [2.0, 4.0, 8.0]])
    np.testing.assert_array_equal(jax.jvp(grad, (x,), (tangent,))[1], [[0, 6, 0], [4, 0, 0]])


def test_nothing_is_divided_so_that_elements_made_anew_may_differ_by_rounding():
    def objective(taken):
        return lambda x: taken(jnp.sin(x)).sum()

    ours, theirs = (
        jax.jit(jax.grad(objective(taken))).lower(jnp.ones((2, 8))).as_text()
        for taken in (lambda x: largest(x, -1), lambda x: x.max(-1))
    )
    assert "divide" in theirs
    assert "divide" not in ours


# Maxima of what nothing is differentiated by: images as they come.
OF_IMAGES = {f"models/{name}.py" for name in ("fuse4seg/fusion", "baselines/pointwise", "baselines/tardal")}


def test_networks_take_no_other_maximum():
    found = {
        path.relative_to(PACKAGE).as_posix()
        for folder in ("nn", "models")
        for path in (PACKAGE / folder).rglob("*.py")
        if re.search(r"\.a?(max|min)\(", path.read_text(encoding="utf-8"))
    }
    assert found == OF_IMAGES
