"""Three levels against closed forms, every kind of estimator at both lower ones, and what is said where one fails."""

import functools
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import lineax as lx
import numpy as np
import optax
import pytest

from jaxfuse import implicit
from jaxfuse.implicit import Level
from tests.implicit.problems import differentiate, near, quadratic, refuses, spd


class Chain(NamedTuple):
    """z minimizes z'Cz/2 - z'(Dx + Ey + e), y minimizes y'Ay/2 - y'Bx + |z - t|^2/4, and x is judged by y and z."""

    upper: Any
    middle: Any
    lowest: Any
    x: Any
    ys: Any
    exact: np.ndarray
    solve_y: Any
    solve_z: Any


@functools.cache
def chain(least: float = 0.3) -> Chain:
    """Returns a chain of 3, 5 and 4 variables; eigenvalues of C from `least` to 1, of A from 0.2 to 1."""
    rng = np.random.default_rng(5)
    a, c = spd(5, 5, 1), spd(4, 1 / least, 2)
    b, d, e = rng.normal(size=(5, 3)), rng.normal(size=(4, 3)), rng.normal(size=(4, 5)) / 4
    x, t, u, s = rng.normal(size=3), *(rng.normal(size=size) for size in (4, 5, 4))
    along_x, along_y = np.linalg.solve(c, d), np.linalg.solve(c, e)  # of z
    y_of_x = np.linalg.solve(a + along_y.T @ along_y / 2, b - along_y.T @ along_x / 2)
    constant = np.linalg.solve(a + along_y.T @ along_y / 2, along_y.T @ t / 2)
    y = y_of_x @ x + constant
    z = along_x @ x + along_y @ y
    exact = 0.1 * x + y_of_x.T @ (y - u) + (along_x + along_y @ y_of_x).T @ (z - s)
    A, B, C, D, E, T, U, S = (jnp.asarray(each) for each in (a, b, c, d, e, t, u, s))
    return Chain(
        upper=lambda x, y, z: 0.05 * x @ x + 0.5 * jnp.sum((y - U) ** 2) + 0.5 * jnp.sum((z - S) ** 2),
        middle=lambda x, y, z: 0.5 * y @ (A @ y) - y @ (B @ x) + 0.25 * jnp.sum((z - T) ** 2),
        lowest=lambda x, y, z: 0.5 * z @ (C @ z) - z @ (D @ x + E @ y),
        x=jnp.asarray(x),
        ys=(jnp.asarray(y), jnp.asarray(z)),
        exact=exact,
        solve_y=lambda x: jnp.asarray(y_of_x) @ x + jnp.asarray(constant),
        solve_z=lambda x, y: jnp.asarray(along_x) @ x + jnp.asarray(along_y) @ y,
    )


def gradient_of(case, second=None, third=None, *, moved=False, **options):
    """The gradient of the chain by one jitted call; `moved`: the lowest level is solved at every point."""
    levels = [Level(case.middle, second), Level(case.lowest, third, solve=case.solve_z if moved else None)]
    return jax.jit(lambda x, ys: implicit.chain_hypergradient(case.upper, levels, x, ys, **options))(case.x, case.ys)


KEY = jax.random.key(0)
EXACT = {
    "dense": implicit.dense(),
    "cg": implicit.cg(),
    "minres": implicit.minres(),
    "gmres": implicit.gmres(),
    "bicgstab": implicit.bicgstab(),
    "lsmr": implicit.lsmr(),
    "linear": implicit.linear(lx.SVD()),
    "fixed_point": implicit.fixed_point(0.8, steps=200),
    "neumann": implicit.neumann(120, 0.8),
    "truncated": implicit.truncated(120, learning_rate=0.8),
    "phantom": implicit.phantom(120, 0.9, learning_rate=0.9),
    "unroll": implicit.unroll(120, learning_rate=0.8),
}


def nystrom(rank):
    return implicit.nystrom(rank, 1e-11, KEY)


