"""The check of a user's own problem: silent on sound ones, and each fault found by the test that is meant for it."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jaxfuse import implicit
from jaxfuse.implicit import adjoint
from jaxfuse.implicit.check import check_hypergradient
from jaxfuse.implicit.differences import DOUBLE, plateau
from jaxfuse.implicit.newton import newton
from tests.implicit.problems import logistic, quadratic, refuses

CASE = {"n": 6, "condition": 5.0, "outer": 3}


def check(case, upper=None, lower=None, y=None, directions=1, **options):
    options = {"estimator": implicit.cg(), **options}
    y = case.y if y is None else y
    return check_hypergradient(upper or case.upper, lower or case.lower, case.x, y, directions=directions, **options)


def test_passes_on_a_quadratic():
    report = check(quadratic(**CASE), directions=2)
    assert report.passed
    assert report.raise_if_failed() is report
    assert [each.width for each in report.differences] == [9, 9]  # a quadratic has no curve that a long step would show
    numbers = {each.name: each.value for each in report.checks}
    assert max(numbers[name] for name in ("Hessian symmetry", "mixed derivative")) <= 1e-10
    assert numbers["finite differences"] < 1e-8
    assert "no test failed" in str(report)


def test_passes_on_pytrees_with_the_users_solver():
    case = logistic()
    report = check(case, solve=jax.jit(case.solve))
    assert report.passed, str(report)
    assert report.differences[0].width >= 5


@pytest.mark.single
def test_passes_in_float32_with_limits_of_float32():
    report = check(quadratic(**CASE, dtype=np.float32))
    assert report.passed, str(report)
    limits = {each.name: each.limit for each in report.checks}
    assert (limits["Hessian symmetry"], limits["re-solve"]) == (1e-4, 1e-2)


def test_finds_a_stop_gradient_in_lower():
    case = quadratic(**CASE)
    tilt = jnp.asarray(np.random.default_rng(0).normal(size=(6, 6)))
    report = check(case, lower=lambda x, y: case.lower(x, y) + 0.1 * y @ tilt @ jax.lax.stop_gradient(y))
    # Automatic differentiation alone sees nothing wrong with it.
    assert {"lower by differences", "Hessian by differences"} <= set(report.failed)
    assert not {"Hessian symmetry", "mixed derivative", "mixed by differences"} & set(report.failed)
    assert "stop_gradient" in str(report)
    report = check(case, lower=lambda x, y: case.lower(x, y) + jnp.sum(jax.lax.stop_gradient(x)) * jnp.sum(y))
    assert {"mixed by differences", "finite differences"} <= set(report.failed)
    assert "Hessian by differences" not in report.failed


def test_finds_a_derivative_rule_that_is_no_slope():
    case = quadratic(**CASE)
    tilt = jnp.asarray(np.random.default_rng(0).normal(size=(6, 6)))
    energy = jax.custom_jvp(lambda y: 0.05 * y @ (tilt + tilt.T) @ y)
    energy.defjvp(lambda primals, tangents: (energy(*primals), 0.2 * tangents[0] @ (tilt @ primals[0])))
    report = check(case, lower=lambda x, y: case.lower(x, y) + energy(y))
    assert "Hessian symmetry" in report.failed
    refuses("<u, Hv> and <v, Hu> differ", lambda: report.raise_if_failed(), implicit.UnreliableGradient)


def test_finds_an_inner_solver_that_stops_early_though_its_differences_are_flat():
    case = quadratic(n=6, condition=50.0, outer=3)
    slope = jax.grad(case.lower, 1)
    few = jax.jit(lambda x: jax.lax.fori_loop(0, 4, lambda _, y: y - slope(x, y), jnp.zeros(6)))
    report = check(case, y=few(case.x), solve=few)
    assert set(report.failed) == {"inner optimum", "finite differences", "re-solve"}
    (found,) = report.differences
    assert found.width == 9
    assert found.spread < 1e-6 * abs(found.plateau)
    assert abs(found.plateau - found.slope) > 0.16 * abs(found.plateau)


def test_finds_a_gauss_newton_that_is_not_of_lower():
    case = quadratic(**CASE)
    penalized = lambda x, y: jnp.sum((y - x[0]) ** 2) + 0.3 * jnp.sum(y**2)
    forgets = implicit.gauss_newton(lambda x, y: y - x[0], lambda r: jnp.sum(r**2))
    whole = implicit.gauss_newton(lambda x, y: (y - x[0], y), lambda r: jnp.sum(r[0] ** 2) + 0.3 * jnp.sum(r[1] ** 2))
    y = jnp.full(6, case.x[0] / 1.3)
    assert "gauss_newton split" in check(case, lower=penalized, y=y, curvature=forgets).failed
    assert check(case, lower=penalized, y=y, curvature=whole).passed


def test_finds_an_outer_function_that_is_not_convex():
    case = quadratic(**CASE)
    concave = implicit.gauss_newton(lambda x, y: (x, y), lambda r: case.lower(*r) - 2 * jnp.sum(r[1] ** 2))
    report = check(case, lower=lambda x, y: case.lower(x, y) - 2 * jnp.sum(y**2), curvature=concave)
    assert "curvature sign" in report.failed
    assert "gauss_newton split" not in report.failed


def test_finds_a_wrong_gradient(monkeypatch):
    right = adjoint.lagrangian_slope

    def wrong_sign(problem, vector):
        cross, image = right(problem, vector)
        return [-leaf for leaf in cross], image

    monkeypatch.setattr(adjoint, "lagrangian_slope", wrong_sign)
    assert check(quadratic(**CASE)).failed == ("finite differences",)


def test_says_where_there_is_no_plateau():
    case = quadratic(**CASE)
    rough = lambda x, y: case.upper(x, y) + jnp.sin(1e12 * jax.lax.stop_gradient(jnp.sum(x)))
    report = check(case, upper=lambda x, y: 1e-3 * case.upper(x, y) + rough(x, y))
    assert "difference plateau" in report.failed
    assert {each.name: each.passed for each in report.checks}["finite differences"] is None
    assert "noisy" in str(report)


def test_equal_values_by_rounding_are_no_plateau():
    steps = np.logspace(-1, -9, 9)
    rounded = np.array([3.3, 2.7, 3.6, 1.9, 4.4, 0.0, 0.0, 0.0, 0.0])
    assert plateau(steps, rounded, 1e-6 / steps, 3.0, DOUBLE).spread > 0.5
    found = plateau(steps, 3 + steps**2, 1e-16 / steps, 3.0, DOUBLE)
    assert found.width == 9
    assert np.isclose(found.plateau, 3, atol=1e-7)


def test_newton_goes_through_negative_curvature_to_a_minimum():
    double_well = lambda x, y: jnp.sum((y**2 - x) ** 2)
    y, norm = jax.jit(lambda x, y: newton(double_well, x, y))(jnp.asarray(4.0), jnp.array([0.1, -3.0]))
    assert np.allclose(y, [2, -2], atol=1e-12)
    assert norm < 1e-10


def test_refuses_a_solver_of_another_structure():
    case = quadratic(**CASE, dtype=np.float32)
    refuses("the structure of y", lambda: check(case, solve=lambda x: {"y": case.solve(x)}))
    refuses("directions is 0", lambda: check(case, directions=0))
