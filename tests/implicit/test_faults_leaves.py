"""A variable that no term of the outer variables, or no reader, has anything to do with.

Derivatives attached to a solution must not ask that every leaf of y moves, or is looked at.
"""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jaxfuse import implicit
from tests.faults.catalogue import given, table
from tests.implicit.problems import near

X = np.array([1.0, 2.0])
ESTIMATORS = (None, implicit.cg(), implicit.minres(), implicit.gmres(), implicit.bicgstab(), implicit.lsmr())


def ridge():
    """Ridge regression with a free intercept: lower, upper of y, and y as a function of log lambda."""
    rng = np.random.default_rng(0)
    features, held = jnp.asarray(rng.normal(size=(30, 4))), jnp.asarray(rng.normal(size=(30, 4)))
    weights = jnp.array([1.0, -2.0, 0.5, 0.0])
    target, truth = features @ weights + 0.7 + 0.3 * rng.normal(size=30), held @ weights + 0.7

    def lower(x, y):
        return jnp.mean((features @ y["w"] + y["b"] - target) ** 2) + jnp.exp(x) * jnp.sum(y["w"] ** 2)

    def solve(x):
        table = jnp.concatenate([features, jnp.ones((30, 1))], axis=1)
        penalty = jnp.diag(jnp.array([1.0, 1.0, 1.0, 1.0, 0.0])) * jnp.exp(x) * 30
        found = jnp.linalg.solve(table.T @ table + penalty, table.T @ target)
        return {"w": found[:4], "b": found[4]}

    return lower, lambda y: jnp.mean((held @ y["w"] + y["b"] - truth) ** 2), solve


@given("ridge regression with an intercept that is not regularized, gradient in log lambda", "0.40046249372570564")
def test_intercept():
    lower, upper, solve = ridge()
    slope, descent = jax.grad(lower, 1), lambda x, y: jax.tree.map(lambda a, g: a - 0.1 * g, y, slope(x, y))

    @jax.jit
    def gradients(x):
        y = solve(x)
        attached = [functools.partial(implicit.implicit_minimum, lower, estimator=each) for each in ESTIMATORS]
        attached += [functools.partial(implicit.implicit_root, slope, symmetric=each) for each in (False, True)]
        attached.append(functools.partial(implicit.implicit_fixed_point, descent))
        backward = [jax.grad(lambda x, one=one: upper(one(x=x, y=y)))(x) for one in attached]
        forward = [jax.jvp(lambda x, one=one: upper(one(x=x, y=y)), (x,), (jnp.ones(()),))[1] for one in attached[:2]]
        return backward + forward

    near(gradients(jnp.asarray(-1.0)), [0.40046249372570564] * 11, 1e-11)


def solution(x):
    """Leaves that x moves in different places, one that it does not move, and one of no entries."""
    empty = jnp.zeros((0,))
    return {"w": x**2, "z": x[:1] ** 3, "c": jnp.ones(2), "e": empty}


def lower(x, y):
    apart = jax.tree.map(lambda a, b: a - b, y, solution(x))
    return 0.5 * sum(jnp.sum(leaf**2) for leaf in jax.tree.leaves(apart))


def residual(x, y):
    """No gradient of anything: w is in the equation of z, and not the other way."""
    apart = jax.tree.map(lambda a, b: a - b, y, solution(x))
    return {**apart, "z": apart["z"] + apart["w"][:1]}


READERS = {
    "w": lambda y: jnp.sum(y["w"] ** 3),
    "z": lambda y: jnp.sum(y["z"] ** 2),
    "c": lambda y: jnp.sum(y["c"] ** 2),
    "both": lambda y: jnp.sum(y["w"]) * jnp.sum(y["z"]),
}


