"""Under vmap, scan and both modes of differentiation: the same numbers, in one program that never leaves the device."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jaxfuse import implicit
from tests.implicit.problems import every_solver, formula, quadratic


def lower(x, y):
    """Strongly convex, not quadratic, and not linear in x."""
    return (
        jnp.sum(jnp.exp(x["a"]) * y["w"] ** 2)
        + 0.1 * jnp.sum(y["w"] ** 4)
        - jnp.sum(x["a"] * y["w"]) * (1 + x["b"])
        + jnp.sum(y["w"]) ** 2 * 0.2
        + (y["v"] - x["b"] * jnp.sum(y["w"])) ** 2
    )


def upper(x, y):
    return jnp.sum((y["w"] - 1) ** 2) + y["v"] ** 3 + jnp.sum(x["a"] ** 2) * x["b"]


def point(seed=0, batch=()):
    rng = np.random.default_rng(seed)
    x = {"a": jnp.asarray(rng.normal(size=(*batch, 4)) * 0.5), "b": jnp.asarray(rng.normal(size=batch) * 0.5)}
    y = {"w": jnp.asarray(rng.normal(size=(*batch, 4)) * 0.5), "v": jnp.asarray(rng.normal(size=batch))}
    return x, y


def assert_close(left, right, bound):
    for a, b in zip(jax.tree.leaves(left), jax.tree.leaves(right), strict=True):
        np.testing.assert_allclose(a, b, rtol=bound, atol=bound)


def elements(tree, count):
    return [jax.tree.map(lambda leaf, i=i: leaf[i], tree) for i in range(count)]


@every_solver
def test_vmap_equals_a_loop(estimator):
    x, y = point(batch=(4,))
    one = lambda x, y: implicit.hypergradient(upper, lower, x, y, estimator=estimator)
    gradients, info = jax.jit(jax.vmap(one))(x, y)
    loop = jax.jit(one)
    for number, (at_x, at_y) in enumerate(zip(elements(x, 4), elements(y, 4), strict=True)):
        gradient, alone = loop(at_x, at_y)
        assert_close(jax.tree.map(lambda leaf, n=number: leaf[n], gradients), gradient, 1e-10)
        assert int(info.steps[number]) == int(alone.steps)
        np.testing.assert_allclose(info.residual[number], alone.residual, atol=1e-10)
        assert float(alone.residual) < 1e-10


@every_solver
def test_vmap_with_policy_nan_spoils_only_the_bad_element(estimator):
    case = quadratic(8, 10.0)
    batch = jnp.stack([case.y, case.y + 100, case.y])  # the second is far from its inner optimum
    run = jax.vmap(
        lambda y: implicit.hypergradient(case.upper, case.lower, case.x, y, estimator=estimator, policy="nan")
    )
    gradients, info = jax.jit(run)(batch)
    np.testing.assert_array_equal(np.isnan(gradients).all(axis=1), [False, True, False])
    np.testing.assert_array_equal(np.isnan(gradients).any(axis=1), [False, True, False])
    np.testing.assert_allclose(gradients[::2], [case.exact, case.exact], rtol=1e-9)
    np.testing.assert_array_equal(info.converged, [True, False, True])


@every_solver
def test_both_modes_of_differentiation(estimator):
    x, y = point()
    ours = lambda x, y: implicit.hypergradient(upper, lower, x, y, estimator=estimator)[0]

    @functools.partial(jax.jit, static_argnums=0)
    def both_modes(function, tangents, cotangent):
        value, pushed = jax.jvp(function, (x, y), tangents)
        return value, pushed, jax.vjp(function, x, y)[1](cotangent)

    tangents, (cotangent, _) = point(1), point(2)
    assert_close(
        both_modes(ours, tangents, cotangent),
        both_modes(functools.partial(formula, upper, lower), tangents, cotangent),
        1e-9,
    )


def test_second_derivative_through_the_inner_optimum():
    """With y a function of x, the derivative of the hypergradient is the outer Hessian, A known in closed form."""
    case = quadratic(12, 10.0, outer=3)
    outer = lambda x: case.upper(x, case.solve(x))
    gradient = lambda x: implicit.hypergradient(case.upper, case.lower, x, case.solve(x))[0]
    exact, forward, reverse = jax.jit(
        lambda x: (jax.hessian(outer)(x), jax.jacfwd(gradient)(x), jax.jacrev(gradient)(x))
    )(case.x)
    assert_close((forward, reverse), (exact, exact), 1e-10)


def outer_step(case, carry, _):
    """Some inner descent, the hypergradient from the last adjoint on, one outer step."""
    x, y, adjoint = carry
    slope = jax.grad(case.lower, argnums=1)
    y = jax.lax.fori_loop(0, 40, lambda _, y: y - slope(x, y), y)
    gradient, info = implicit.hypergradient(
        case.upper, case.lower, x, y, estimator=implicit.cg(start=adjoint, tolerance=1e-8), policy="fallback"
    )
    return (x - 4e-3 * gradient, y, info.adjoint), info.scalars()


def test_a_hundred_outer_steps_are_one_program():
    case = quadratic(40, 2.0)
    step = functools.partial(outer_step, case)
    run = jax.jit(lambda carry: jax.lax.scan(step, carry, None, length=100))
    single = jax.jit(lambda carry: step(carry, None))
    first = (case.x, case.y, jnp.zeros_like(case.y))
    program = run.lower(first).compile()
    text = program.as_text() or ""
    assert "while" in text
    for word in ("callback", "infeed", "outfeed", "send(", "recv("):
        assert word not in text, f"the program leaves the device: {word}"
    carry, _ = single(first)
    with jax.transfer_guard("disallow"):
        last, scalars = program(first)
        for _ in range(99):
            carry, _ = single(carry)
    assert single._cache_size() == 1  # pyright: ignore[reportAttributeAccessIssue]
    assert_close(last, carry, 1e-10)
    assert scalars["steps"].shape == (100,)
    assert bool(scalars["converged"].all())
    # It went down, and the warm start paid: the adjoint moves less and less.
    assert scalars["value"][-1] < scalars["value"][0]
    assert scalars["steps"][-1] < scalars["steps"][0]


def test_the_transfer_guard_would_have_seen_a_transfer():
    with jax.transfer_guard("disallow"), pytest.raises(Exception, match="[Dd]isallowed host-to-device"):
        jax.jit(lambda x: x + 1)(np.ones(3))
