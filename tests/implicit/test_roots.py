"""Derivatives of roots and fixed points: the transposed system, and what is said about it."""

import inspect

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jaxfuse.implicit import UnreliableGradient, cg, dense, minres
from jaxfuse.implicit.linear_solvers import bicgstab, gmres, lsmr
from jaxfuse.implicit.roots import fixed_point_jvp, fixed_point_vjp, root_jvp, root_vjp
from jaxfuse.implicit.unrolled import one_step
from tests.implicit.problems import refuses


def linear(seed: int = 0, unknowns: int = 5, outer: int = 3):
    """R = C x - K y with K far from symmetric: (residual, x, y, C, K)."""
    rng = np.random.default_rng(seed)
    k, c = rng.normal(size=(unknowns, unknowns)) + 3 * np.eye(unknowns), rng.normal(size=(unknowns, outer))
    x = rng.normal(size=outer)
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

    @jax.jit
    def iterate(x):
        return jax.lax.scan(lambda y, _: (step(x, y), None), start, length=80)[0]

    return step, x, iterate(x), iterate


def total(left, right):
    """The inner product of two pytrees."""
    return sum(jnp.sum(a * b) for a, b in zip(jax.tree.leaves(left), jax.tree.leaves(right), strict=True))


def test_square_root_by_hand():
    square = lambda x, y: y**2 - x
    (gradient, info), (tangent, forward) = jax.jit(
        lambda x, y: (root_vjp(square, x, y, 3.0), root_jvp(square, x, y, 3.0))
    )(2.0, np.sqrt(2.0))
    assert np.isclose(gradient, 3 / (2 * np.sqrt(2)), rtol=1e-15)
    assert np.isclose(info.adjoint, gradient)  # R_x = -1
    assert np.isclose(info.value, 3 * np.sqrt(2))
    assert info.aux == {}
    assert (int(info.steps), int(info.products)) == (1, 2)
    assert bool(info.check().converged)
    assert np.isclose(tangent, 3 / (2 * np.sqrt(2)), rtol=1e-15)
    assert np.isnan(forward.value)


def test_distance_to_the_root_is_estimated():
    gradient, info = root_vjp(lambda x, y: y**2 - x, 2.0, 1.4, 1.0, policy="raise")
    assert np.isclose(info.inner_gradient_norm, 0.04)
    assert np.isclose(info.inner_value, 0.0008)
    assert np.isclose(info.displacement, 0.04 / 2.8)  # a Newton step; the root is 0.0142 away
    assert not bool(info.inner_converged)
    assert bool(info.solve_converged)
    refuses(r"about 0\.0143 away", lambda: info.check(), UnreliableGradient)
    assert np.isclose(gradient, 1 / 2.8)
    near = root_vjp(lambda x, y: y**2 - x, 2.0, 1.4, 1.0, inner_tolerance=0.01)[1]
    assert bool(near.converged)


@pytest.mark.parametrize("estimator", [dense(), gmres(), bicgstab(), lsmr()])
def test_a_cotangent_solves_with_the_transposed_matrix(estimator):
    residual, x, y, c, k = linear()
    cotangent, tangent = np.arange(1.0, 6.0), np.array([1.0, -2.0, 0.5])
    (gradient, info), (moved, forward) = jax.jit(
        lambda x, y: (
            root_vjp(residual, x, y, jnp.asarray(cotangent), estimator=estimator),
            root_jvp(residual, x, y, jnp.asarray(tangent), estimator=estimator),
        )
    )(x, y)
    exact, wrong = c.T @ np.linalg.solve(k.T, cotangent), c.T @ np.linalg.solve(k, cotangent)
    assert np.linalg.norm(wrong - exact) > 0.5 * np.linalg.norm(exact)
    assert np.linalg.norm(gradient - exact) <= 1e-12 * np.linalg.norm(exact)
    assert bool(info.check().converged)
    assert float(info.residual) < 1e-12
    assert np.isnan(info.least_curvature)
    exact = np.linalg.solve(k, c @ tangent)
    assert np.linalg.norm(moved - exact) <= 1e-12 * np.linalg.norm(exact)
    assert bool(forward.check().converged)


