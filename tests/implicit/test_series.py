"""Series and named approximations: equal to what they are said to equal, and flagged where they fail."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jaxfuse.implicit import gauss_newton, hessian, hypergradient, minibatch_hessian
from jaxfuse.implicit.series import direct, finite_difference, fixed_point, identity, neumann, rank_one
from tests.implicit.problems import (
    central_difference,
    differentiate,
    error,
    gradient_of,
    near,
    quadratic,
    refuses,
    said,
)

case = functools.cache(lambda: quadratic(12, 10))  # eigenvalues 0.1 to 1


def solved(estimator, y=None):
    return differentiate(case(), y=y, estimator=estimator)


def parts():
    """Hessian, cross derivative (inner, outer), d upper / dx and d upper / dy of the case, at its optimum."""
    problem = case()
    cross, matrix = jax.jacfwd(jax.grad(problem.lower, 1), (0, 1))(problem.x, problem.y)
    return matrix, cross, *jax.grad(problem.upper, (0, 1))(problem.x, problem.y)


@pytest.mark.parametrize(
    "estimator",
    [neumann(3, 0.5), fixed_point(0.5, steps=5), identity(0.3), direct(), rank_one(0.2), finite_difference(0.3)],
)
def test_gradient_and_residual_are_those_of_the_adjoint_that_is_reported(estimator):
    """Away from the optimum, so that outer products of gradients have something to say."""
    problem = case()
    y = problem.y + 0.3
    gradient, info = solved(estimator, y)
    matrix, cross, outer, target = parts()
    target = target + 0.3  # upper is |y - t|^2 / 2
    residual = error(matrix @ info.adjoint, target)
    near(info.residual, residual, 1e-8, 1e-12)
    near(info.residual, info.system_residual, 1e-12)
    if isinstance(estimator, rank_one):
        cross = jnp.outer(jax.grad(problem.lower, 1)(problem.x, y), jax.grad(problem.lower)(problem.x, y))
    near(gradient, outer - info.adjoint @ cross, 1e-8)
    if not isinstance(estimator, fixed_point):  # which promises its tolerance
        assert bool(info.solve_converged) == (residual <= 1 + 1e-12)


@pytest.mark.parametrize("terms", [1, 4])
def test_neumann_equals_truncated_back_propagation(terms):
    problem, rate = case(), 0.7

    def value_after_steps(x):
        y = problem.y
        for _ in range(terms):
            y = y - rate * jax.grad(problem.lower, 1)(x, y)
        return problem.upper(x, y)

    gradient, info = solved(neumann(terms, rate))
    assert error(gradient, jax.jit(jax.grad(value_after_steps))(problem.x)) < 1e-12
    assert said(info, "steps", "products") == (terms, terms)  # terms - 1, and the certificate's


def test_neumann_converges_monotonically_at_its_rate():
    """|b - H q_k| = |(I - a H)^k b| <= (1 - a mu)^k |b|, and in the end equal but for a constant."""
    errors, residuals, terms = [], [], (1, 4, 200, 220)
    for count in terms:
        gradient, info = solved(neumann(count, 1.0))
        errors.append(error(gradient, case().exact))
        residuals.append(float(info.residual))
    assert errors == sorted(errors, reverse=True)
    assert all(found <= 0.9**count * (1 + 1e-9) for count, found in zip(terms, residuals, strict=True))
    near((residuals[3] / residuals[2], errors[3] / errors[2]), (0.9**20, 0.9**20), 1e-3)


def test_divergence_and_negative_curvature_are_flagged():
    _, info = solved(neumann(30, 2.5))  # 2 / L = 2
    assert not bool(info.solve_converged)
    lower, upper = lambda x, y: 0.5 * (y[0] ** 2 - 0.1 * y[1] ** 2) + 0 * x, lambda x, y: jnp.sum(y)
    for estimator in (neumann(20, 0.5), fixed_point(0.5, steps=20)):
        _, info = gradient_of(upper, lower, 1.0, jnp.zeros(2), estimator=estimator)
        assert said(info, "positive", "converged") == (False, False)
        assert float(info.least_curvature) < 0


def test_reverse_mode_through_a_series_and_through_fixed_points():
    """The derivative of the gradient, along one direction, in both modes and by differences."""
    problem = case()
    curved = lambda x, y: problem.lower(x, y) + 0.1 * jnp.exp(0.3 * x[0]) * jnp.sum(y**4)
    direction = jnp.cos(jnp.arange(7.0))
    for estimator in (neumann(4, 0.1), fixed_point(0.1, tolerance=1e-13, steps=3000)):

        def along(x, estimator=estimator):
            return direction @ hypergradient(problem.upper, curved, x, problem.y * 0.1, estimator=estimator)[0]

        both = jax.jit(lambda x, f=along: (jax.grad(f)(x) @ direction, jax.jvp(f, (x,), (direction,))[1]))
        reverse, forward = both(problem.x)
        near(reverse, forward, 1e-10)
        near(reverse, central_difference(along, problem.x, direction), 1e-6)


def batched_problem():
    """Four batches of a quadratic in three unknowns, whose mean is `lower`."""
    rng = np.random.default_rng(0)
    roots, x = rng.normal(size=(4, 3, 3)), jnp.asarray(rng.normal(size=3))
    batches = jnp.asarray(0.2 * roots @ roots.transpose(0, 2, 1) + 0.3 * np.eye(3))
    of_batch = lambda x, y, batch: 0.5 * y @ (batch @ y) - x @ y
    lower = lambda x, y: of_batch(x, y, jnp.mean(batches, 0))
    upper = lambda x, y: 0.5 * jnp.sum((y - 1) ** 2) + jnp.sum(x**2)
    return upper, lower, x, jnp.linalg.solve(jnp.mean(batches, 0), x), of_batch, batches


def test_neumann_of_fresh_batches_is_unbiased():
    upper, lower, x, y, of_batch, batches = batched_problem()
    terms, rate, draws = 5, 0.4, 4096

    def estimate(chosen):
        curvature = minibatch_hessian(of_batch, batches[chosen])
        return hypergradient(upper, lower, x, y, estimator=neumann(terms, rate), curvature=curvature)[0]

    @jax.jit
    def deviations(chosen):
        """In standard errors, of the mean over draws from the estimate with the whole Hessian."""
        drawn = jax.vmap(estimate)(chosen)
        full = hypergradient(upper, lower, x, y, estimator=neumann(terms, rate))[0]
        return jnp.abs(jnp.mean(drawn, 0) - full) / (jnp.std(drawn, 0) / draws**0.5)

    chosen = jax.random.randint(jax.random.key(0), (draws, terms - 1), 0, 4)
    assert jnp.max(deviations(chosen)) < 3
    # The same batch in every product of a draw is not: E[H^2] is no E[H]^2. The test can tell.
    assert jnp.max(deviations(jnp.broadcast_to(chosen[:, :1], chosen.shape))) > 5


def test_fixed_point_solves_warm_starts_and_takes_fresh_batches():
    gradient, info = solved(fixed_point(1.0, steps=400))
    assert error(gradient, case().exact) < 1e-11
    assert said(info, "products", "converged") == (int(info.steps) + 1, True)
    _, again = solved(fixed_point(1.0, tolerance=1e-9, start=info.adjoint * (1 + 1e-6)))
    assert 0 < int(again.steps) < int(info.steps) / 2
    assert float(again.residual) < 1e-9
    *problem, y, of_batch, batches = batched_problem()
    of_batches = functools.partial(gradient_of, *problem, y, curvature=minibatch_hessian(of_batch, batches))
    _, info = of_batches(estimator=fixed_point(0.1, tolerance=0.5, steps=40))
    adjoint, target = np.zeros(3), np.asarray(y - 1)
    for step in range(40):
        adjoint = adjoint - 0.1 * (np.asarray(batches[step % 4]) @ adjoint - target)
    near(info.adjoint, adjoint, 1e-12)
    refuses("name its steps", lambda: of_batches(estimator=fixed_point(0.1)))


def test_identity_is_neumann_of_one_term_and_the_difference_agrees():
    one, _ = solved(neumann(1, 0.3))
    near(one, solved(identity(0.3))[0], 1e-14)
    difference, info = solved(finite_difference(0.3, step=0.1))  # of a quadratic: exact but for rounding
    near(difference, one, 1e-11)
    assert int(info.products) == 1


def test_central_differences_are_of_second_order():
    """lower = y^4/4 - x y: q = b = 1 and f_yy = 3 y^2, so the difference over step h gives 3 y^2 + h^2."""
    lower, upper = lambda x, y: 0.25 * y**4 - x * y, lambda x, y: y
    gradient, info = gradient_of(upper, lower, 8.0, 2.0, estimator=finite_difference(1.0, 0.1), policy="ignore")
    near((gradient, info.residual), (1.0, 12.01 - 1), 1e-12)
    assert not bool(info.solve_converged)


def test_direct_is_the_outer_gradient_alone():
    gradient, info = solved(direct())
    np.testing.assert_array_equal(gradient, parts()[2])
    assert said(info, "residual", "solve_converged", "products") == (1, True, 0)
    _, info = solved(direct(), case().y + 1)
    near(info.displacement, info.inner_gradient_norm, 1e-7)
    assert not bool(info.inner_converged)


def test_rank_one_is_its_formula_and_its_limits():
    problem = case()
    away = problem.y + 0.3
    inner, outer = jax.grad(problem.lower, 1)(problem.x, away), jax.grad(problem.lower)(problem.x, away)
    leader, target = jax.grad(problem.upper, (0, 1))(problem.x, away)
    coefficient = inner @ target / (inner @ inner + 0.2)
    near(solved(rank_one(0.2), away)[0], leader - coefficient * outer, 1e-12)
    bound = float(abs(coefficient)) / 2
    near(solved(rank_one(0.2, limit=bound), away)[0], leader - jnp.sign(coefficient) * bound * outer, 1e-12)
    # At the optimum it is 0 / 0, or the direct gradient where damping outweighs it.
    lower, upper = lambda x, y: 0.5 * (y - x) ** 2, lambda x, y: 0.5 * (y - 3) ** 2 + x
    run = lambda upper, e, y: hypergradient(upper, lower, 1.0, y, estimator=e, policy="ignore")
    gradient, info = run(upper, rank_one(), 1.0)
    assert (bool(np.isnan(gradient)), bool(info.finite)) == (True, False)
    gradient, info = run(upper, rank_one(1e-3), 1.0)
    assert (float(gradient), bool(info.finite)) == (1, True)
    # The same function at both levels: it cancels, though the exact answer is lower_x.
    assert abs(float(run(lower, rank_one(), 2.0)[0])) < 1e-15
    # And it is no curvature: the implicit part is opposite on opposite sides of the optimum, the longer the nearer.
    side = jnp.cos(jnp.arange(12.0))
    points = problem.y[None] + jnp.outer(jnp.array([1e-4, -1e-4, 1e-5]), side)
    many = jax.vmap(lambda y: hypergradient(problem.upper, problem.lower, problem.x, y, estimator=rank_one())[0])
    one, opposite, nearer = jax.jit(many)(points) - leader[None]
    assert jnp.linalg.norm(one) > 100 * np.linalg.norm(problem.exact)
    assert jnp.linalg.norm(one + opposite) < 0.01 * jnp.linalg.norm(one)
    near(jnp.linalg.norm(nearer) / jnp.linalg.norm(one), 10, 1e-2)


def test_arguments_are_checked():
    bad = [(neumann, {"terms": 0, "learning_rate": 0.1}), (fixed_point, {"learning_rate": 0.1, "steps": 0})]
    bad += [(rank_one, {"damping": -1.0}), (rank_one, {"limit": 0.0}), (finite_difference, {"step": 0.0})]
    for kind, options in bad:
        refuses("expected|negative", functools.partial(kind, **options))


@pytest.mark.parametrize("estimator", [identity(), direct(), rank_one(), finite_difference()])
@pytest.mark.parametrize("curvature", [hessian(damping=0.1), gauss_newton(lambda x, y: y, jnp.sum)])
def test_a_curvature_that_would_be_ignored_is_refused(estimator, curvature):
    levels = lambda x, y: y, lambda x, y: 0.5 * (y - x) ** 2
    call = functools.partial(hypergradient, *levels, 1.0, 1.0, estimator=estimator, curvature=curvature)
    refuses(f"{type(estimator).__name__} solves no linear system", call)
