"""Products of each curvature against its explicit matrix, damping against closed forms, and a network's curvature."""

import functools
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax.flatten_util import ravel_pytree
from jax.sharding import AxisType

from jaxfuse import implicit
from jaxfuse.implicit.problem import pose
from tests.implicit.problems import check_damping, every_solver, gradient_of, linear, near, network, refuses, said, spd

SAMPLES = 6


def upper(x, y):
    return sum(jnp.sum((leaf - 1) ** 2) for leaf in jax.tree.leaves(y))


def tanh_model(classes: int) -> tuple[Any, Any]:
    """(y -> outputs (samples, classes), y): a net of a few weights, far from linear."""
    rng = np.random.default_rng(0)
    inputs = jnp.asarray(rng.normal(size=(SAMPLES, 2)))
    y = {"hidden": jnp.asarray(rng.normal(size=(2, 3))), "out": jnp.asarray(rng.normal(size=(3, classes)))}
    return lambda y: jnp.tanh(inputs @ y["hidden"]) @ y["out"], y


def cross_entropy(logits):
    return -jnp.mean(jax.nn.log_softmax(logits)[:, 1])


def explicit(curvature, lower, y, step: int = 0):
    """The matrix of a curvature's products at x = 0.3, column by column."""

    @jax.jit
    def columns(y, step):
        product = curvature(pose(upper, lower, jnp.array(0.3), y))
        flat, restore = ravel_pytree(jax.tree.leaves(y))
        return jax.lax.map(lambda unit: ravel_pytree(product(restore(unit), step))[0], jnp.eye(len(flat))).T

    return np.asarray(columns(y, jnp.array(step)))


def explicit_hessian(lower, y):
    flat, restore = ravel_pytree(y)
    return np.asarray(jax.jit(jax.hessian(lambda v: lower(jnp.array(0.3), restore(v))))(flat))


def explicit_jacobian(function, y):
    flat, restore = ravel_pytree(y)
    return np.asarray(jax.jit(jax.jacobian(lambda v: jnp.ravel(function(restore(v)))))(flat))


def test_hessian_and_gauss_newton_are_their_matrices():
    model, y = tanh_model(3)
    residual = lambda x, y: (model(y), jax.tree.map(lambda leaf: jnp.exp(0.5 * x) * leaf, y))

    def convex(outputs):
        return cross_entropy(outputs[0]) + 0.5 * sum(jnp.sum(leaf**2) for leaf in jax.tree.leaves(outputs[1]))

    lower = lambda x, y: convex(residual(x, y))
    near(explicit(implicit.hessian(), lower, y), explicit_hessian(lower, y), atol=1e-13)
    jacobian, logits = explicit_jacobian(model, y), model(y)
    inner = np.asarray(jax.hessian(lambda v: cross_entropy(v.reshape(logits.shape)))(jnp.ravel(logits)))
    found = explicit(implicit.gauss_newton(residual, convex), lower, y)
    near(found, jacobian.T @ inner @ jacobian + np.exp(0.3) * np.eye(len(found)), atol=1e-13)
    # Where the Hessian is not positive, Gauss-Newton is.
    plain = implicit.gauss_newton(lambda x, y: model(y), cross_entropy)
    assert np.linalg.eigvalsh(explicit_hessian(lambda x, y: cross_entropy(model(y)), y))[0] < -1e-3
    assert np.linalg.eigvalsh(explicit(plain, lower, y))[0] > -1e-14


def test_gauss_newton_is_the_hessian_of_a_linear_model():
    inputs = jnp.asarray(np.random.default_rng(0).normal(size=(SAMPLES, 4)))
    y = jnp.arange(4.0)
    lower = lambda x, y: jnp.mean(jax.nn.softplus(x * (inputs @ y)))
    newton = implicit.gauss_newton(lambda x, y: x * (inputs @ y), lambda u: jnp.mean(jax.nn.softplus(u)))
    near(explicit(newton, lower, y), explicit_hessian(lower, y), atol=1e-14)


# For each family: log likelihood of a label under the outputs of one sample, its labels, their probabilities, and the
# canonical loss.
FAMILIES = {
    "categorical": (lambda out, label: jax.nn.log_softmax(out)[label], range(3), jax.nn.softmax, cross_entropy),
    "bernoulli": (
        lambda out, label: -jax.nn.softplus(-out[0] if label else out[0]),
        (0, 1),
        lambda out: jax.nn.sigmoid(jnp.stack([-out[0], out[0]])),
        lambda logits: jnp.mean(jax.nn.softplus(logits) - logits),
    ),
    # One above and one below the mean: two labels of variance 1 stand for the normal distribution.
    "gaussian": (
        lambda out, label: -0.5 * (out[0] - jax.lax.stop_gradient(out[0]) - label) ** 2,
        (-1, 1),
        lambda out: jnp.array([0.5, 0.5]),
        lambda means: 0.5 * jnp.mean((means - 2) ** 2),
    ),
}


