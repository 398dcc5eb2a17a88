"""The evidence of a solve: policies, the pytree, six failures that are caught and five cases that are fine."""

import functools
from dataclasses import replace

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jaxfuse import implicit
from tests.implicit.problems import differentiate, error, every_solver, gradient_of, near, quadratic, refuses, said

FLAGS = ("inner_converged", "solve_converged", "positive", "finite")


def raised(info):
    """The names of the checks that failed."""
    return {name for name in FLAGS if not bool(getattr(info, name))}


@pytest.fixture
def cut():
    """A case, and the options of a solve that ends too early."""
    return quadratic(30, 1e2), {"estimator": implicit.cg(steps=15)}


def test_warn_speaks_on_the_host_and_only_when_asked(cut):
    case, options = cut
    gradient, info = differentiate(case, **options)  # in silence: a warning is an error here
    assert np.all(np.isfinite(gradient))
    message = r"implicit gradient by cg: the linear solve ended with a relative residual of 0\.\d+ after 15 steps"
    with pytest.warns(implicit.UnreliableGradientWarning, match=message):
        assert info.check() is info


def test_raise_says_what_and_by_how_much(cut):
    case, options = cut
    _, info = differentiate(case, policy="raise", **options)
    refuses(r"relative residual of 0\.\d+ after 15 steps", lambda: info.check(), implicit.UnreliableGradient)
    _, info = differentiate(case, policy="raise")
    assert info.check() is info


def test_ignore_leaves_gradient_and_user_alone(cut):
    case, options = cut
    _, info = differentiate(case, policy="ignore", **options)
    assert not bool(info.check().converged)  # in silence


def test_nan_and_fallback_act_on_the_device():
    case = quadratic(30, 1e2)
    for policy in ("nan", "fallback"):
        run = jax.jit(functools.partial(implicit.hypergradient, case.upper, case.lower, case.x, policy=policy))
        gradient, info = run(case.y)
        assert error(gradient, case.exact) < 1e-9
        assert said(info.check(), "fell_back", "converged") == (False, True)
        gradient, info = run(case.y + 100)  # far from its optimum
        assert said(info.check(), "fell_back", "converged") == (policy == "fallback", False)
        # The direct part of the gradient.
        expected = 0.1 * case.x if policy == "fallback" else jnp.full_like(case.x, jnp.nan)
        near(gradient, expected, 1e-14)


def test_info_passes_through_every_transformation():
    case = quadratic(10, 10.0)
    one = lambda x: implicit.hypergradient(case.upper, case.lower, x, case.solve(x))[1]

    @jax.jit
    def run(x):
        first = one(x)
        last, _ = jax.lax.scan(lambda info, step: (one(x + 0 * info.value), None), first, None, length=3)
        return first, last, jax.vmap(one)(jnp.stack([x, x + 1]))

    first, last, batch = run(case.x)
    assert jax.tree.structure(first) == jax.tree.structure(last) == jax.tree.structure(batch)
    near(first, last, 1e-12)
    assert [(2, *leaf.shape) for leaf in jax.tree.leaves(first)] == [leaf.shape for leaf in jax.tree.leaves(batch)]
    doubled = jax.tree.map(lambda leaf: leaf + leaf, first)
    np.testing.assert_array_equal(doubled.value, 2 * first.value)
    assert (doubled.policy, doubled.estimator) == ("warn", "dense")
    assert batch.check() is batch


def test_a_batch_complains_if_one_element_failed():
    """Element 1 is far from its inner optimum; the sentence carries the worst number."""
    case = quadratic(10, 10.0)
    run = jax.jit(jax.vmap(lambda y: implicit.hypergradient(case.upper, case.lower, case.x, y, policy="raise")))
    _, info = run(jnp.stack([case.y, case.y + 100, case.y]))
    np.testing.assert_array_equal(info.inner_converged, [True, False, True])
    sentence = r"does not solve the inner problem \(its gradient or residual is \d+"
    refuses(sentence, info.check, implicit.UnreliableGradient)


def test_scalars_are_for_the_log():
    scalars = differentiate(quadratic(10, 10.0))[1].scalars()
    assert all(value.shape == () for value in scalars.values())
    assert {*FLAGS, "converged", "residual", "system_residual", "steps", "products", "damping"} <= set(scalars)
    assert not {"aux", "adjoint", "policy", "estimator"} & set(scalars)
    assert (int(scalars["steps"]), bool(scalars["converged"])) == (1, True)


def descend(case, steps):
    """Gradient steps from zero, of the length that the largest eigenvalue, 1, allows."""
    slope = jax.grad(case.lower, argnums=1)
    return jax.jit(lambda: jax.lax.fori_loop(0, steps, lambda _, y: y - slope(case.x, y), jnp.zeros_like(case.y)))()


