"""Captured values: taken out where they are traced, left where they are not, and told apart in estimators."""

import functools

import jax
import jax.numpy as jnp
import numpy as np

from jaxfuse import implicit
from jaxfuse.implicit.closures import hoist, may_capture


def test_traced_values_become_an_argument_and_others_stay():
    constant, counts = jnp.arange(3.0), []

    def one(row):
        function, held = hoist(lambda tree, b: {"out": tree["a"] * row + b * constant}, {"a": row}, 2.0)
        counts.append(len(held))
        return function([10 * held[0]], {"a": row}, 2.0)["out"]

    rows = jnp.arange(6.0).reshape(2, 3)
    np.testing.assert_array_equal(jax.vmap(one)(rows), 10 * rows**2 + 2 * constant[None])
    assert counts == [1]


def test_what_may_capture():
    assert not may_capture((implicit.cg(), implicit.gmres(start=np.ones(2).tolist()), implicit.hessian(), 1e-3, None))
    assert may_capture(implicit.cg(preconditioner=lambda v: v))
    assert may_capture(implicit.gauss_newton(lambda x, y: y, jnp.sum))
    seen = []
    jax.vmap(lambda rate: seen.append(may_capture(implicit.hessian(damping=rate))) or rate)(jnp.ones(2))
    assert seen == [True]


def test_what_is_hoisted_is_differentiated():
    def outer(p):
        function, held = hoist(lambda x: p**2 * x, 1.0)
        return functools.partial(function, held)(3.0)

    assert float(jax.jit(jax.grad(outer))(2.0)) == 12
