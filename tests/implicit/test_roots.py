"""Derivatives of roots and fixed points: the transposed system, and what is said about it."""

import functools
import inspect

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jaxfuse.implicit import UnreliableGradient, cg, dense, minres
from jaxfuse.implicit.linear_solvers import bicgstab, gmres, lsmr
from jaxfuse.implicit.roots import fixed_point_jvp, fixed_point_vjp, root_jvp, root_vjp
from jaxfuse.implicit.unrolled import one_step
from tests.implicit.problems import distance, flat, near, refuses, said


def linear():
    """R = C x - K y with K far from symmetric: (residual, x, y, C, K)."""
    rng = np.random.default_rng(0)
    k, c, x = rng.normal(size=(5, 5)) + 3 * np.eye(5), rng.normal(size=(5, 3)), rng.normal(size=3)
    residual = lambda x, y: jnp.asarray(c) @ x - jnp.asarray(k) @ y
    return residual, jnp.asarray(x), jnp.asarray(np.linalg.solve(k, c @ x)), c, k


def layer():
    """y = tanh(W y + U x) on pytrees, a contraction: (step, x, y*, x -> y* by iteration)."""
    rng = np.random.default_rng(3)
    w, u = jnp.asarray(rng.normal(size=(4, 4)) * 0.15), jnp.asarray(rng.normal(size=(4, 2)))
    x = {"input": jnp.asarray(rng.normal(size=2)), "bias": jnp.asarray(0.3)}

    def step(x, y):
        state = jnp.tanh(w @ jnp.append(y["state"], y["last"]) + u @ x["input"] + x["bias"])
        return {"state": state[:3], "last": state[3]}

    start = {"state": jnp.zeros(3), "last": jnp.asarray(0.0)}
    iterate = jax.jit(lambda x: jax.lax.scan(lambda y, _: (step(x, y), None), start, length=80)[0])
    return step, x, iterate(x), iterate


def test_square_root_by_hand():
    square = lambda x, y: y**2 - x
    both = jax.jit(lambda x, y: (root_vjp(square, x, y, 3.0), root_jvp(square, x, y, 3.0)))
    (gradient, info), (tangent, forward) = both(2.0, np.sqrt(2.0))
    assert np.allclose((gradient, tangent), 3 / (2 * np.sqrt(2)), rtol=1e-15)
    assert np.allclose((info.adjoint, info.value), (gradient, 3 * np.sqrt(2)))  # R_x = -1
    assert info.aux == {}
    assert said(info.check(), "steps", "products", "converged") == (1, 2, True)
    assert np.isclose(forward.value, np.linalg.norm(flat(forward.adjoint)))


def test_distance_to_the_root_is_estimated():
    found = functools.partial(root_vjp, lambda x, y: y**2 - x, 2.0, 1.4, 1.0)
    gradient, info = found(policy="raise")
    # The displacement is a Newton step; the root is 0.0142 away.
    numbers = said(info, "inner_gradient_norm", "inner_value", "displacement")
    assert np.allclose((gradient, *numbers), (1 / 2.8, 0.04, 0.0008, 0.04 / 2.8), rtol=1e-5, atol=0)
    assert said(info, "inner_converged", "solve_converged") == (False, True)
    refuses(r"about 0\.0143 away", info.check, UnreliableGradient)
    assert bool(found(inner_tolerance=0.011)[1].converged)


@pytest.mark.parametrize("estimator", [dense(), gmres(), bicgstab(), lsmr()])
def test_a_cotangent_solves_with_the_transposed_matrix(estimator):
    residual, x, y, c, k = linear()
    cotangent, tangent = np.arange(1.0, 6.0), np.array([1.0, -2.0, 0.5])
    vjp, jvp = (functools.partial(kind, residual, estimator=estimator) for kind in (root_vjp, root_jvp))
    both = jax.jit(lambda x, y: (vjp(x, y, jnp.asarray(cotangent)), jvp(x, y, jnp.asarray(tangent))))
    (gradient, info), (moved, forward) = both(x, y)
    exact, wrong = c.T @ np.linalg.solve(k.T, cotangent), c.T @ np.linalg.solve(k, cotangent)
    assert distance(wrong, exact) > 0.5
    assert distance(gradient, exact) <= 1e-12
    assert distance(moved, np.linalg.solve(k, c @ tangent)) <= 1e-12
    assert float(info.residual) < 1e-12
    assert np.isinf(info.least_curvature)
    assert bool(info.check().converged & forward.check().converged)


def test_fixed_point_equals_the_derivative_of_a_long_iteration():
    step, x, y, iterate = layer()
    cotangent = {"state": jnp.array([1.0, -2.0, 0.5]), "last": jnp.asarray(0.7)}
    tangent = {"input": jnp.array([0.3, -1.0]), "bias": jnp.asarray(2.0)}
    both = jax.jit(lambda x, y: (fixed_point_vjp(step, x, y, cotangent), fixed_point_jvp(step, x, y, tangent)))
    (gradient, info), (moved, forward) = both(x, y)
    unrolled = jax.jit(lambda x: (jax.vjp(iterate, x)[1](cotangent)[0], jax.jvp(iterate, (x,), (tangent,))[1]))(x)
    near((gradient, moved), unrolled, 1e-9)
    assert jax.tree.structure(info.adjoint) == jax.tree.structure(forward.adjoint) == jax.tree.structure(y)
    assert bool(info.converged & forward.converged)
    assert abs(flat(cotangent) @ flat(moved) - flat(gradient) @ flat(tangent)) < 1e-12


