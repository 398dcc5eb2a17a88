"""Differentiated inner iterations against hand-written loops, explicit matrices, and each other."""

from functools import partial

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from jax.flatten_util import ravel_pytree

from jaxfuse.implicit.curvature import hessian
from jaxfuse.implicit.hypergradient import hypergradient
from jaxfuse.implicit.info import UnreliableGradient
from jaxfuse.implicit.unrolled import one_step, phantom, truncated, unroll
from tests.implicit.problems import Case, differentiate, error, near, quadratic, refuses, said

RATE = 0.9


def curved():
    """Penalized logistic regression with pytrees on both levels, at a point that is not its optimum."""
    rng = np.random.default_rng(0)
    inputs, labels = rng.normal(size=(2, 9, 4)), rng.integers(0, 2, (2, 9)).astype(float)

    def loss(y, part):
        logits = inputs[part] @ y["weight"] + y["bias"]
        return jnp.mean(jax.nn.softplus(logits) - labels[part] * logits)

    def lower(x, y):
        return loss(y, 0) + 0.5 * (jnp.exp(x["weight"]) @ y["weight"] ** 2 + jnp.exp(x["bias"]) * y["bias"] ** 2)

    upper = lambda x, y: loss(y, 1) + jnp.sum(x["weight"] ** 2)
    x, y = ({"weight": jnp.asarray(0.5 * rng.normal(size=4)), "bias": jnp.asarray(-0.4)} for _ in range(2))
    return Case(upper, lower, x, y, np.array([]), lambda x: None)


def descend(lower, x, y, rate, steps):
    for _ in range(steps):
        slope = jax.grad(lower, 1)(x, y)
        y = jax.tree.map(lambda leaf, part: leaf - rate * part, y, slope)
    return y


def matrices(case):
    """A, B and c of the quadratic case, read off the gradient of its lower function, A y - B x - c."""
    cross, a = jax.jit(jax.jacfwd(jax.grad(case.lower, 1), (0, 1)))(case.x, case.y)
    c = -jax.jit(jax.grad(case.lower, 1))(jnp.zeros_like(case.x), jnp.zeros_like(case.y))
    return np.asarray(a), -np.asarray(cross), np.asarray(c)


def test_the_longer_the_run_the_nearer_the_closed_form():
    case = quadratic(12, 10.0)
    errors, moves = [], []
    for steps in (5, 20, 80, 320):
        found, info = differentiate(case, estimator=unroll(steps, learning_rate=RATE, start=jnp.zeros(12)))
        errors.append(error(found, case.exact))
        moves.append(float(info.displacement))
    assert errors == sorted(errors, reverse=True)
    assert moves == sorted(moves, reverse=True)
    assert errors[0] > 0.1 > 1e-11 > errors[-1]
    assert (bool(info.converged), info.complaints()) == (True, {})
    near(info.value, case.upper(case.x, case.y), 1e-12)


@pytest.mark.parametrize("steps", [1, 7])
def test_equals_the_gradient_through_a_loop_written_by_hand(steps):
    case = curved()
    start = jax.tree.map(jnp.ones_like, case.y)

    @jax.jit
    def by_hand(x):
        before = descend(case.lower, x, start, 0.5, steps - 1)
        last = descend(case.lower, x, before, 0.5, 1)
        moved = jnp.linalg.norm(ravel_pytree(last)[0] - ravel_pytree(before)[0])
        slope = jnp.linalg.norm(ravel_pytree(jax.grad(case.lower, 1)(x, last))[0])
        run = lambda x: case.upper(x, descend(case.lower, x, start, 0.5, steps))
        return *jax.value_and_grad(run)(x), moved, slope

    value, expected, moved, slope = by_hand(case.x)
    for begin, y in (({"start": start}, case.y), ({}, start)):
        found, info = differentiate(case, case.x, y, estimator=unroll(steps, learning_rate=0.5, **begin))
        assert error(found, expected) < 1e-13
        near(info.value, value, 1e-14)
    near((info.displacement, info.inner_gradient_norm), (moved, slope), 1e-12)
    assert said(info, "steps", "products", "damping") == (steps, 0, 0)
    assert info.adjoint is None
    assert all(info.scalars()[name] == -1 for name in ("residual", "system_residual", "adjoint_error"))


