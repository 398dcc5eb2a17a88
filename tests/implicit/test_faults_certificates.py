"""A flag that says converged of a wrong gradient, or the contrary of a right one: types, damping, claimed symmetry.

The flags are those of the digits that a problem has.
"""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jaxfuse import implicit
from tests.faults.catalogue import given, table
from tests.implicit.problems import distance, error, flat, quadratic, said, spd

single = pytest.mark.single


@single
@table(
    "condition, damping",
    (
        "nystrom at full rank with a damping of 1e-6, float32, condition 10",
        "right to 1e-3 and converged, or flagged",
        1e1,
        1e-6,
    ),
    (
        "nystrom at full rank with a damping of 1e-6, float32, condition 1e3",
        "right to 1e-2 and converged, or flagged",
        1e3,
        1e-6,
    ),
    (
        "nystrom at full rank with a damping of 1e-8, float32, condition 100",
        "right to 1e-2 and converged, or flagged",
        1e2,
        1e-8,
    ),
    ("nystrom at full rank with a damping of 1e-6, float32, condition 1e7", "flagged", 1e7, 1e-6),
)
def test_nystrom_at_full_rank(condition, damping):
    case = quadratic(n=30, condition=condition, outer=4, dtype=np.float32)
    matrix = spd(30, condition) + damping * np.eye(30)
    run = jax.jit(
        lambda key, y: implicit.hypergradient(
            case.upper, case.lower, case.x, y, estimator=implicit.nystrom(30, damping, key)
        )[1]
    )
    for seed in range(3):
        info = run(jax.random.key(seed), case.y)
        target = flat(jax.grad(case.upper, 1)(case.x, case.y))
        wrong = distance(flat(info.adjoint), np.linalg.solve(matrix, target))
        assert wrong < 1e-2 or not bool(info.converged)
        assert bool(info.solve_converged) == (condition < 1e6)


@given("nystrom of half the rank with a damping far below what is left out", "flagged")
def test_nystrom_of_low_rank():
    case = quadratic(n=30, condition=10.0, outer=4)
    estimators = [implicit.nystrom(15, damping, jax.random.key(0)) for damping in (1e-6, 1.0)]
    run = jax.jit(
        lambda x, y: [implicit.hypergradient(case.upper, case.lower, x, y, estimator=e)[1] for e in estimators]
    )
    assert [bool(info.converged) for info in run(case.x, case.y)] == [False, True]


@table(
    "estimator",
    ("y with float32 and float64 leaves, by the default", "right, converged", None),
    ("y with float32 and float64 leaves, by cg", "right, converged", implicit.cg()),
    ("y with float32 and float64 leaves, by gmres", "right, converged", implicit.gmres()),
    ("y with float32 and float64 leaves, by minres", "right, converged", implicit.minres()),
    ("y with float32 and float64 leaves, by nystrom", "right, converged", implicit.nystrom(8, 1e-6, jax.random.key(0))),
)
def test_mixed_types(estimator):
    rng = np.random.default_rng(0)
    a, b = spd(8, 50.0), rng.normal(size=(8, 3))
    x = rng.normal(size=3)
    y = np.linalg.solve(a, b @ x)
    A, B = jnp.asarray(a), jnp.asarray(b)
    join = lambda y: jnp.concatenate([y["single"].astype(jnp.float64), y["double"]])
    lower = lambda x, y: 0.5 * join(y) @ (A @ join(y)) - join(y) @ (B @ x)
    upper = lambda x, y: 0.5 * jnp.sum((join(y) - 1) ** 2)
    y = {"single": jnp.asarray(y[:4], jnp.float32), "double": jnp.asarray(y[4:])}

    @jax.jit
    def found(x, y):
        gradient, info = implicit.hypergradient(upper, lower, x, y, estimator=estimator)
        exact_solver = estimator if not isinstance(estimator, implicit.nystrom) else None
        minimum = functools.partial(implicit.implicit_minimum, lower, y=y, estimator=exact_solver)
        return gradient, info, jax.grad(lambda x: upper(x, minimum(x)))(x)

    gradient, info, attached = found(jnp.asarray(x), y)
    exact = b.T @ np.linalg.solve(a, flat(y["single"]).tolist() + flat(y["double"]).tolist() - np.ones(8))
    assert error(gradient, exact) < 1e-4
    assert error(attached, exact) < 1e-4
    assert said(info, "inner_converged", "solve_converged", "positive", "finite") == (True,) * 4
    cut = {name: 0.9 * leaf for name, leaf in y.items()}
    assert not bool(found(jnp.asarray(x), cut)[1].converged)


@table(
    "solver",
    ("symmetric=True said of a matrix that is not, by the default", "right or flagged, in both modes", None),
    ("symmetric=True said of a matrix that is not, by minres", "right or flagged, in both modes", implicit.minres()),
    ("symmetric=True said of a matrix that is not, by cg", "right or flagged, in both modes", implicit.cg()),
    ("symmetric=True said of a matrix that is not, by gmres", "right or flagged, in both modes", implicit.gmres()),
)
def test_wrong_symmetry(solver):
    matrix = np.array([[2.0, 1.0, 0.0], [-0.3, 2.0, 0.4], [0.2, 0.0, 1.0]])
    held, x, c = jnp.asarray(matrix), np.array([1.0, 2.0, 3.0]), np.array([1.0, 0.0, -1.0])
    y = np.linalg.solve(matrix, x)
    residual = lambda x, y: held @ y - x
    options = {"estimator": solver, "symmetric": True}

    @jax.jit
    def found(x, y):
        backward = implicit.root_vjp(residual, x, y, jnp.asarray(c), **options)
        forward = implicit.root_jvp(residual, x, y, jnp.asarray(c), **options)
        attached = lambda x: implicit.implicit_root(residual, x, y, **options)
        return backward, forward, (jax.jacrev(attached)(x), jax.jacfwd(attached)(x))

    backward, forward, jacobians = found(jnp.asarray(x), jnp.asarray(y))
    for (result, info), exact in ((backward, np.linalg.solve(matrix.T, c)), (forward, np.linalg.solve(matrix, c))):
        right = distance(np.asarray(result), exact) < 1e-9
        assert bool(info.converged) == right
        assert right or "leave out symmetric=True" in info.complaints()["solve_converged"]
    inverse = np.linalg.inv(matrix)
    for jacobian in jacobians:
        assert np.isnan(jacobian).any() or error(jacobian, inverse) < 1e-9
