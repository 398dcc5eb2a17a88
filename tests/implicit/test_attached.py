"""Derivatives attached to a solution: exact in both modes and to higher orders, NaN where they cannot be had."""

import functools
import inspect

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax.flatten_util import ravel_pytree

from jaxfuse.implicit import Levenberg, cg, dense, gauss_newton, hessian, hypergradient
from jaxfuse.implicit.attached import implicit_fixed_point, implicit_minimum, implicit_root
from jaxfuse.implicit.linear_solvers import gmres
from jaxfuse.implicit.series import neumann
from jaxfuse.implicit.unrolled import one_step
from tests.implicit.problems import error, logistic, near, quadratic, refuses


def square_root(x, y, **options):
    return implicit_root(lambda x, y: y**2 - x, x, y, **options)


def derivatives(function, x, order):
    """function and its derivatives up to an order, by forward mode over reverse mode."""
    functions = [function, jax.grad(function)]
    while len(functions) <= order:
        functions.append(jax.jacfwd(functions[-1]))
    return jax.jit(lambda x: [each(x) for each in functions])(x)


def blocks(case):
    """A and B of lower = y'Ay/2 - y'(Bx + c)."""
    cross, a = jax.jit(jax.jacfwd(jax.grad(case.lower, 1), (0, 1)))(case.x, case.y)
    return np.asarray(a), -np.asarray(cross)


def test_three_derivatives_of_the_square_root():
    root = np.sqrt(2.0)
    exact = [root, 0.5 / root, -0.25 * 2**-1.5, 0.375 * 2**-2.5]
    assert np.allclose(derivatives(lambda x: square_root(x, root), 2.0, 3), exact, rtol=1e-13)
    closed_over = lambda x: implicit_root(lambda one, y: one * y**2 - x, 1.0, root)
    assert np.allclose(derivatives(closed_over, 2.0, 2), exact[:3], rtol=1e-13)
    reverse_twice = jax.jit(jax.grad(jax.grad(lambda x: square_root(x, root))))
    assert np.isclose(reverse_twice(2.0), exact[2], rtol=1e-13)


def test_value_is_y_and_its_start_has_no_derivative():
    y = {"root": jnp.asarray(1.40625, jnp.bfloat16), "count": jnp.asarray(3)}
    residual = lambda x, y: {"root": y["root"] ** 2 - x, "count": y["count"]}
    attached = implicit_root(residual, 2.0, y)
    assert (attached["root"].dtype, float(attached["root"]), int(attached["count"])) == (jnp.bfloat16, 1.40625, 3)
    assert float(jax.jit(jax.grad(lambda y: square_root(2.0, y)))(np.sqrt(2.0))) == 0


@pytest.mark.parametrize("estimator", [dense(), gmres()])
def test_both_modes_of_a_root_that_is_no_minimum(estimator):
    rng = np.random.default_rng(0)
    k, c = rng.normal(size=(5, 5)) + 3 * np.eye(5), rng.normal(size=(5, 3))
    x, exact = jnp.ones(3), np.linalg.solve(k, c)
    y = jnp.asarray(exact @ np.ones(3))
    # A first guess that depends on x must not matter.
    solver = lambda x: gmres(start=jnp.tile(jnp.sum(x), 5)) if estimator == gmres() else estimator
    attached = lambda x: implicit_root(lambda x, y: c @ x - k @ y, x, y, estimator=solver(x))
    for jacobian in jax.jit(lambda x: (jax.jacfwd(attached)(x), jax.jacrev(attached)(x)))(x):
        assert error(jacobian, exact) < 1e-12


def test_an_approximation_approximates_alike_in_both_modes():
    """y = W y + U x by three terms: dy/dx is (I + W + W^2) U, forward and backward."""
    rng = np.random.default_rng(0)
    w, u = 0.2 * rng.normal(size=(4, 4)), rng.normal(size=(4, 2))
    x, y = jnp.ones(2), jnp.asarray(np.linalg.solve(np.eye(4) - w, u @ np.ones(2)))
    attached = lambda x: implicit_fixed_point(lambda x, y: w @ y + u @ x, x, y, estimator=neumann(3, 1.0))
    for jacobian in jax.jit(lambda x: (jax.jacfwd(attached)(x), jax.jacrev(attached)(x)))(x):
        assert error(jacobian, (np.eye(4) + w + w @ w) @ u) < 1e-14