@pytest.mark.parametrize("steps", [1, 7, 16, 30])
def test_checkpoints_change_memory_and_not_the_gradient(steps):
    case = quadratic(8, 10.0, outer=3)
    lower = lambda x, y: case.lower(x, y) + jnp.sum(jnp.cosh(y))
    momentum = optax.sgd(0.01, momentum=0.9)
    kinds = [unroll(steps, optimizer=momentum, checkpoint=checkpoint) for checkpoint in (False, True)]
    both = lambda x: [hypergradient(case.upper, lower, x, jnp.zeros(8), estimator=kind) for kind in kinds]
    (plain, first), (kept, second) = jax.jit(both)(case.x)
    assert error(kept, plain) < 1e-13
    near(second.displacement, first.displacement, 1e-13)
    assert int(second.steps) == steps


@pytest.mark.single
def test_memory_grows_with_the_steps_and_with_their_root_under_checkpoints():
    upper, lower = lambda x, y: jnp.sum(y**2), lambda x, y: jnp.sum(jnp.cosh(y) - jnp.exp(x) * y)

    def bytes_of(steps, checkpoint):
        estimator = unroll(steps, learning_rate=0.1, checkpoint=checkpoint)
        run = jax.jit(lambda x, y: hypergradient(upper, lower, x, y, estimator=estimator)[0])
        return run.lower(*jnp.zeros((2, 20_000))).compile().memory_analysis().temp_size_in_bytes

    plain, plain_long, kept, kept_long = (bytes_of(steps, kind) for kind in (False, True) for steps in (64, 1024))
    assert 12 < plain_long / plain < 17  # sixteen times the steps
    assert 2.5 < kept_long / kept < 4.5  # four times the root
    assert kept_long < plain_long / 8


def test_one_step_of_gradient_descent_is_the_direct_gradient_minus_a_scaled_cross_product():
    case = curved()

    @jax.jit
    def formula(x, y):
        direct, slope = jax.grad(case.upper, (0, 1))(x, descend(case.lower, x, y, 0.5, 1))
        _, pull = jax.vjp(lambda x: jax.grad(case.lower, 1)(x, y), x)
        return jax.tree.map(lambda a, b: a - 0.5 * b, direct, pull(slope)[0])

    found, info = differentiate(case, estimator=one_step(learning_rate=0.5))
    assert error(found, formula(case.x, case.y)) < 1e-13
    assert (info.estimator, *said(info, "steps", "inner_converged")) == ("one_step", 1, False)
    case = quadratic(6, 4.0)
    found, info = differentiate(case, estimator=one_step(learning_rate=0.5))
    direct, slope = jax.jit(jax.grad(case.upper, (0, 1)))(case.x, case.y)  # the step does not move an optimum
    assert error(found, direct + 0.5 * matrices(case)[1].T @ slope) < 1e-12
    assert bool(info.inner_converged)


@pytest.mark.parametrize("terms", [1, 4])
def test_truncated_is_the_neumann_series_cut_after_as_many_terms(terms):
    case = quadratic(10, 20.0)
    a, b, c = matrices(case)
    x, y = np.asarray(case.x), np.asarray(case.y) + 0.1
    series = sum(np.linalg.matrix_power(np.eye(10) - RATE * a, power) for power in range(terms)) * RATE
    last = y - series @ (a @ y - b @ x - c)
    direct, slope = jax.jit(jax.grad(case.upper, (0, 1)))(x, last)
    found, info = differentiate(case, x, y, estimator=truncated(terms, learning_rate=RATE), policy="raise")
    assert error(found, direct + b.T @ series @ slope) < 1e-12
    assert not bool(info.inner_converged)
    refuses("does not solve the inner problem", info.check, UnreliableGradient)


def test_phantom_relaxes_the_steps():
    case = quadratic(10, 20.0)
    # (1 - tau) y + tau (y - a g) = y - (tau a) g
    plain, shorter = (differentiate(case, estimator=truncated(4, learning_rate=rate))[0] for rate in (RATE, RATE / 2))
    (full, _), (half, info) = (differentiate(case, estimator=phantom(4, t, learning_rate=RATE)) for t in (1.0, 0.5))
    np.testing.assert_array_equal(full, plain)
    assert error(half, shorter) < 1e-13
    assert error(half, plain) > 1e-2
    assert (info.estimator, bool(info.converged)) == ("phantom", True)


def test_step_and_stochastic_gradient_descent_equal_a_learning_rate():
    case = curved()
    y = {"bias": case.y["bias"] + 0.2, "weight": case.y["weight"], "count": jnp.array(3)}

    def step(x, y):
        return descend(case.lower, x, {"bias": y["bias"], "weight": y["weight"]}, 0.5, 1) | {"count": y["count"] + 1}

    expected, _ = differentiate(case, case.x, y | {"count": jnp.array(1)}, estimator=truncated(3, learning_rate=0.5))
    for how in ({"step": step}, {"optimizer": optax.sgd(0.5)}):
        found, _ = differentiate(case, case.x, y, estimator=truncated(3, **how))
        assert error(found, expected) < 1e-13


