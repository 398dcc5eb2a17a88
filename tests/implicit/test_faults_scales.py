"""A problem in other units: stiff or soft, with gradients or variables of any size, in float32.

A gradient is linear in its cotangent, and whether it can be trusted does not depend on the units.
"""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jaxfuse import implicit
from tests.faults.catalogue import given, table
from tests.implicit.problems import error, flat, quadratic, said, spd

FLAGS = ("inner_converged", "solve_converged", "positive", "finite")
SOLVERS = {
    "dense": implicit.dense(),
    "cg": implicit.cg(),
    "minres": implicit.minres(),
    "gmres": implicit.gmres(),
    "bicgstab": implicit.bicgstab(),
    "lsmr": implicit.lsmr(),
    "fixed_point": implicit.fixed_point(1.0),
}
single = pytest.mark.single


def chain(stiffness, n=6):
    """A root of springs: residual, x, y, and the exact gradient of <c, y>."""
    matrix = stiffness * (2 * np.eye(n) - 0.5 * np.eye(n, k=1) - 0.7 * np.eye(n, k=-1)) / 2
    x, c = np.arange(1.0, n + 1), np.array([1.0, -2.0, 3.0, 0.5, 0.0, 1.0])
    held = jnp.asarray(matrix, jnp.float32)
    residual = lambda x, y: held @ y - jnp.float32(stiffness) * x
    y = jnp.asarray(stiffness * np.linalg.solve(matrix, x), jnp.float32)
    exact = stiffness * np.linalg.solve(matrix.T, c)
    return residual, jnp.asarray(x, jnp.float32), y, jnp.asarray(c, jnp.float32), exact


@single
@table(
    "stiffness, size",
    ("a root of stiffness 1e9 with a cotangent of 1e-11, float32", "right, converged, by every solver", 1e9, 1e-11),
    ("a root of stiffness 1e-9 with a cotangent of 1e11, float32", "right, converged, by every solver", 1e-9, 1e11),
    ("a root of stiffness 1 with a cotangent of 1e-30, float32", "right, converged, by every solver", 1.0, 1e-30),
    ("a root of stiffness 1e12 with a cotangent of 1e25, float32", "right, converged, by every solver", 1e12, 1e25),
)
def test_stiff_root(stiffness, size):
    residual, x, y, c, exact = chain(stiffness)
    solvers = [each for name, each in SOLVERS.items() if name in ("dense", "gmres", "bicgstab", "lsmr")]

    @jax.jit
    def found(c):
        by_vjp = [implicit.root_vjp(residual, x, y, c, estimator=each) for each in solvers]
        read = lambda x: jnp.sum(c * implicit.implicit_root(residual, x, y))
        return by_vjp, jax.grad(read)(x)

    by_vjp, attached = found(jnp.float32(size) * c)
    for gradient, info in by_vjp:
        assert error(np.asarray(gradient, np.float64) / size, exact) < 1e-4
        assert said(info, *FLAGS) == (True,) * 4
    assert error(np.asarray(attached, np.float64) / size, exact) < 1e-4


@single
@given(
    "a hypergradient whose upper function is multiplied by 2^-100 to 2^100, float32, by every solver", "linear, bitwise"
)
def test_linear_in_the_cotangent():
    case = quadratic(n=8, condition=10.0, outer=3, dtype=np.float32)
    target = jnp.arange(8.0)

    @jax.jit
    def found(size):
        upper = lambda x, y: size * jnp.sum(y * target)
        return [implicit.hypergradient(upper, case.lower, case.x, case.y, estimator=each) for each in SOLVERS.values()]

    plain = found(jnp.float32(1))
    for power in (-100, -40, 40, 100):
        size = np.float32(2.0**power)
        for (gradient, info), (gradient_1, info_1) in zip(found(size), plain, strict=True):
            np.testing.assert_array_equal(gradient, size * gradient_1)
            names = (*FLAGS, "steps", "residual", "adjoint_error", "displacement", "least_curvature")
            assert said(info, *names) == said(info_1, *names)
            assert bool(info.converged)