def test_fixed_point_of_a_tree():
    """y = x cos(y), as a tree: dy/dx = cos(y) / (1 + x sin(y))."""
    x, y = 0.5, 0.45018361129487355
    step = lambda x, y: {"y": x * jnp.cos(y["y"])}
    found = jax.jit(jax.grad(lambda x: implicit_fixed_point(step, x, {"y": y})["y"]))(x)
    assert np.isclose(found, np.cos(y) / (1 + x * np.sin(y)), rtol=1e-14)


def test_quadratic_bilevel_objective():
    """F(x) = |y*(x) - t|^2 / 2 + 0.05 |x|^2 has the Hessian J'J + 0.1 I with J = A^-1 B."""
    case = quadratic(n=12, outer=3)
    objective = lambda x: case.upper(x, implicit_minimum(case.lower, x, case.y, estimator=cg()))
    gradient, second = jax.jit(lambda x: (jax.grad(objective)(x), jax.hessian(objective)(x)))(case.x)
    assert error(gradient, case.exact) < 1e-11
    a, b = blocks(case)
    jacobian = np.linalg.solve(a, b)
    assert error(second, jacobian.T @ jacobian + 0.1 * np.eye(3)) < 1e-10


def test_logistic_bilevel_objective_to_second_order():
    """Gradient and Hessian, also by differentiating `hypergradient`; against differences of gradients at minima."""
    case = logistic()
    x, to_x = ravel_pytree(case.x)
    y, to_y = ravel_pytree(case.y)
    objective = lambda x, y=y: case.upper(to_x(x), implicit_minimum(case.lower, to_x(x), to_y(y), estimator=cg()))

    def gradient(x):
        minimum = implicit_minimum(case.lower, to_x(x), case.y, estimator=cg())
        return ravel_pytree(hypergradient(case.upper, case.lower, to_x(x), minimum, estimator=cg())[0])[0]

    slope = jax.jit(jax.grad(objective))
    assert error(slope(x, y), case.exact) < 1e-12
    lower = lambda x, y: case.lower(to_x(x), to_y(y))
    newton = jax.jit(lambda x, y: y - jnp.linalg.solve(jax.hessian(lower, 1)(x, y), jax.grad(lower, 1)(x, y)))

    def slope_at(x):
        minimum = y
        for _ in range(4):
            minimum = newton(x, minimum)
        return slope(x, minimum)

    h = 1e-4
    differences = np.stack([(slope_at(x + h * e) - slope_at(x - h * e)) / (2 * h) for e in np.eye(len(x))], axis=1)
    second = jax.jit(jax.hessian(objective))(x)
    assert error(second, differences) < 1e-6
    for found in jax.jit(lambda x: (jax.jacfwd(gradient)(x), jax.jacrev(gradient)(x)))(x):
        assert error(found, second) < 1e-10


def test_modes_agree_and_a_batch_agrees_with_a_loop():
    case = quadratic(n=6, outer=3)
    attached = lambda x, y: implicit_minimum(case.lower, x, y, estimator=cg())
    tangent, cotangent = jnp.array([1.0, -2.0, 0.5]), jnp.arange(6.0)

    @jax.jit
    def both(x, y):
        forward = jax.jvp(lambda x: attached(x, y), (x,), (tangent,))[1]
        return forward, jax.vjp(lambda x: attached(x, y), x)[1](cotangent)[0]

    x = case.x[None] + jnp.arange(4.0)[:, None]
    y = jax.jit(jax.vmap(case.solve))(x)
    loop = [both(*pair) for pair in zip(x, y, strict=True)]
    for forward, backward in loop:
        assert abs(float(cotangent @ forward - backward @ tangent)) < 1e-10
    near(jax.jit(jax.vmap(both))(x, y), jax.tree.map(lambda *parts: jnp.stack(parts), *loop), atol=1e-10)