def test_adam_and_labels_by_name_are_differentiated_with_their_state():
    case = curved()
    tx = optax.multi_transform(
        {"fast": optax.adam(0.05), "slow": optax.sgd(0.1, momentum=0.9)}, {"weight": "fast", "bias": "slow"}
    )

    def by_hand(x):
        y, state = case.y, tx.init(case.y)
        for _ in range(5):
            updates, state = tx.update(jax.grad(case.lower, 1)(x, y), state, y)
            y = optax.apply_updates(y, updates)
        return case.upper(x, y)

    with jax.numpy_dtype_promotion("standard"):  # optax raises a number to the power of a counter
        found, _ = differentiate(case, estimator=unroll(5, optimizer=tx))
        expected = jax.jit(jax.grad(by_hand))(case.x)
    assert error(found, expected) < 1e-13


def test_a_start_that_is_a_function_of_x_is_differentiated():
    case = quadratic(5, 4.0, outer=5)
    a, b, c = matrices(case)
    x = np.asarray(case.x)
    found, _ = differentiate(case, x, case.y, estimator=unroll(1, learning_rate=0.3, start=lambda x: 2 * x))
    last = 2 * x - 0.3 * (a @ (2 * x) - b @ x - c)
    expected = 0.1 * x + (2 * (np.eye(5) - 0.3 * a) + 0.3 * b).T @ jax.grad(case.upper, 1)(x, last)
    assert error(found, expected) < 1e-13


def test_batches_and_second_derivatives():
    case = curved()
    start = jax.tree.map(jnp.zeros_like, case.y)
    estimator = unroll(6, learning_rate=0.5, start=start, checkpoint=True)
    gradient = lambda x: hypergradient(case.upper, case.lower, x, case.y, estimator=estimator)[0]
    by_hand = lambda x: jax.grad(lambda x: case.upper(x, descend(case.lower, x, start, 0.5, 6)))(x)
    direction = jax.tree.map(jnp.ones_like, case.x)
    points = jax.tree.map(lambda leaf: jnp.stack([leaf, leaf - 0.5, leaf + 0.5]), case.x)

    @jax.jit
    def everything(points):
        forward = jax.jvp(gradient, (case.x,), (direction,))[1]
        reverse = jax.vjp(gradient, case.x)[1](direction)[0]
        return jax.vmap(gradient)(points), jax.lax.map(gradient, points), forward, reverse

    batched, looped, forward, reverse = everything(points)
    assert error(batched, looped) < 1e-13
    expected = jax.jit(lambda x: jax.jvp(by_hand, (x,), (direction,))[1])(case.x)
    assert error(forward, expected) < 1e-12
    assert error(reverse, expected) < 1e-12  # a second derivative is symmetric


def test_refuses_what_makes_no_iteration():
    refuses("truncated got none; exactly one of", lambda: truncated(3))
    both = lambda: one_step(learning_rate=0.1, step=lambda x, y: y)
    refuses("got step and learning_rate; exactly one", both)
    refuses("steps=0; at least 1", lambda: unroll(0, learning_rate=0.1))
    refuses("learning_rate=-0.1; a positive one", lambda: unroll(3, learning_rate=-0.1))
    refuses("relaxation=1.5; more than 0 and at most 1", lambda: phantom(3, 1.5, learning_rate=0.1))


def test_takes_no_option_that_it_would_ignore():
    ignored = {truncated: ("start", "relaxation"), phantom: ("start",), one_step: ("steps", "checkpoint")}
    for kind, arguments in {truncated: (2,), phantom: (2, 0.5), one_step: ()}.items():
        make = partial(kind, *arguments, learning_rate=0.1)
        make()
        for name in ignored[kind]:
            refuses(name, partial(make, **{name: 1}), TypeError)


@pytest.mark.parametrize(
    ("estimator", "curvature", "sentence"),
    [
        (truncated(2, learning_rate=0.1), hessian(damping=0.1), "truncated solves no linear system"),
        (unroll(2, learning_rate=0.1, start=jnp.zeros(3)), hessian(), r"start has leaves of shapes \[\(3,\)\]"),
        (unroll(2, step=lambda x, y: y[:2]), hessian(), r"step\(x, y\) has leaves of shapes \[\(2,\)\]"),
    ],
)
def test_refuses_what_does_not_go_together(estimator, curvature, sentence):
    case = quadratic(4, 4.0, dtype=np.float32)
    refuses(sentence, lambda: differentiate(case, estimator=estimator, curvature=curvature))