def test_fixed_point_equals_the_derivative_of_a_long_iteration():
    step, x, y, iterate = layer()
    cotangent = {"state": jnp.array([1.0, -2.0, 0.5]), "last": jnp.asarray(0.7)}
    tangent = {"input": jnp.array([0.3, -1.0]), "bias": jnp.asarray(2.0)}
    (gradient, info), (moved, forward) = jax.jit(
        lambda x, y: (fixed_point_vjp(step, x, y, cotangent), fixed_point_jvp(step, x, y, tangent))
    )(x, y)
    unrolled = jax.jit(lambda x: (jax.vjp(iterate, x)[1](cotangent)[0], jax.jvp(iterate, (x,), (tangent,))[1]))(x)
    jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, rtol=1e-9), (gradient, moved), unrolled)
    assert jax.tree.structure(info.adjoint) == jax.tree.structure(forward.adjoint) == jax.tree.structure(y)
    assert bool(info.converged & forward.converged)
    assert abs(total(cotangent, moved) - total(gradient, tangent)) < 1e-12


@pytest.mark.parametrize(("symmetric", "name"), [(False, "gmres"), (True, "minres")])
def test_many_unknowns_are_solved_by_iteration(symmetric, name):
    """Circulant: (K y)_i = 2 y_i - 0.6 y_{i-1} (- 0.6 y_{i+1} if symmetric)."""
    rng = np.random.default_rng(0)
    x, cotangent = ({"a": rng.normal(size=400), "b": rng.normal(size=200)} for _ in range(2))
    flat = lambda tree: jnp.concatenate([tree["a"], tree["b"]])

    def residual(x, y):
        v = flat(y)
        image = 2 * v - 0.6 * jnp.roll(v, 1) - (0.6 * jnp.roll(v, -1) if symmetric else 0) - flat(x)
        return {"a": image[:400], "b": image[400:]}

    below = np.roll(np.eye(600), 1, axis=0)
    matrix = 2 * np.eye(600) - 0.6 * below - (0.6 * below.T if symmetric else 0)
    y = np.linalg.solve(matrix, flat(x))
    gradient, info = jax.jit(lambda x, y: root_vjp(residual, x, y, cotangent, symmetric=symmetric))(
        x, {"a": y[:400], "b": y[400:]}
    )
    np.testing.assert_allclose(flat(gradient), np.linalg.solve(matrix.T, flat(cotangent)), atol=1e-11)
    assert info.estimator == name
    assert bool(info.check().converged)


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
            np.testing.assert_allclose(gradient, 1 / np.array(diagonal), rtol=1e-12)
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
    loop = jnp.stack([one(*pair)[0] for pair in zip(x, y, strict=True)])
    assert float(jnp.max(jnp.abs(gradients - loop))) < 1e-10
    assert infos.residual.shape == (4,)


def test_constants_and_types():
    """A counter in x and in y stays out of the system; bfloat16 is solved in float32 and handed back as it came."""
    x = {"scale": jnp.asarray(4.0, jnp.bfloat16), "count": 3}
    y = {"root": jnp.asarray(2.0, jnp.bfloat16), "count": jnp.asarray(7)}
    gradient, info = root_vjp(lambda x, y: {"root": y["root"] ** 2 - x["scale"], "count": y["count"]}, x, y, y)
    assert gradient["scale"].dtype == jnp.bfloat16
    assert float(gradient["scale"]) == 0.5
    assert int(gradient["count"]) == 0
    assert info.adjoint["count"] is None
    assert info.adjoint["root"].dtype == jnp.float32


def test_refusals_are_sentences():
    residual, x, y, _, _ = linear()
    vjp = inspect.unwrap(root_vjp)  # not through the checker of annotations
    refuses("has no direct gradient to fall back on", lambda: vjp(residual, x, y, y, policy="fallback"))
    refuses("policy 'panic' is not known", lambda: vjp(residual, x, y, y, policy="panic"))
    with pytest.raises(TypeError, match="one_step.*solves no linear system on its own"):
        vjp(residual, x, y, y, estimator=one_step(learning_rate=0.1))
    refuses("cg needs a symmetric system", lambda: vjp(residual, x, y, y, estimator=cg()))
    refuses(r"cotangent has leaves of shapes \[\(3,\)\]", lambda: vjp(residual, x, y, x))
    refuses(r"residual\(x, y\) has leaves of shapes \[\(4,\)\]", lambda: vjp(lambda x, y: residual(x, y)[1:], x, y, y))
    refuses(r"step\(x, y\) returned the structure", lambda: fixed_point_jvp(lambda x, y: {"y": y}, x, y, x))
    refuses("y has no floating-point leaf", lambda: vjp(residual, x, jnp.arange(5), y), TypeError)