@pytest.mark.parametrize("family", FAMILIES)
def test_fisher_is_the_expected_square_of_the_score(family):
    likelihood, labels, probabilities, loss = FAMILIES[family]
    model, y = tanh_model(3 if family == "categorical" else 1)
    chances = np.asarray(jax.vmap(probabilities)(model(y)))
    expected = 0.0
    for place, label in enumerate(labels):
        scores = explicit_jacobian(lambda y, label=label: jax.vmap(lambda out: likelihood(out, label))(model(y)), y)
        expected = expected + (scores.T * chances[:, place]) @ scores / SAMPLES
    outputs = model if family == "categorical" else lambda y: model(y)[:, 0]
    lower, residual = lambda x, y: loss(outputs(y)), lambda x, y: outputs(y)
    found = explicit(implicit.fisher(residual, family, scale=1 / SAMPLES), lower, y)
    near(found, expected, atol=1e-14)
    near(found, explicit(implicit.gauss_newton(residual, loss), lower, y), atol=1e-14)


@every_solver
def test_fixed_damping_solves_the_damped_system_and_says_so(estimator):
    check_damping(estimator)


def test_damping_given_as_a_number_is_that_of_an_array():
    *problem, cross, target = linear(spd(20, 1e2))
    gradient, info = gradient_of(*problem, curvature=implicit.hessian(damping=0.3))
    near(gradient, cross.T @ np.linalg.solve(spd(20, 1e2) + 0.3 * np.eye(20), target), 1e-12)
    assert float(info.damping) == 0.3


def test_damping_by_the_trace_is_a_share_of_the_mean_eigenvalue_at_any_scale():
    diagonal, key = np.array([0.5, 1.0, 2.0, 4.5]), jax.random.key(3)
    for scale in (1.0, 1e-4):
        matrix = scale * np.diag(diagonal)
        *problem, cross, target = linear(matrix)
        damping = implicit.TraceShare(0.1, key, beside=0.02 * scale)
        gradient, info = gradient_of(*problem, curvature=implicit.hessian(damping=damping))
        near(info.damping, scale * (0.1 * 2.0 + 0.02), 1e-12)  # random signs are exact for a diagonal
        near(gradient, cross.T @ (target / (scale * (diagonal + 0.22))), 1e-12)
    plain = gradient_of(*problem, curvature=implicit.hessian(damping=float(info.damping)))[1]
    assert int(info.products) == int(plain.products) + 1
    # Of any matrix it is right in the mean over many probes.
    *problem, _, _ = linear(spd(20, 1e2))
    many = gradient_of(*problem, curvature=implicit.hessian(implicit.TraceShare(1.0, key, probes=400)))[1]
    np.testing.assert_allclose(many.damping, np.trace(spd(20, 1e2)) / 20, rtol=0.05)
    refuses("probes is 0; at least 1", lambda: implicit.TraceShare(0.1, key, probes=0))
    refuses("damping is -1.0", lambda: implicit.TraceShare(-1.0, key))


@pytest.mark.parametrize("kind", [AxisType.Explicit, AxisType.Manual])
def test_damping_by_the_trace_of_a_split_variable(kind):
    """One part knows that it is split, whatever the number of devices."""
    mesh, part = jax.make_mesh((1,), ("d",), axis_types=(AxisType.Explicit,)), jax.P("d")
    total = (lambda leaf: jax.lax.psum(jnp.sum(leaf), "d")) if kind == AxisType.Manual else jnp.sum
    damping = implicit.TraceShare(0.5, jax.random.key(0), probes=2)

    def found(diagonal, y):
        lower, judge = lambda x, y: total(diagonal * y**2) / 2 - 0 * x, lambda x, y: total(y)
        options = {"estimator": implicit.cg(), "curvature": implicit.hessian(damping)}
        return implicit.hypergradient(judge, lower, jnp.array(1.0), y, **options)[1].damping

    run = jax.shard_map(found, mesh=mesh, in_specs=part, out_specs=jax.P()) if kind == AxisType.Manual else found
    with jax.set_mesh(mesh):
        numbers = [jax.device_put(jnp.array([1.0, 2.0, 3.0, 6.0]), jax.NamedSharding(mesh, part))] * 2
        near(jax.jit(run)(*numbers), 1.5, 1e-14)