@single
@given("a lower function multiplied by 1e-12 and by 1e12, float32", "the same gradient and flags")
def test_units_of_the_lower_function():
    case = quadratic(n=8, condition=10.0, outer=3, dtype=np.float32)

    @jax.jit
    def found(size, y):
        lower = lambda x, y: size * case.lower(x, y)
        solvers = (implicit.dense(), implicit.cg(), implicit.minres(), implicit.gmres())
        return [implicit.hypergradient(case.upper, lower, case.x, y, estimator=each) for each in solvers]

    for size in (1e-12, 1.0, 1e12):
        for gradient, info in found(jnp.float32(size), case.y):
            assert error(gradient, case.exact) < 1e-4
            assert bool(info.converged)
        assert not any(bool(info.inner_converged) for _, info in found(jnp.float32(size), 0.9 * case.y))


@table(
    "unit, dtype",
    (
        "y in units of 1e-5, the inner solver stopped half way",
        "flagged: y does not solve the problem",
        1e-5,
        np.float64,
    ),
    ("y in units of 1e-20, the inner solver stopped half way, float32", "flagged", 1e-20, np.float32),
    ("y in units of 1e8, the inner solver stopped half way", "flagged", 1e8, np.float64),
)
def test_units_of_y(unit, dtype):
    matrix = jnp.asarray(spd(6, 10.0), dtype)
    x = jnp.asarray(np.linspace(1, 2, 6) * unit, dtype)
    lower = lambda x, y: 0.5 * y @ (matrix @ y) - y @ x
    upper = lambda x, y: 0.5 * jnp.sum((y / dtype(unit) - 1) ** 2)
    solved = jnp.asarray(np.linalg.solve(np.asarray(matrix, np.float64), np.asarray(x, np.float64)), dtype)

    @jax.jit
    def infos(y):
        step = implicit.truncated(50, learning_rate=0.1)
        estimators = (None, implicit.cg(), implicit.identity(0.5), step)
        return [implicit.hypergradient(upper, lower, x, y, estimator=each)[1] for each in estimators]

    assert all(bool(info.inner_converged) for info in infos(solved))
    assert not any(bool(info.inner_converged) for info in infos(0.5 * solved)[:3])
    gradient = jax.jit(jax.grad(lambda x, y: upper(x, implicit.implicit_minimum(lower, x, y))))
    assert np.all(np.isfinite(gradient(x, solved)))
    assert np.all(np.isnan(gradient(x, 0.5 * solved)))


@single
@given(
    "an upper function that is flat in y, stiffness 1e9, float32: a right-hand side of zeros", "exactly 0, converged"
)
def test_zero_right_hand_side():
    residual, x, y, c, _ = chain(1e9)
    run = jax.jit(lambda c: [implicit.root_vjp(residual, x, y, c, estimator=e) for e in (None, implicit.gmres())])
    for gradient, info in run(0 * c):
        assert not np.any(flat(gradient))
        assert said(info, "solve_converged", "finite", "residual") == (True, True, 0.0)


@single
@given("a warm start in the units of the solution, cotangent of 1e-30, float32", "no step is needed")
def test_start():
    residual, x, root, c, _ = chain(1.0)
    springs = jnp.asarray(np.linalg.solve(chain_matrix(), c), jnp.float32)
    symmetric, unit = lambda x, y: 2 * y - x, jnp.float32(1e-30)
    solvers = (implicit.cg, implicit.minres, functools.partial(implicit.fixed_point, 0.3))

    @jax.jit
    def infos(c):
        info_of = lambda of, y, solver: implicit.root_vjp(of, x, y, c, estimator=solver, symmetric=of is symmetric)[1]
        warm = [info_of(symmetric, x / 2, each(start=c / 2)) for each in solvers]
        return [*warm, info_of(residual, root, implicit.gmres(start=springs * unit))]

    assert [said(info, "steps", "converged") for info in infos(c * unit)] == [(0, True)] * 4


def chain_matrix(n=6):
    return ((2 * np.eye(n) - 0.5 * np.eye(n, k=1) - 0.7 * np.eye(n, k=-1)) / 2).T
