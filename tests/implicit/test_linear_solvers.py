"""Solvers of lineax and BiCGStab: the closed form, a tolerance that means what it says, float32 at any size."""

import dataclasses
from functools import partial

import jax
import jax.numpy as jnp
import lineax as lx
import numpy as np
import pytest

from jaxfuse.implicit import adjoint, problem
from jaxfuse.implicit.linear_solvers import bicgstab, gmres, linear, lsmr
from tests.implicit.problems import differentiate, distance, error, gradient_of, near, quadratic, refuses, said, spd

# Most tests share these, at one size and with a start, and so what is compiled.
N = 12
ROUGH = [gmres(tolerance=1e-3, restart=2), bicgstab(tolerance=1e-3), lsmr(tolerance=1e-3)]
SOLVERS = [gmres(), bicgstab(), lsmr()]


def posed(product, target, **parts):
    """A linear system of which nothing is promised, whose variable is a list of leaves."""
    promises = dict.fromkeys(("symmetric", "definite", "fresh"), False)
    parts = {"read": lambda tree, name: list(tree), "tree": lambda vector: vector} | parts
    return problem.LinearSystem(product=product, target=target, **promises, **parts)


@partial(jax.jit, static_argnums=2)
def solve(matrix, target, estimator, start=None):
    """q, in two leaves, its relative residual, and all that the solver says, for a system given by a matrix."""
    half = len(target) // 2
    split = lambda flat: [flat[:half], flat[half:]]
    if start is not None:
        estimator = dataclasses.replace(estimator, start=split(start))
    system = posed(lambda vector, step: split(matrix @ jnp.concatenate(vector)), split(target))
    found = adjoint.solve_system(estimator, system)
    flat = jnp.concatenate(found.adjoint)
    return flat, jnp.linalg.norm(matrix @ flat - target) / jnp.linalg.norm(target), found


def unsymmetric(seed: int) -> tuple[jax.Array, jax.Array]:
    """A well-conditioned matrix (N, N) and a right-hand side (N,)."""
    rng = np.random.default_rng(seed)
    return jnp.asarray(spd(N, 20, seed) + np.triu(rng.normal(size=(N, N)), 1) / 30), jnp.asarray(rng.normal(size=N))


@pytest.mark.parametrize("estimator", SOLVERS)
def test_equals_the_closed_form_with_the_residual_of_the_dense_hessian(estimator):
    case = quadratic(20, 50)
    gradient, info = differentiate(case, estimator=estimator)
    assert error(gradient, case.exact) < 1e-11
    assert bool(info.converged)
    matrix, target = jax.hessian(case.lower, 1)(case.x, case.y), jax.grad(case.upper, 1)(case.x, case.y)
    near(info.residual, distance(matrix @ info.adjoint, target), 1e-2, 1e-15)


@pytest.mark.parametrize("estimator", [*SOLVERS, linear(lx.LU())])
def test_solves_a_pytree_and_its_transpose_in_reverse_mode_under_vmap(estimator):
    """d/db of c' A^-1 b is A^-T c: another matrix than A."""
    matrices, targets = (jnp.stack(parts) for parts in zip(*map(unsymmetric, range(3)), strict=True))
    weights = jnp.cos(jnp.arange(1.0, N + 1))

    def weighed(matrix, target):
        flat, residual, _ = solve(matrix, target, estimator)
        return weights @ flat, residual

    pulled, residuals = jax.jit(jax.vmap(jax.grad(weighed, argnums=1, has_aux=True)))(matrices, targets)
    assert jnp.max(residuals) < 1e-11
    near(pulled, np.stack([np.linalg.solve(matrix.T, weights) for matrix in np.asarray(matrices)]), 1e-9, 1e-10)


@pytest.mark.parametrize("estimator", ROUGH)
def test_tolerance_is_the_relative_residual_whatever_the_units(estimator):
    """Neither the unit of the matrix nor that of the right-hand side matters, and no more is done than was asked."""
    matrix, target = unsymmetric(0)
    for unit in (1e-9, 1e6):
        _, residual, found = solve(matrix * unit, target / unit, estimator, jnp.zeros(N))
        assert 1e-6 < residual <= 1.001e-3
        assert not bool(found.best_iterate)


@pytest.mark.parametrize("estimator", ROUGH)
def test_start_at_the_solution_needs_no_step(estimator):
    matrix, target = unsymmetric(1)
    exact = jnp.linalg.solve(matrix, target)
    _, residual, found = solve(matrix, target, estimator, exact * (1 + 1e-6))
    assert int(found.steps) == 0
    assert residual < 1.001e-6
    _, residual, found = solve(matrix, target, estimator, exact + 1.0)
    assert int(found.steps) > 0
    assert residual < 1.001e-3


@pytest.mark.parametrize("estimator", ROUGH)
def test_nothing_to_solve_gives_zero(estimator):
    np.testing.assert_array_equal(solve(unsymmetric(0)[0], jnp.zeros(N), estimator, jnp.zeros(N))[0], 0)


def test_lsmr_gives_the_least_squares_solution_of_a_singular_system():
    diagonal = jnp.arange(float(N)) / 3
    flat, _, _ = solve(jnp.diag(diagonal), jnp.ones(N), ROUGH[2], jnp.zeros(N))
    near(flat, np.array([0, *(1 / diagonal[1:])]), 1e-7, 1e-10)