def test_three_levels_under_jit_and_a_batch():
    case = chain()
    levels = [Level(case.middle), Level(case.lowest)]

    def at(x):
        y = case.solve_y(x)
        return implicit.chain_hypergradient(case.upper, levels, x, (y, case.solve_z(x, y)))

    gradients, info = jax.jit(jax.vmap(at))(jnp.stack([case.x, -case.x, 2 * case.x]))
    near(gradients[0], case.exact, 1e-8)
    # The gradient is affine in x, and these points lie on a line.
    near(gradients[0], gradients[1] / 3 + gradients[2] * 2 / 3, 1e-10)
    assert [level.converged.tolist() for level in info.check().levels] == [[True] * 3] * 2


@pytest.mark.parametrize(
    ("second", "third"),
    [
        pytest.param("nystrom", "unroll", marks=pytest.mark.slow),
        pytest.param("cg", "neumann", marks=pytest.mark.slow),
        pytest.param("truncated", "gmres", marks=pytest.mark.slow),
    ],
)
def test_families(second, third):
    check_pair(second, third)


def check_pair(second, third):
    case = chain()
    pair = [EXACT.get(name) or nystrom(size) for name, size in ((second, 5), (third, 4))]
    gradient, info = gradient_of(case, *pair, moved=getattr(pair[0], "moves", False))
    near(gradient, case.exact, 1e-8)
    assert info.converged


@pytest.mark.slow
@pytest.mark.parametrize("name", [*EXACT, "nystrom"])
def test_every_exact_estimator_at_either_level(name):
    check_pair(name, "dense")
    check_pair("dense", name)


CHEAP = {
    "identity": implicit.identity(0.5),
    "finite_difference": implicit.finite_difference(0.5),
    "one_step": implicit.one_step(learning_rate=0.5),
}


@pytest.mark.slow
@pytest.mark.parametrize("name", CHEAP)
def test_cheap_estimators_where_they_are_exact(name):
    """The lowest level has the curvature 2, which is what these take it for."""
    case = chain()
    lowest = lambda x, y, z: jnp.sum((z - case.solve_z(x, y)) ** 2)
    gradient, info = gradient_of(case._replace(lowest=lowest), None, CHEAP[name])
    near(gradient, case.exact, 1e-8)
    assert info.converged


@pytest.mark.slow
@pytest.mark.parametrize("second", [*CHEAP.values(), implicit.direct(), implicit.rank_one(1e3)], ids=str)
def test_cheap_estimators_at_the_second_level_are_those_of_a_function_of_two(second):
    case = chain()
    gradient, info = gradient_of(case, second, moved=True)
    of_two = lambda function: lambda x, y: function(x, y, case.solve_z(x, y))
    expected, alone = implicit.hypergradient(
        of_two(case.upper), of_two(case.middle), case.x, case.ys[0], estimator=second, policy="ignore"
    )
    near(gradient, expected, 1e-9, 1e-12)
    near(info.levels[0].residual, alone.residual, 1e-5)


@pytest.mark.slow
def test_direct_below_holds_the_lowest_variable():
    case = chain()
    x, (y, z) = case.x, case.ys
    gradient, info = gradient_of(case, None, implicit.direct())
    expected, _ = implicit.hypergradient(
        lambda x, y: case.upper(x, y, z), lambda x, y: case.middle(x, y, z), x, y, policy="ignore"
    )
    near(gradient, expected, 1e-10)
    # With the lowest variable held, y is the minimum of another function.
    assert [bool(level.inner_converged) for level in info.levels] == [False, True]


@pytest.mark.slow
def test_one_level_is_a_hypergradient():
    case = quadratic(6, 10.0)
    expected, info = differentiate(case)
    gradient, chained = jax.jit(lambda x, y: implicit.chain_hypergradient(case.upper, [Level(case.lower)], x, [y]))(
        case.x, case.y
    )
    near(gradient, expected, 1e-14)
    near(chained.levels[0].residual, info.residual, 1e-14, 1e-14)