@table(
    "reader, attached, second",
    (
        "jax.hessian of a minimum where two of four leaves of y, one of shape (0,), are not read",
        "right",
        *("both", functools.partial(implicit.implicit_minimum, lower, estimator=implicit.cg()), jax.hessian),
    ),
    (
        "jax.hessian of a root where a leaf of y is read that does not depend on x",
        "zero",
        *("c", functools.partial(implicit.implicit_root, residual, estimator=implicit.bicgstab()), jax.hessian),
    ),
    (
        "reverse mode of reverse mode of a root where one leaf of y is read",
        "right",
        *("z", functools.partial(implicit.implicit_root, residual), lambda f: jax.jacrev(jax.jacrev(f))),
    ),
    (
        "reverse mode of forward mode of a minimum where one leaf of y is read",
        "right",
        *("w", functools.partial(implicit.implicit_minimum, lower), lambda f: jax.jacrev(jax.jacfwd(f))),
    ),
)
def test_second_order(reader, attached, second):
    read, y = READERS[reader], solution(jnp.asarray(X))
    found, exact = second(lambda x: read(attached(x=x, y=y))), jax.hessian(lambda x: read(solution(x)))
    near(*jax.jit(lambda x: (found(x), exact(x)))(jnp.asarray(X)), 1e-10, 1e-12)


@given("a hypergradient of a leaf of y alone, differentiated once more in both modes", "the outer Hessian")
def test_derivative_of_a_hypergradient():
    def gradient(x):
        y = implicit.implicit_minimum(lower, x, solution(jnp.asarray(X)), estimator=implicit.cg())
        return implicit.hypergradient(lambda x, y: READERS["w"](y), lower, x, y, estimator=implicit.cg())[0]

    exact = jax.jit(jax.hessian(lambda x: READERS["w"](solution(x))))(jnp.asarray(X))
    near(jax.jit(lambda x: [jax.jacfwd(gradient)(x), jax.jacrev(gradient)(x)])(X), [exact, exact], 1e-10, 1e-12)


@given("a batch of problems by vmap, one leaf of y not read, under jax.hessian", "right for each")
def test_batch():
    attached = lambda x: READERS["w"](implicit.implicit_minimum(lower, x, solution(x)))
    points = jnp.stack([X, X + 1])
    found, exact = (
        jax.jit(jax.vmap(jax.hessian(each)))(points) for each in (attached, lambda x: READERS["w"](solution(x)))
    )
    near(found, exact, 1e-10, 1e-12)


@given("leaves of shapes (0,) and (2, 0) beside others, every estimator", "the gradient without them")
def test_empty_leaves():
    estimators = (
        *ESTIMATORS,
        implicit.nystrom(1, 1.0, jax.random.key(0)),
        implicit.nystrom(2, 1e-9, jax.random.key(0)),
    )
    estimators += (implicit.neumann(1, 1.0), implicit.finite_difference(), implicit.truncated(1, learning_rate=1.0))

    @jax.jit
    def gradients(x):
        y = {"w": x, "e": jnp.zeros((0,)), "f": jnp.zeros((2, 0))}
        lower = lambda x, y: 0.5 * jnp.sum((y["w"] - x) ** 2) + jnp.sum(y["e"]) + jnp.sum(y["f"] ** 2)
        upper = lambda x, y: jnp.sum(y["w"] ** 2) + jnp.sum(y["e"])
        return [implicit.hypergradient(upper, lower, x, y, estimator=each)[0] for each in estimators]

    *exact, half, whole, one, differences, steps = gradients(jnp.asarray(X))
    for each in (*exact, whole, one, steps):
        near(each, 2 * X, 1e-8)
    near(differences, 2 * X, 1e-6)
    assert np.linalg.norm(half - 2 * X) < np.linalg.norm(2 * X)


@given("y of no entries at all, in both modes", "the direct gradient, and zero")
def test_empty_y():
    x, y = jnp.asarray(X), jnp.zeros((0,))
    lower = lambda x, y: jnp.sum(y**2) * jnp.sum(x)
    gradient, info = implicit.hypergradient(lambda x, y: jnp.sum(x**2) + jnp.sum(y), lower, x, y)
    near(gradient, 2 * X)
    assert bool(info.converged)
    near(jax.grad(lambda x: jnp.sum(implicit.implicit_minimum(lower, x, y)))(x), 0 * X)


@pytest.mark.parametrize("mode", [jax.jacfwd, jax.jacrev])
@given("a root whose equation does not know x at all", "zero")
def test_no_leaf_moves(mode):
    root = lambda x: implicit.implicit_root(lambda x, y: {"a": y["a"] - 1, "b": 2 * y["b"]}, x, y)
    y = {"a": jnp.ones(2), "b": jnp.zeros(1)}
    near(jax.jit(mode(root))(X), {"a": np.zeros((2, 2)), "b": np.zeros((1, 2))})