@pytest.mark.parametrize(("symmetric", "name"), [(False, "gmres"), (True, "minres")])
def test_many_unknowns_are_solved_by_iteration(symmetric, name):
    """Circulant: (K y)_i = 2 y_i - 0.6 y_{i-1} (- 0.6 y_{i+1} if symmetric)."""
    rng = np.random.default_rng(0)
    x, cotangent = ({"a": rng.normal(size=400), "b": rng.normal(size=200)} for _ in range(2))
    join = lambda tree: jnp.concatenate([tree["a"], tree["b"]])

    def residual(x, y):
        v = join(y)
        image = 2 * v - 0.6 * jnp.roll(v, 1) - (0.6 * jnp.roll(v, -1) if symmetric else 0) - join(x)
        return {"a": image[:400], "b": image[400:]}

    below = np.roll(np.eye(600), 1, axis=0)
    matrix = 2 * np.eye(600) - 0.6 * below - (0.6 * below.T if symmetric else 0)
    y = np.linalg.solve(matrix, flat(x))
    run = jax.jit(lambda x, y: root_vjp(residual, x, y, cotangent, symmetric=symmetric))
    gradient, info = run(x, {"a": y[:400], "b": y[400:]})
    near(flat(gradient), np.linalg.solve(matrix.T, flat(cotangent)), 1e-7, 1e-11)
    assert (info.estimator, bool(info.check().converged)) == (name, True)


def test_promised_symmetry_allows_cg_and_reports_what_cg_cannot_do():
    @jax.jit
    def found(diagonal):
        residual = lambda x, y: diagonal * y - x
        arguments = residual, jnp.ones(3), 1 / diagonal, jnp.ones(3)
        return [root_vjp(*arguments, estimator=each(), symmetric=True) for each in (cg, minres, dense)]

    for diagonal, positive in (([1.0, 2.0, 3.0], True), ([1.0, -2.0, 3.0], False)):
        (_, narrow), *sound = found(jnp.array(diagonal))
        assert bool(narrow.positive) == bool(narrow.converged) == positive
        for gradient, info in sound:
            near(gradient, 1 / np.array(diagonal), 1e-12)
            assert bool(info.converged)
    assert np.isclose(sound[-1][1].least_curvature, -2)


def test_policy_nan_acts_inside_jit():
    @jax.jit
    def found(x, y):
        return [root_vjp(lambda x, y: y**2 - x, x, y, 1.0, policy=policy) for policy in ("nan", "ignore")]

    for x, y, right in ((2.0, np.sqrt(2.0), True), (2.0, 1.2, False), (0.0, 0.0, False)):
        (masked, info), (plain, _) = found(x, y)
        assert bool(info.converged) == right
        assert np.isnan(masked) != right
        assert np.isclose(plain, 1 / (2 * y)) if y else not np.isfinite(plain)


def test_batch_agrees_with_a_loop():
    residual, _, _, c, k = linear()
    x = jnp.asarray(np.random.default_rng(1).normal(size=(4, 3)))
    y = x @ jnp.asarray(np.linalg.solve(k, c)).T
    one = jax.jit(lambda x, y: root_vjp(residual, x, y, jnp.sin(y), estimator=gmres()))
    gradients, infos = jax.jit(jax.vmap(one))(x, y)
    near(gradients, jnp.stack([one(*pair)[0] for pair in zip(x, y, strict=True)]), atol=1e-10)
    assert infos.residual.shape == (4,)


def test_constants_and_types():
    """A counter in x and in y stays out of the system; bfloat16 is solved in float32 and handed back as it came."""
    x = {"scale": jnp.asarray(4.0, jnp.bfloat16), "count": 3}
    y = {"root": jnp.asarray(2.0, jnp.bfloat16), "count": jnp.asarray(7)}
    gradient, info = root_vjp(lambda x, y: {"root": y["root"] ** 2 - x["scale"], "count": y["count"]}, x, y, y)
    assert (gradient["scale"].dtype, float(gradient["scale"]), int(gradient["count"])) == (jnp.bfloat16, 0.5, 0)
    assert info.adjoint["count"] is None
    assert info.adjoint["root"].dtype == jnp.float32


def test_refusals_are_sentences():
    residual, x, y, _, _ = linear()
    vjp = inspect.unwrap(root_vjp)  # not through the checker of annotations
    refuses("has no direct gradient to fall back on", lambda: vjp(residual, x, y, y, policy="fallback"))
    refuses("policy 'panic' is not known", lambda: vjp(residual, x, y, y, policy="panic"))
    by = lambda estimator: lambda: vjp(residual, x, y, y, estimator=estimator)
    refuses("one_step.*solves no linear system on its own", by(one_step(learning_rate=0.1)), TypeError)
    refuses("cg needs a symmetric system", by(cg()))
    refuses(r"cotangent has leaves of shapes \[\(3,\)\]", lambda: vjp(residual, x, y, x))
    refuses(r"residual\(x, y\) has leaves of shapes \[\(4,\)\]", lambda: vjp(lambda x, y: residual(x, y)[1:], x, y, y))
    refuses(r"step\(x, y\) returned the structure", lambda: fixed_point_jvp(lambda x, y: {"y": y}, x, y, x))
    refuses("y has no floating-point leaf", lambda: vjp(residual, x, jnp.arange(5), y), TypeError)
