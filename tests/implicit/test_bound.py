"""The error bound: never below the error, not far above it, and equal to a hand-worked number."""

import dataclasses
import functools

import jax
import jax.numpy as jnp
import numpy as np

from jaxfuse import implicit
from jaxfuse.implicit.bound import error_bound, lanczos, least_eigenvalue, operator_norm
from tests.implicit.problems import error, logistic, quadratic, refuses, said

N, OUTER = 30, 8


def random_quadratic(seed):
    """Everything drawn: spectrum up to condition 1e3, upper with an indefinite yy and a full xy block."""
    keys = iter(jax.random.split(jax.random.key(seed), 12))
    draw = lambda *shape: jax.random.normal(next(keys), shape)
    basis, _ = jnp.linalg.qr(draw(N, N))
    a = (basis * jnp.logspace(-jax.random.uniform(next(keys), maxval=3.0), 0, N)[None]) @ basis.T
    p, b, c, t, m, w = draw(N, N), draw(N, OUTER), draw(N), draw(N), draw(OUTER, N), draw(OUTER, OUTER)
    p = (p + p.T) / np.sqrt(N)
    x = draw(OUTER)
    lower = lambda x, y: 0.5 * y @ ((a + a.T) / 2) @ y - y @ (b @ x + c)
    upper = lambda x, y: 0.5 * y @ p @ y + x @ m @ y + t @ y + 0.5 * x @ (w @ x)
    best = jnp.linalg.solve((a + a.T) / 2, b @ x + c)
    adjoint = jnp.linalg.solve((a + a.T) / 2, p @ best + m.T @ x + t)
    return upper, lower, x, draw(N), best, m @ best + 0.5 * (w + w.T) @ x + b.T @ adjoint, next(keys)


