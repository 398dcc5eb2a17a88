"""Running with JAX_DEBUG_NANS=1, which stops at the first NaN that any operation makes.

A healthy problem makes none: what is not known is a number too, -1 for a length and infinite for a curvature.
"""

import jax
import jax.numpy as jnp
import lineax as lx
import numpy as np
import pytest

from jaxfuse import implicit
from tests.faults.catalogue import given, table
from tests.implicit.problems import near, quadratic

ROOT_SOLVERS = {
    "dense": implicit.dense(),
    "gmres": implicit.gmres(),
    "bicgstab": implicit.bicgstab(),
    "lsmr": implicit.lsmr(),
    "lineax": implicit.linear(lx.LU()),
    "neumann": implicit.neumann(60, 0.4),
    "fixed_point": implicit.fixed_point(0.4, steps=500),
}
ESTIMATORS = (
    *(None, implicit.cg(), implicit.minres(), implicit.gmres(), implicit.bicgstab(), implicit.lsmr()),
    *(implicit.linear(lx.CG(rtol=1e-8, atol=1e-8)), implicit.neumann(5, 0.5), implicit.fixed_point(0.5, steps=500)),
    *(implicit.identity(0.5), implicit.direct(), implicit.rank_one(damping=1.0), implicit.finite_difference()),
    *(implicit.truncated(3, learning_rate=0.5), implicit.unroll(3, learning_rate=0.5)),
    implicit.one_step(learning_rate=0.5),
)


@pytest.fixture(autouse=True)
def no_nans():
    with jax.debug_nans(True):
        yield


def residual(x, y):
    """A root that is no minimum."""
    return {"a": 2 * y["a"] + y["b"] - x, "b": y["b"] - 0.5 * y["a"]}


X, Y = 2.5, {"a": 1.0, "b": 0.5}


@table(
    "solver",
    *((f"the derivative of a root, by {name}, outside jit", "right", each) for name, each in ROOT_SOLVERS.items()),
)
def test_roots(solver):
    x, y = jnp.asarray(X), jax.tree.map(jnp.asarray, Y)
    gradient, info = implicit.root_vjp(residual, x, y, {"a": jnp.asarray(1.0), "b": jnp.asarray(0.0)}, estimator=solver)
    near(gradient, 0.4, 1e-9)
    assert info.check() is info
    nothing, _ = implicit.root_vjp(residual, x, y, jax.tree.map(jnp.zeros_like, y), estimator=solver)
    assert float(nothing) == 0


@given("the tangent of a root and of a fixed point, and derivatives attached to them", "right, no NaN")
def test_other_modes():
    x, y = jnp.asarray(X), jax.tree.map(jnp.asarray, Y)
    step = lambda x, y: jax.tree.map(lambda a, r: a - 0.4 * r, y, residual(x, y))
    cotangent = {"a": jnp.asarray(1.0), "b": jnp.asarray(0.0)}
    near(implicit.root_jvp(residual, x, y, jnp.asarray(1.0))[0], {"a": 0.4, "b": 0.2}, 1e-12)
    near(implicit.fixed_point_vjp(step, x, y, cotangent)[0], 0.4, 1e-12)
    for attach, function in ((implicit.implicit_root, residual), (implicit.implicit_fixed_point, step)):
        near(jax.grad(lambda x, attach=attach, of=function: attach(of, x, y)["a"])(x), 0.4, 1e-12)


@given("hypergradients by every estimator, their evidence read inside jit", "no NaN")
def test_hypergradients():
    case = quadratic(n=6, condition=4.0, outer=2)

    @jax.jit
    def found(x, y):
        pairs = [implicit.hypergradient(case.upper, case.lower, x, y, estimator=each) for each in ESTIMATORS]
        return [(gradient, info, info.scalars()) for gradient, info in pairs]

    for gradient, info, scalars in found(case.x, case.y):
        assert np.all(np.isfinite(gradient))
        assert bool(info.converged) or info.estimator == "rank_one"  # which is refused at an optimum
        assert not any(np.isnan(value) for value in scalars.values())


@given("a hypergradient by gmres, by identity, and attached to a minimum, outside jit", "no NaN")
def test_outside_jit():
    case = quadratic(n=3, condition=2.0, outer=2)
    for each in (None, implicit.gmres(), implicit.identity()):
        _, info = implicit.hypergradient(case.upper, case.lower, case.x, case.y, estimator=each)
        assert bool(info.converged)
    gradient = jax.grad(lambda x: case.upper(x, implicit.implicit_minimum(case.lower, x, case.y)))(case.x)
    near(gradient, case.exact, 1e-9)


@given(
    "a stationary point that is a saddle, dense with symmetric=True, outside jit", "right, no NaN of a Cholesky factor"
)
def test_saddle():
    diagonal = jnp.array([1.0, -2.0])
    one = jnp.ones(2)
    gradient, info = implicit.root_vjp(lambda x, y: diagonal * y - x, one, 1 / diagonal, one, symmetric=True)
    near(gradient, 1 / np.array([1.0, -2.0]), 1e-12)
    assert bool(info.converged)


@given("a gradient that failed its checks under policy nan", "the NaN that was asked for, and nowhere else")
def test_asked_for():
    case = quadratic(n=3, condition=2.0, outer=2)
    masked = lambda y: implicit.hypergradient(case.upper, case.lower, case.x, y, estimator=implicit.cg(), policy="nan")[
        0
    ]
    with pytest.raises(FloatingPointError):
        masked(case.y + 1)
    with jax.debug_nans(False):
        found = jax.jit(jax.vmap(masked))(jnp.stack([case.y, case.y + 1]))
        spoiled, whole = np.isnan(np.asarray(found))[::-1]
    assert spoiled.all()
    assert not whole.any()


@given("the bound on the error of a gradient, and the check of a user's functions", "no NaN")
def test_bound_and_check():
    case = quadratic(n=3, condition=2.0, outer=2)
    _, info = implicit.hypergradient(case.upper, case.lower, case.x, case.y)
    assert np.isfinite(implicit.error_bound(case.upper, case.lower, case.x, case.y, info).bound)
    report = implicit.check_hypergradient(case.upper, case.lower, case.x, case.y, solve=case.solve, directions=1)
    assert report.passed, str(report)