def with_curvature(values):
    """lower = y'Dy/2 - x'y with D diagonal, x three numbers; stationary in y at x / D, or at zero where D is."""
    diagonal = jnp.asarray(values)
    x = jnp.where(diagonal == 0, 0, jnp.array([1.0, 2.0, 3.0]))
    upper = lambda x, y: 0.5 * jnp.sum((y - jnp.array([5.0, 4.0, 3.0])) ** 2)
    lower = lambda x, y: 0.5 * jnp.sum(diagonal * y**2) - jnp.sum(x * y)
    return upper, lower, x, x / jnp.where(diagonal == 0, 1, diagonal)


CG, DENSE, MINRES = implicit.cg(), implicit.dense(), implicit.minres()


@pytest.mark.parametrize("estimator", [implicit.cg(steps=5), implicit.minres(steps=5)], ids=["cg", "minres"])
def test_caught_linear_solve_cut_at_five_steps(estimator):
    case = quadratic(200, 1e4)
    gradient, info = differentiate(case, estimator=estimator)
    assert error(gradient, case.exact) > 0.1
    assert (raised(info), int(info.steps)) == ({"solve_converged"}, 5)
    assert float(info.residual) > 1e-3


@pytest.mark.parametrize("estimator", [None, CG], ids=["default", "cg"])
def test_caught_inner_solve_cut_at_twenty_steps(estimator):
    case = quadratic(100, 1e3)
    y = descend(case, 20)
    gradient, info = differentiate(case, y=y, estimator=estimator)
    assert error(gradient, case.exact) > 0.1
    assert raised(info) == {"inner_converged"}
    near(info.inner_gradient_norm, np.linalg.norm(jax.grad(case.lower, argnums=1)(case.x, y)), 1e-10)
    # About |y - y*|, and never much more: far enough to be caught, near enough to be believed.
    assert 0.1 < float(info.displacement) / np.linalg.norm(y - case.y) < 100


@pytest.mark.parametrize("estimator", [None, CG], ids=["default", "cg"])
def test_caught_saddle(estimator):
    _, info = gradient_of(*with_curvature([2.0, 1.0, -0.5]), estimator=estimator)
    # Without positive curvature a residual bounds no error, so the solve makes no promise either.
    assert raised(info) == {"positive", "solve_converged"}
    assert -0.5 * (1 + 1e-12) <= float(info.least_curvature) < (-0.5 * (1 - 1e-12) if estimator is None else 0)


def test_minres_takes_a_saddle_as_the_stationary_point_it_is():
    *problem, y = with_curvature([2.0, 1.0, -0.5])
    gradient, info = gradient_of(*problem, y, estimator=MINRES)
    near(gradient, (y - jnp.array([5.0, 4.0, 3.0])) / jnp.array([2.0, 1.0, -0.5]), 1e-10)
    assert not raised(info)


@every_solver
def test_caught_singular_curvature_that_cannot_be_solved(estimator):
    _, info = gradient_of(*with_curvature([2.0, 1.0, 0.0]), estimator=estimator)
    assert raised(info) & {"solve_converged", "positive"}
    assert not bool(info.converged)


@pytest.mark.parametrize(
    ("level", "estimator"), [("upper", DENSE), ("upper", MINRES), ("lower", CG)], ids=["dense", "minres", "cg"]
)
def test_caught_nan_loss(level, estimator):
    case = quadratic(10, 10.0)
    broken = replace(case, **{level: lambda x, y: getattr(case, level)(x, y) * jnp.log(-1.0)})
    _, info = differentiate(broken, estimator=estimator)
    assert "finite" in raised(info)
    with pytest.warns(implicit.UnreliableGradientWarning, match="not finite: look for NaN"):
        info.check()


@pytest.mark.single
@pytest.mark.parametrize(
    "estimator", [implicit.cg(tolerance=1e-10), implicit.minres(tolerance=1e-10)], ids=["cg", "minres"]
)
def test_caught_tolerance_that_float32_cannot_reach(estimator):
    case = quadratic(100, 1e3, dtype=np.float32)
    _, info = differentiate(case, estimator=estimator)
    assert raised(info) == {"solve_converged"}
    assert float(info.system_residual) > 2e-10


@pytest.mark.parametrize("n", [10, 600])
def test_no_alarm_where_the_upper_level_is_flat_in_y(n):
    case = quadratic(n, 10.0)
    # Equal levels are flat up to rounding, a function of x alone exactly.
    upper = case.lower if n == 10 else lambda x, y: jnp.sum(x**2)
    gradient, info = gradient_of(upper, case.lower, case.x, case.y, policy="raise")
    near(gradient, jax.grad(upper)(case.x, case.y), 1e-9)
    assert not raised(info.check())
    assert n == 10 or float(info.residual) == 0