@pytest.mark.parametrize("solver", [gmres, bicgstab])
def test_preconditioner_solves_at_once_and_hides_no_residual(solver):
    scales = jnp.logspace(-6, 0, N)
    estimator = solver(preconditioner=lambda tree: [tree[0] / scales[: N // 2], tree[1] / scales[N // 2 :]])
    _, residual, found = solve(jnp.diag(scales), jnp.ones(N), estimator)
    assert residual <= 1e-12
    assert int(found.products) <= N + 3
    # Here M is far from the inverse, and |M r| says nothing of |r|.
    _, residual, _ = solve(jnp.diag(1 / scales**0.25), jnp.ones(N), estimator)
    assert residual <= 1e-11


@pytest.mark.single
@pytest.mark.parametrize("diagonal", [[2.0, 2.0, 2.0, 2.0], [1.0, -2.0, 3.0, -4.0]])
def test_bicgstab_where_coefficients_vanish_or_change_sign(diagonal):
    flat, _, _ = solve(jnp.diag(jnp.array(diagonal)), jnp.arange(1.0, 5.0), bicgstab())
    near(flat, np.arange(1, 5) / np.array(diagonal), 1e-5)


@pytest.mark.single
def test_bicgstab_begins_anew_after_a_breakdown():
    """After one step with this cyclic shift plus half the identity, the residual is orthogonal to the shadow."""
    matrix = jnp.roll(jnp.eye(4), 1, axis=0) + 0.5 * jnp.eye(4)
    flat, _, found = solve(matrix, jnp.eye(4)[0], bicgstab())
    near(flat, np.linalg.solve(matrix, np.eye(4)[0]), 1e-7, 1e-5)
    assert int(found.steps) <= 8


@pytest.mark.single
def test_conjugate_gradients_of_lineax_for_a_million_unknowns_in_float32():
    """Given this system as it is, they take the first step for a breakdown and answer NaN."""
    scales, pull = jnp.linspace(0.1, 1, 10**6), jnp.cos(jnp.arange(10**6, dtype=jnp.float32))
    lower = lambda x, y: 0.5 * jnp.sum(scales * y**2) - x * jnp.sum(pull * y)
    upper = lambda x, y: 0.5 * jnp.sum((y - 1) ** 2)
    x = jnp.asarray(0.7)
    y = x * pull / scales
    gradient, info = gradient_of(upper, lower, x, y, estimator=linear(lx.CG(1e-6, 1e-6)))
    pull, scales, y = (np.asarray(value, np.float64) for value in (pull, scales, y))
    assert abs(float(gradient) / np.sum(pull * (y - 1) / scales) - 1) < 5e-6
    assert bool(info.solve_converged)


@pytest.mark.single
def test_normal_equations_in_float32_at_a_size_where_the_guard_would_stop_them():
    scales, target = jnp.linspace(0.1, 1, 20_000), jnp.ones(20_000)
    estimator = linear(lx.Normal(lx.CG(0.0, 1e-6)))
    found = jax.jit(lambda b: estimator.solve(posed(lambda v, step: [scales * v[0]], [b])))(target)
    near(found.adjoint[0], target / scales, 1e-3)


def test_lsmr_of_float32_variables_in_64_bit_mode():
    flat, residual, _ = solve(jnp.asarray(spd(N, 5), jnp.float32), jnp.ones(N, jnp.float32), lsmr(tolerance=1e-5))
    assert flat.dtype == jnp.float32
    assert residual < 1e-5


def test_steps_are_counted_and_a_cut_solve_is_flagged():
    matrix, target = unsymmetric(2)
    _, residual, found = solve(matrix, target, gmres(steps=5, restart=3))
    assert said(found, "steps", "products") == (6, 10)
    assert residual > 1e-10
    _, info = differentiate(quadratic(30, 1e4), estimator=bicgstab(steps=6))
    assert said(info, "solve_converged", "steps", "products") == (False, 6, 13)


def test_a_solver_that_divides_zero_by_zero_gives_zero_for_nothing():
    np.testing.assert_array_equal(solve(jnp.eye(N), jnp.zeros(N), linear(lx.BiCGStab(1e-9, 1e-9)))[0], 0)


def test_linear_reports_curvature_that_its_solver_relies_on():
    lower, upper = lambda x, y: 0.5 * (y[0] ** 2 - y[1] ** 2) * x, lambda x, y: y[0] + 2 * y[1]
    _, info = gradient_of(upper, lower, 1.0, jnp.zeros(2), estimator=linear(lx.CG(1e-9, 1e-9)))
    assert not bool(info.positive)
    assert not linear(lx.LU()).definite


def test_arguments_that_would_be_ignored_are_refused():
    refuses("LSMR takes no preconditioner", lambda: linear(lx.LSMR(1e-6, 1e-6), preconditioner=lambda v: v))
    refuses("LU takes no start", lambda: linear(lx.LU(), start=[1.0]))
    refuses("a lineax solver was expected", lambda: linear("cg"), TypeError)
    refuses("restart is 0", lambda: gmres(restart=0))
    refuses("linear needs a symmetric system", lambda: solve(jnp.eye(2), jnp.ones(2), linear(lx.CG(1e-6, 1e-6))))


@pytest.mark.single
def test_explicit_axes_and_shard_map_are_refused_by_lineax_in_a_sentence():
    def refused(estimator):
        def solve_for(target):
            refuses("use cg, minres or bicgstab", lambda: estimator.solve(posed(lambda v, step: v, [target])))
            return target

        return solve_for

    explicit = jax.make_mesh((1,), ("d",), axis_types=(jax.sharding.AxisType.Explicit,))
    with jax.set_mesh(explicit):
        refused(gmres())(jax.device_put(jnp.ones(4), jax.P("d")))
    automatic = jax.make_mesh((1,), ("d",), axis_types=(jax.sharding.AxisType.Auto,))
    jax.shard_map(refused(lsmr()), mesh=automatic, in_specs=jax.P("d"), out_specs=jax.P("d"))(jnp.ones(4))