def doubled(count=3, policy="warn", error=0.0):
    """Each of `count` variables is twice the one above, as a minimum, the last off by `error`; x = 1 is judged by it.

    d(last + x^2) / dx = 2^count + 2x.
    """
    level = lambda k: Level(lambda *variables: (variables[k + 1] - 2 * variables[k]) ** 2)
    levels = [level(k) for k in range(count)]
    ys = [2.0 ** (k + 1) for k in range(count)]
    ys[-1] += error
    upper = lambda x, *ys: ys[-1] + x**2
    return jax.jit(lambda x, ys: implicit.chain_hypergradient(upper, levels, x, ys, policy=policy))(1.0, ys)


@pytest.mark.slow
def test_four_levels():
    gradient, info = doubled()
    near(gradient, 10.0, 1e-12)
    assert len(info.check().levels) == 3


@pytest.mark.parametrize(
    ("policy", "expected"),
    [
        ("nan", np.nan),
        pytest.param("fallback", 2.0, marks=pytest.mark.slow),
        pytest.param("raise", np.nan, marks=pytest.mark.slow),
    ],
)
def test_a_lower_level_that_is_not_solved_is_told_by_its_own_evidence(policy, expected):
    gradient, info = doubled(2, policy, error=0.1)
    near(gradient, expected, 1e-12)
    assert not info.levels[1].inner_converged
    assert (bool(info.converged), bool(info.fell_back)) == (False, policy == "fallback")
    if policy == "raise":
        refuses("does not solve|not finite", info.check, implicit.UnreliableGradient)


@pytest.mark.slow
def test_ignore_hands_out_what_came():
    gradient, info = doubled(2, "ignore", error=0.1)
    near(gradient, 6.0, 1e-12)
    assert not info.converged


@pytest.mark.slow
@pytest.mark.parametrize("held", ["lowest", "middle"])
def test_a_level_may_have_a_term(held):
    """z and y are clipped copies of what is above, so that half of the gradient is held back."""
    follow = [lambda x, y, z: jnp.sum((y - 2 * x) ** 2), lambda x, y, z: jnp.sum((z - 3 * y) ** 2)]
    within = implicit.box(0.0, 4.0)
    levels = [Level(follow[0], term=within if held == "middle" else None), Level(follow[1], term=within)]
    x = jnp.array([0.5, 3.0])
    y = jnp.minimum(2 * x, 4.0) if held == "middle" else 2 * x
    z = jnp.minimum(3 * y, 4.0)
    upper = lambda x, y, z: jnp.sum(y) + 10 * jnp.sum(z)
    gradient, info = jax.jit(lambda x, y, z: implicit.chain_hypergradient(upper, levels, x, [y, z]))(x, y, z)
    near(gradient, np.array([2 + 60.0, 0.0 if held == "middle" else 2.0]), 1e-9)
    assert info.check().levels[1].face.active.tolist() == [False, True]


def test_refusals():
    case = chain()
    refuses("0 levels and 2 variables", lambda: implicit.chain_hypergradient(case.upper, [], case.x, case.ys))
    refuses("truncated evaluates level 2 away", lambda: gradient_of(case, EXACT["truncated"]))
    adapted = implicit.sama(optax.sgd(0.1))
    refuses("sama evaluates level 2 away", lambda: gradient_of(case, adapted))
    refuses("rank_one was given to a level below the second", lambda: gradient_of(case, None, implicit.rank_one()))
    refuses("sama was given to a level below the second", lambda: gradient_of(case, None, adapted))
    check = lambda **options: implicit.chain_hypergradient(
        case.upper,
        [Level(case.middle), Level(case.lowest, curvature=implicit.hessian(0.1), **options)],
        case.x,
        case.ys,
    )
    refuses("would be ignored", lambda: check(estimator=implicit.direct()))
    refuses("level 3 has a term and hessian", lambda: check(term=implicit.box()))