@pytest.mark.parametrize(("estimator", "tries"), [(implicit.cg(), 2), (implicit.cg(), 6), (implicit.dense(), 6)])
def test_levenberg_grows_until_the_curvature_is_positive(estimator, tries):
    matrix = np.diag([-0.5, 1.0, 2.0, 3.0])
    *problem, cross, target = linear(matrix)
    run = lambda damping: gradient_of(*problem, estimator=estimator, curvature=implicit.hessian(damping=damping))
    gradient, info = run(implicit.Levenberg(start=0.01, factor=10, tries=tries))
    fixed = jax.jit(run)
    alone = [fixed(damping)[1] for damping in (0.01, 0.1, 1.0)]
    assert [bool(one.positive) for one in alone] == [False, False, True]
    spent = alone[:tries]
    assert int(info.steps) == sum(int(one.steps) for one in spent)
    # Each try ends with a product of its own, besides that of the certificate.
    assert int(info.products) == sum(int(one.products) for one in spent) + 1
    if tries == 2:
        near(info.damping, 0.1, 1e-14)
        assert said(info, "positive", "converged") == (False, False)
        return
    exact = target / (np.diag(matrix) + 1)
    near(info.damping, 1, 1e-14)
    near((gradient, info.residual), (cross.T @ exact, np.linalg.norm(exact) / np.linalg.norm(target)), 1e-9)
    assert bool(info.converged)


def test_minibatch_products_take_one_batch_after_the_other():
    rng = np.random.default_rng(0)
    inputs, y = jnp.asarray(rng.normal(size=(3, SAMPLES, 4))), jnp.arange(4.0)

    def lower_of_batch(x, y, batch):
        return jnp.mean(jnp.logaddexp(0, batch["inputs"] @ y)) + 0.5 * jnp.exp(x) * jnp.sum(y**2)

    lower = lambda x, y: jnp.mean(jax.vmap(lambda rows: lower_of_batch(x, y, {"inputs": rows}))(inputs))
    curvature = implicit.minibatch_hessian(lower_of_batch, {"inputs": inputs})
    found = [explicit(curvature, lower, y, step) for step in range(4)]
    for number in range(3):
        exact = explicit_hessian(lambda x, y, number=number: lower_of_batch(x, y, {"inputs": inputs[number]}), y)
        near(found[number], exact, atol=1e-14)
    np.testing.assert_array_equal(found[3], found[0])
    near(sum(found[:3]) / 3, explicit_hessian(lower, y), atol=1e-14)
    call = functools.partial(implicit.hypergradient, upper, lower, jnp.array(0.3), y, curvature=curvature)
    for estimator in (implicit.cg(), implicit.minres(), implicit.dense()):
        sentence = f"{type(estimator).__name__} needs the same matrix in every product"
        refuses(sentence, functools.partial(call, estimator=estimator))


def test_refuses_bad_settings():
    uneven = implicit.minibatch_hessian(lambda x, y, batch: y, (jnp.ones(2), jnp.ones(3)))
    uneven_matrix = lambda: explicit(uneven, lambda x, y: jnp.sum(y**2), jnp.ones(2))
    refuses("batches have leading axes of lengths \\[2, 3\\]", uneven_matrix)
    refuses("start must be positive, factor above 1, tries at least 1", lambda: implicit.Levenberg(factor=1.0))
    sentence = "damping is -1.0; it is added to the curvature and must not be negative"
    for kind in (implicit.hessian, functools.partial(implicit.gauss_newton, jnp.sum, jnp.sum)):
        refuses(sentence, functools.partial(kind, damping=-1.0))


@functools.cache
def trainable():
    """The network, its training by gradient steps (their number is an argument), and three ways to differentiate it."""
    upper, lower, x, start, (residual, convex) = network()
    descend = lambda step, y: jax.tree.map(lambda leaf, slope: leaf - 0.5 * slope, y, jax.grad(lower, 1)(x, y))
    train = jax.jit(lambda steps: jax.lax.fori_loop(0, steps, descend, start))
    solver = implicit.cg(steps=50, tolerance=5e-6)
    by = lambda **options: jax.jit(lambda y: implicit.hypergradient(upper, lower, x, y, **options)[1])
    newton = by(curvature=implicit.gauss_newton(residual, convex, damping=0.1), estimator=solver)
    levenberg = by(curvature=implicit.hessian(damping=implicit.Levenberg()), estimator=solver)
    return train, by(estimator=implicit.cg()), newton, levenberg


@pytest.mark.single
@pytest.mark.parametrize("steps", [10, 1000, pytest.param(10_000, marks=pytest.mark.slow)])
def test_network(steps):
    """Raw CG on a network's Hessian is caught; damped Gauss-Newton and Levenberg solve what they set out to."""
    train, raw, newton, levenberg = trainable()
    y = train(steps)
    plain, damped, grown = raw(y), newton(y), levenberg(y)
    assert said(plain, "positive", "converged") == (False, False)
    assert float(plain.least_curvature) < 0
    for info in (damped, grown):
        assert said(info, "positive", "solve_converged") == (True, True)
        assert float(info.system_residual) <= 1e-5
    assert int(damped.steps) <= 50
    assert float(damped.residual) > 1e-2  # of the Hessian itself, which is another matrix
    assert float(grown.damping) <= 1.001