@pytest.mark.parametrize("mode", [jax.jacfwd, jax.jacrev])
def test_a_derivative_that_fails_its_certificate_is_nan(mode):
    case = quadratic(n=6, outer=2)
    saddle = lambda x, y: 0.5 * (y[0] ** 2 - y[1] ** 2) - jnp.sum(x * y)
    attached = {
        "right": (lambda x, **policy: square_root(x, np.sqrt(2.0), **policy), 2.0),
        "no root": (lambda x, **policy: square_root(x, 1.2, **policy), 2.0),
        "cut short": (functools.partial(implicit_minimum, case.lower, y=case.y, estimator=cg(steps=2)), case.x),
        # With a named tolerance the residual is fine, and only the sign of the curvature is not.
        "saddle": (
            functools.partial(implicit_minimum, saddle, y=jnp.array([1.0, -1.0]), estimator=dense(tolerance=1e-10)),
            jnp.ones(2),
        ),
    }

    @functools.partial(jax.jit, static_argnums=0)
    def derivatives_of(policy):
        return {name: mode(functools.partial(of, policy=policy))(x) for name, (of, x) in attached.items()}

    masked, plain = derivatives_of("nan"), derivatives_of("ignore")
    assert np.isclose(masked["right"], 0.5**1.5)
    assert np.isclose(plain["no root"], 1 / 2.4)
    near(plain["saddle"], np.diag([1.0, -1.0]), atol=1e-14)
    for name in ("no root", "cut short", "saddle"):
        assert np.all(np.isnan(masked[name]))
        assert np.all(np.isfinite(plain[name]))


def test_nan_never_turns_into_a_number():
    """Conjugate gradients stop at once on a right-hand side of NaN, at zero."""
    case = quadratic(n=6, outer=2)
    attached = lambda x: implicit_minimum(case.lower, x, case.y, estimator=cg(), policy="ignore")
    push = jax.jit(lambda tangent: jax.jvp(attached, (case.x,), (tangent,))[1])
    assert np.all(np.isnan(push(jnp.array([jnp.nan, 1.0]))))


def test_another_curvature_is_used_as_it_stands():
    """lower = y'Ay/2 - y'(Bx + c) with A + d I in place of A: dy/dx = (A + d I)^-1 B, also differentiated in d."""
    case = quadratic(n=6, outer=2)
    a, b = blocks(case)
    half = jnp.linalg.cholesky(a).T
    newton = gauss_newton(lambda x, y: half @ y, lambda r: 0.5 * jnp.sum(r**2))
    attached = functools.partial(implicit_minimum, case.lower, y=case.y, policy="ignore", estimator=cg())
    sensitivity = lambda curvature: jax.jacrev(functools.partial(attached, curvature=curvature))(case.x)
    damped = lambda damping: sensitivity(hessian(damping=damping))
    gn, at, slope = jax.jit(lambda d: (sensitivity(newton), damped(d), jax.jacfwd(damped)(d)))(0.3)
    inverse = np.linalg.inv(a + 0.3 * np.eye(6))
    for found, exact in ((gn, np.linalg.solve(a, b)), (at, inverse @ b), (slope, -inverse @ inverse @ b)):
        assert error(found, exact) < 1e-11


def test_refusals_are_sentences():
    minimum = functools.partial(inspect.unwrap(implicit_minimum), lambda x, y: jnp.sum((y - x) ** 2), 1.0, 1.0)
    root = functools.partial(inspect.unwrap(implicit_root), lambda x, y: y - x, 1.0, 1.0)
    refuses("policy 'warn' cannot act on an attached derivative; choose nan or ignore", lambda: root(policy="warn"))
    step = one_step(learning_rate=0.1)
    refuses("one_step.*solves no linear system on its own", lambda: minimum(estimator=step), TypeError)
    refuses("cg needs a symmetric system", lambda: root(estimator=cg()))
    refuses("derivatives need one matrix", lambda: minimum(curvature=hessian(damping=Levenberg())))
    vector = lambda: inspect.unwrap(implicit_minimum)(lambda x, y: y - x, jnp.ones(2), jnp.ones(2))
    refuses("lower\\(x, y\\) returned", vector, TypeError)
