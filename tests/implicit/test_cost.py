"""The cost of a hypergradient: memory as the compiler reports it, and curvature products as the program runs them."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jaxfuse import implicit
from tests.implicit.problems import network, spd


def temporary_bytes(function, *arguments) -> int:
    reported = jax.jit(function).lower(*arguments).compile().memory_analysis()
    assert reported is not None
    return reported.temp_size_in_bytes


def inner(left, right):
    return sum(jnp.sum(a * b) for a, b in zip(jax.tree.leaves(left), jax.tree.leaves(right), strict=True))


def along(left, length, right):
    return jax.tree.map(lambda a, b: a + length * b, left, right)


def by_hand(upper, lower, x, y, steps: int, tolerance: float):
    """The hypergradient by conjugate gradients as one writes them down, without any certificate."""
    direct, target = jax.grad(upper, argnums=(0, 1))(x, y)
    slope = functools.partial(jax.grad(lower, argnums=1), x)
    _, product = jax.linearize(slope, y)

    def unfinished(state):
        step, _, _, _, squared = state
        return (step < steps) & (squared > tolerance**2 * inner(target, target))

    def advance(state):
        step, adjoint, residual, direction, squared = state
        image = product(direction)
        length = squared / inner(direction, image)
        residual = along(residual, -length, image)
        following = inner(residual, residual)
        direction = along(residual, following / squared, direction)
        return step + 1, along(adjoint, length, state[3]), residual, direction, following

    nothing = jax.tree.map(jnp.zeros_like, target)
    first = (jnp.array(0), nothing, target, target, inner(target, target))
    adjoint = jax.lax.while_loop(unfinished, advance, first)[1]
    _, pull = jax.vjp(lambda x: jax.grad(lower, argnums=1)(x, y), x)
    return direct - pull(adjoint)[0]


@pytest.mark.single
def test_memory_is_that_of_a_hand_written_solve_whatever_the_inner_steps():
    upper, lower, x, y, _ = network()

    def after_training(differentiate, steps):
        descend = lambda y, _: (jax.tree.map(lambda leaf, slope: leaf - 0.5 * slope, y, jax.grad(lower, 1)(x, y)), None)
        return lambda x, y: differentiate(x, jax.lax.scan(descend, y, None, length=steps)[0])

    ours = lambda x, y: implicit.hypergradient(upper, lower, x, y)
    hand = lambda x, y: by_hand(upper, lower, x, y, 10_880, 1e-6)
    few, many = (temporary_bytes(after_training(ours, steps), x, y) for steps in (10, 10_000))
    assert 0 < many <= 1.01 * few
    assert many <= 1.25 * temporary_bytes(after_training(hand, 10_000), x, y)


def test_memory_is_a_few_vectors_whatever_the_steps_of_the_solver():
    n = 20_000
    rows = jnp.asarray(np.random.default_rng(0).normal(size=(4, n)) / np.sqrt(n))
    lower = lambda x, y: 0.5 * jnp.sum((rows @ y - 1) ** 2) + 0.5 * jnp.sum(jnp.exp(x) * y**2)
    upper = lambda x, y: 0.5 * jnp.sum((y - 1) ** 2)
    x = y = jnp.zeros(n)
    for estimator in (implicit.cg, implicit.minres):
        few, many = (
            temporary_bytes(
                lambda x, y, s=s, e=estimator: implicit.hypergradient(upper, lower, x, y, estimator=e(steps=s)), x, y
            )
            for s in (5, 5_000)
        )
        assert few == many
        assert 0 < many <= 40 * n * 8  # 40 vectors; the matrix would be 20,000


@pytest.mark.single  # a callback's thread does not know of the float64 of a fixture
def test_certificate_costs_one_product():
    """Runs of the matrix counted on the host: one for each step, one for the certificate, one for the gradient at y."""
    n, steps, calls = 30, 7, []
    matrix = spd(n, 1e3).astype(np.float32)

    def multiply(vector):
        calls.append(None)
        return matrix @ np.asarray(vector)

    # Only a call whose result is used is kept by the compiler, as with any array operation.
    counted = lambda _, vector: jax.pure_callback(multiply, jax.ShapeDtypeStruct((n,), jnp.float32), vector)
    times = lambda vector: jax.custom_derivatives.linear_call(counted, counted, (), vector)

    # One matrix product in the gradient of the form, hence one in a product with its Hessian.
    @jax.custom_jvp
    def form(y):
        return 0.5 * y @ times(y)

    @form.defjvp
    def _(primals, tangents):
        image = times(primals[0])
        return 0.5 * primals[0] @ image, image @ tangents[0]

    rng = np.random.default_rng(0)
    cross, t, x, y = (jnp.asarray(rng.normal(size=size)) for size in ((n, 3), n, 3, n))
    lower = lambda x, y: form(y) - y @ (cross @ x)
    upper = lambda x, y: 0.5 * jnp.sum((y - t) ** 2)

    def count(function):
        calls.clear()
        out = jax.block_until_ready(jax.jit(function)(x, y))
        return len(calls), out

    estimator = implicit.cg(steps=steps, tolerance=0.0)
    by_us, (_, info) = count(lambda x, y: implicit.hypergradient(upper, lower, x, y, estimator=estimator))
    assert count(lambda x, y: by_hand(upper, lower, x, y, steps, 0.0))[0] == steps
    assert steps < by_us <= steps + 2
    assert int(info.products) == steps + 1
