"""Preconditioners by layers: fewer steps at an equal tolerance where layers differ in scale."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jaxfuse import implicit
from tests.implicit.problems import near, refuses, spd

# Three layers whose curvatures lie a factor of a thousand apart, coupled a little; the middle one has two leaves.
SCALES, SIZES = (1e3, 1.0, 1e-3), (6, 4, 5)
GROWTH = np.repeat(np.sqrt(SCALES), SIZES)
COUPLED = np.random.default_rng(0).normal(size=(15, 15)) / 200
MATRIX = GROWTH[:, None] * (np.eye(15) + COUPLED + COUPLED.T) * GROWTH
for start, size in zip((0, 6, 10), SIZES, strict=True):
    block = slice(start, start + size)
    MATRIX[block, block] += (spd(size, 10, seed=start) - 0.5 * np.eye(size)) * GROWTH[start] ** 2
X = np.random.default_rng(1).normal(size=15)
SOLUTION = np.linalg.solve(MATRIX, X)
EXACT = np.linalg.solve(MATRIX, GROWTH)


def tree(flat):
    """The structure of a network: every leaf lies below "params"."""
    return {
        "params": {
            "first": {"kernel": flat[:6].reshape(2, 3)},
            "middle": {"bias": flat[6:7], "kernel": flat[7:10]},
            "last": flat[10:],
        },
        "steps": 3,
    }


def joined(y):
    params = y["params"]
    leaves = (params["first"]["kernel"].ravel(), params["middle"]["bias"], params["middle"]["kernel"], params["last"])
    return jnp.concatenate(leaves)


def lower(x, y):
    flat = joined(y)
    return 0.5 * flat @ (jnp.asarray(MATRIX) @ flat) - x @ flat


def upper(x, y):
    return joined(y) @ jnp.asarray(GROWTH)


def test_fewer_steps_at_an_equal_tolerance():
    y = tree(jnp.asarray(SOLUTION))

    @jax.jit
    def found(x):
        made = (
            None,
            implicit.layer_preconditioner(lower, x, y),
            implicit.block_preconditioner(lower, x, y),
        )
        solvers = [implicit.cg(tolerance=1e-10, steps=400, preconditioner=each) for each in made]
        return [implicit.hypergradient(upper, lower, x, y, estimator=solver) for solver in solvers], made[2]

    results, kept = found(jnp.asarray(X))
    for gradient, info in results[1:]:
        near(gradient, EXACT, 1e-5)
        assert bool(info.converged)
    plain, layers, modules = (int(info.steps) for _, info in results)
    assert modules < layers <= plain / 2
    assert modules <= plain / 4
    assert [len(group) for group in kept.groups] == [1, 1, 2]  # first, last, middle
    assert [factor.shape for factor in kept.factors] == [(6, 6), (5, 5), (4, 4)]


@pytest.mark.slow
def test_blocks_invert_what_they_were_made_of():
    """Complex, coarse and empty leaves too; damping is added to the curvature."""
    y = {"z": jnp.array([1.0 + 1.0j]), "h": jnp.ones(2, jnp.float32), "e": jnp.zeros(0), "s": jnp.array(1.0)}

    def lower(x, y):
        squares = jnp.sum(y["z"].real ** 2 + 2 * y["z"].imag ** 2) + jnp.sum(3 * y["h"] ** 2).astype(float)
        return squares + 4 * y["s"] ** 2 + jnp.sum(y["e"])

    made = implicit.block_preconditioner(lower, 0.0, y, by="leaf", damping=1.0)
    near(made(y), {"z": [1 / 3 + 1j / 5], "h": [1 / 7, 1 / 7], "e": [], "s": 1 / 9}, 1e-6)


def test_refused():
    y = {"a": jnp.ones(3), "b": jnp.ones(2)}
    square = lambda x, y: jnp.sum(y["a"] ** 2) + jnp.sum(y["b"] ** 2)
    refuses(
        r"the block \['a'\] has 3 unknowns, more than the limit of 2",
        lambda: implicit.block_preconditioner(square, 0.0, y, limit=2),
    )
    refuses("limit is 1024 and chunk 0", lambda: implicit.block_preconditioner(square, 0.0, y, chunk=0))
    for make in (implicit.block_preconditioner, implicit.layer_preconditioner):
        refuses("damping is -1.0; at least 0", lambda make=make: make(square, 0.0, y, damping=-1.0))
    refuses("probes is 0", lambda: implicit.layer_preconditioner(square, 0.0, y, probes=0))
    damped = implicit.hessian(damping=1.0)
    refuses(
        "damping is an argument of its own", lambda: implicit.layer_preconditioner(square, 0.0, y, curvature=damped)
    )
    made = implicit.LayerPreconditioner([jnp.array(2.0)], ((0,),))
    refuses("for 1 variables, and 2 came", lambda: made(y))


def test_a_layer_that_is_not_curved_takes_the_largest_scale():
    square = lambda x, y: 8 * y["a"] ** 2 - y["b"] ** 2
    made = implicit.layer_preconditioner(square, 0.0, {"a": jnp.array(1.0), "b": jnp.array(1.0)})
    assert [float(factor) for factor in made.factors] == [16.0, 16.0]
