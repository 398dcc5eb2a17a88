"""Under vmap, scan and both modes of differentiation: the same numbers, in one program that never leaves the device."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jaxfuse import implicit
from tests.implicit.problems import every_solver, formula, near, quadratic


def lower(x, y):
    """Strongly convex, not quadratic, and not linear in x."""
    of_w = jnp.sum(jnp.exp(x["a"]) * y["w"] ** 2) + 0.1 * jnp.sum(y["w"] ** 4) + jnp.sum(y["w"]) ** 2 * 0.2
    return of_w - jnp.sum(x["a"] * y["w"]) * (1 + x["b"]) + (y["v"] - x["b"] * jnp.sum(y["w"])) ** 2


def upper(x, y):
    return jnp.sum((y["w"] - 1) ** 2) + y["v"] ** 3 + jnp.sum(x["a"] ** 2) * x["b"]


def point(seed=0, batch=()):
    rng = np.random.default_rng(seed)
    x = {"a": jnp.asarray(rng.normal(size=(*batch, 4)) * 0.5), "b": jnp.asarray(rng.normal(size=batch) * 0.5)}
    y = {"w": jnp.asarray(rng.normal(size=(*batch, 4)) * 0.5), "v": jnp.asarray(rng.normal(size=batch))}
    return x, y


@every_solver
def test_vmap_equals_a_loop(estimator):
    x, y = point(batch=(4,))
    one = lambda x, y: implicit.hypergradient(upper, lower, x, y, estimator=estimator)
    gradients, info = jax.jit(jax.vmap(one))(x, y)
    loop = jax.jit(one)
    for number in range(4):
        at = functools.partial(jax.tree.map, lambda leaf, n=number: leaf[n])
        gradient, alone = loop(at(x), at(y))
        near(at(gradients), gradient, 1e-10, 1e-10)
        assert int(info.steps[number]) == int(alone.steps)
        near(info.residual[number], alone.residual, 1e-7, 1e-10)
        assert float(alone.residual) < 1e-10


@every_solver
def test_vmap_with_policy_nan_spoils_only_the_bad_element(estimator):
    case = quadratic(8, 10.0)
    batch = jnp.stack([case.y, case.y + 100, case.y])  # the second is far from its inner optimum
    options = {"estimator": estimator, "policy": "nan"}
    run = jax.vmap(lambda y: implicit.hypergradient(case.upper, case.lower, case.x, y, **options))
    gradients, info = jax.jit(run)(batch)
    assert np.isnan(gradients[1]).all()
    near(gradients[::2], np.stack([case.exact, case.exact]), 1e-9)
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
    by_formula = both_modes(functools.partial(formula, upper, lower), tangents, cotangent)
    near(both_modes(ours, tangents, cotangent), by_formula, 1e-9, 1e-9)


def test_second_derivative_through_the_inner_optimum():
    """With y a function of x, the derivative of the hypergradient is the outer Hessian, A known in closed form."""
    case = quadratic(12, 10.0, outer=3)
    outer = lambda x: case.upper(x, case.solve(x))
    gradient = lambda x: implicit.hypergradient(case.upper, case.lower, x, case.solve(x))[0]
    run = jax.jit(lambda x: [kind(x) for kind in (jax.hessian(outer), jax.jacfwd(gradient), jax.jacrev(gradient))])
    exact, *found = run(case.x)
    near(found, [exact, exact], 1e-10, 1e-10)


def outer_step(case, carry, _):
    """Some inner descent, the hypergradient from the last adjoint on, one outer step."""
    x, y, adjoint = carry
    slope = jax.grad(case.lower, argnums=1)
    y = jax.lax.fori_loop(0, 40, lambda _, y: y - slope(x, y), y)
    estimator = implicit.cg(start=adjoint, tolerance=1e-8)
    gradient, info = implicit.hypergradient(case.upper, case.lower, x, y, estimator=estimator, policy="fallback")
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
    near(last, carry, 1e-10, 1e-10)
    assert scalars["steps"].shape == (100,)
    assert bool(scalars["converged"].all())
    # It went down, and the warm start paid: the adjoint moves less and less.
    assert all(scalars[name][-1] < scalars[name][0] for name in ("value", "steps"))


def test_the_transfer_guard_would_have_seen_a_transfer():
    with jax.transfer_guard("disallow"), pytest.raises(Exception, match="[Dd]isallowed host-to-device"):
        jax.jit(lambda x: x + 1)(np.ones(3))