def stopped(lower, x, start, best, key):
    """y where the inner solver happens to have stopped: gradient descent, conjugate gradients, or the optimum."""
    slope, zero = functools.partial(jax.grad(lower, 1), x), jnp.zeros(N)
    count, kind = jax.random.randint(key, (), 0, 200), jax.random.randint(jax.random.fold_in(key, 1), (), 0, 5)
    by_descent = jax.lax.fori_loop(0, count, lambda _, y: y - slope(y), start)
    product = lambda v: slope(v) - slope(zero)
    by_conjugate, _ = jax.scipy.sparse.linalg.cg(product, -slope(zero), start, tol=0.0, maxiter=count // 8)
    return jnp.where(kind < 2, by_descent, jnp.where(kind < 4, by_conjugate, best))


def test_is_above_the_error_of_a_hundred_random_quadratics_and_not_far():
    def one(seed):
        upper, lower, x, start, best, exact, key = random_quadratic(seed)
        y = stopped(lower, x, start, best, key)
        estimators = [implicit.cg(tolerance=tolerance) for tolerance in (1e-2, 1e-4, 1e-6)]
        loose = [implicit.hypergradient(upper, lower, x, y, estimator=estimator) for estimator in estimators]
        gradient, info = jax.tree.map(lambda *choices: jnp.stack(choices)[seed % 3], *loose)
        return error_bound(upper, lower, x, y, info), jnp.linalg.norm(gradient - exact)

    bound, errors = jax.jit(jax.vmap(one))(jnp.arange(100))
    ratios = np.asarray(bound.bound / errors)
    assert ratios.min() >= 1
    assert np.median(ratios) <= 100
    # Both parts are put to the test: either is the larger one in many of these problems.
    assert 10 < np.sum(bound.linear_part > bound.inner_part) < 90


def gradient_and_bound(upper, lower, x, y, adjoint=None, options=None, **constants):
    """Both, compiled once for any point; `adjoint` stands in for the solver's own if it is given."""

    @jax.jit
    def both(x, y, adjoint):
        gradient, info = implicit.hypergradient(upper, lower, x, y, estimator=implicit.cg(), **(options or {}))
        info = info if adjoint is None else dataclasses.replace(info, adjoint=adjoint)
        return gradient, error_bound(upper, lower, x, y, info, **constants)

    return both(x, y, adjoint)


# By hand: at x = 1 the optimum is (1/2, 0) and the hypergradient 1/4; least curvature 2, all three norms 1.
def bowl(x, y):
    return y[0] ** 2 + 2 * y[1] ** 2 - x * y[0]


def distance(x, y):
    return 0.5 * jnp.sum(y**2) + x * y[1]


def test_a_hand_worked_number():
    # One half from y*: inner gradient (1, 0), q = (1/2, 1/4).
    gradient, found = gradient_and_bound(distance, bowl, 1.0, jnp.array([1.0, 0.0]))
    assert np.allclose((gradient, found.strong_convexity, *found.norms.values()), (0.5, 2, 1, 1, 1))
    assert np.allclose(said(found, "inner_part", "linear_part", "relative"), ((1 + 1 / 2) * 1 / 2, 0, 0.75 / 0.5))


def test_given_constants_replace_the_estimates():
    y, adjoint = jnp.array([1.0, 0.0]), jnp.zeros(2)  # the residual is all of upper_y = (1, 1)
    given = {"strong_convexity": 0.5, "norms": {"cross": 3.0, "mixed": 5.0, "inner": 7.0}}
    _, found = gradient_and_bound(distance, bowl, 1.0, y, adjoint, **given)
    assert np.allclose(said(found, "inner_part", "linear_part"), ((5 + 3 * 7 / 0.5) / 0.5, 3 / 0.5 * np.sqrt(2)))


def test_is_rounding_where_both_solves_are_exact_and_grows_in_proportion():
    case = quadratic(n=12, condition=10.0)

    @jax.jit
    def bound(inner, linear):
        y = case.y + inner
        _, info = implicit.hypergradient(case.upper, case.lower, case.x, y, estimator=implicit.cg())
        info = dataclasses.replace(info, adjoint=info.adjoint + linear)
        return error_bound(case.upper, case.lower, case.x, y, info)

    zero, step = jnp.zeros(12), jnp.cos(jnp.arange(12.0))
    assert bound(zero, zero).relative < 1e-11
    one, ten = bound(step, step), bound(10 * step, 10 * step)
    assert np.allclose((ten.inner_part, ten.linear_part), (10 * one.inner_part, 10 * one.linear_part))


def test_holds_near_the_optimum_of_a_function_that_is_not_quadratic():
    case = logistic()
    y = jax.tree.map(lambda leaf: leaf + 1e-3, case.y)
    gradient, found = gradient_and_bound(case.upper, case.lower, case.x, y)
    true = error(gradient, case.exact) * np.linalg.norm(case.exact)
    assert 0 < true <= found.bound < 100 * true


def test_estimates_err_to_the_safe_side_with_fewer_steps_than_unknowns():
    diagonal = jnp.logspace(-1.5, 0, 150)
    wide = jax.random.normal(jax.random.key(0), (200, 150))

    def estimate(key):
        vector = [diagonal]
        least = least_eigenvalue(lambda v: [diagonal * v[0]], vector, 40, key)
        norm = operator_norm(lambda v: [wide @ v[0]], lambda u: [u[0] @ wide], vector, [jnp.zeros(200)], 10, key)
        return least, norm

    least, norm = jax.jit(jax.vmap(estimate))(jax.random.split(jax.random.key(1), 50))
    assert np.all(least <= diagonal[0])
    assert np.median(least) > 0.5 * diagonal[0]
    true = np.linalg.norm(wide, 2)
    assert true <= np.min(norm) <= np.max(norm) < 1.4 * true


def test_lanczos_ends_early_where_there_are_few_eigenvalues():
    diagonal = jnp.repeat(jnp.array([2.0, 3.0, 7.0]), 10)
    run = jax.jit(lambda diagonal: lanczos(lambda v: [diagonal * v[0]], [diagonal], 12, jax.random.key(0)))
    values, residuals = run(diagonal)
    assert np.allclose(np.unique(np.round(values, 8))[[0, -1]], [2, 7])
    assert np.allclose(residuals, 0, atol=1e-10)
    values, _ = run(0 * diagonal)
    assert np.all(values == 0)


def test_is_infinite_where_nothing_is_known():
    y, norms = jnp.array([1.0, 0.0]), dict.fromkeys(("cross", "mixed", "inner"), 1.0)
    saddle = lambda x, y: y[0] ** 2 - y[1] ** 2 - x * y[0]
    assert gradient_and_bound(distance, saddle, 1.0, y, norms=norms)[1].bound == np.inf
    for policy in ("nan", "fallback", "ignore"):  # y is not optimal, so the first two hand out another gradient
        known = {"strong_convexity": 2.0, "norms": norms}
        _, found = gradient_and_bound(distance, bowl, 1.0, y, None, {"policy": policy}, **known)
        assert found.bound == (0.75 if policy == "ignore" else np.inf)


def test_refuses_what_it_cannot_bound():
    case = quadratic(n=4, dtype=np.float32)
    pose = (case.upper, case.lower, case.x, case.y)

    def refuse(change=None, **options):
        def bound():
            _, info = implicit.hypergradient(*pose, estimator=implicit.cg())
            return error_bound(*pose, dataclasses.replace(info, **(change or {})), **options)

        return jax.eval_shape(bound)

    refuses("has no adjoint", lambda: refuse({"adjoint": None}))
    refuses("strong_convexity is 0", lambda: refuse(strong_convexity=0.0))
    refuses("none may be negative", lambda: refuse(norms={"cross": -1.0}))
    refuses("norms are given for crossed; name cross, mixed or inner", lambda: refuse(norms={"crossed": 1.0}))
    refuses("at least 1 of each", lambda: refuse(steps=0))
    refuses("bound no norm over 4 unknowns: give at least 4 norm_steps", lambda: refuse(norm_steps=2))
