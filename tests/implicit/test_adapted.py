"""SAMA: the optimizer's derivative in place of an inverse Hessian, and gradients in place of second derivatives."""

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from jaxfuse import implicit
from tests.implicit.problems import near, quadratic, refuses


def test_it_is_the_metric_of_the_optimizer():
    """Adam's state is that of a training: each weight has a scale of its own."""
    case, adam = quadratic(6, 10.0, outer=2), optax.adam(0.1)
    slope = jax.grad(case.lower, 1)

    @jax.jit
    def found(x, y):
        state = adam.init(y)
        for _ in range(3):
            updates, state = adam.update(slope(x, y), state, y)
            y = optax.apply_updates(y, updates)
        metric = jax.jacobian(lambda gradient: adam.update(gradient, state, y)[0])(slope(x, y))
        adjoint = -metric.T @ jax.grad(case.upper, 1)(x, y)
        cross = jax.grad(lambda x: slope(x, y) @ adjoint)(x)
        ours = [
            implicit.hypergradient(
                case.upper, case.lower, x, y, estimator=implicit.sama(adam, state, one_sided=one_sided)
            )
            for one_sided in (False, True)
        ]
        return [gradient for gradient, _ in ours], jax.grad(case.upper)(x, y) - cross, ours[0][1], adjoint

    with jax.numpy_dtype_promotion("standard"):  # for optax
        gradients, exact, info, adjoint = found(case.x, case.y + jnp.asarray(np.linspace(-1, 1, 6)))
    near(gradients, [exact, exact], 1e-7)
    near(info.adjoint, adjoint, 1e-10)
    assert (int(info.products), info.estimator) == (1, "sama")


@pytest.mark.slow
def test_with_gradient_descent_it_is_the_finite_difference():
    """And one-sided differences are off by the order of the step, where `lower` is curved more than a quadratic."""
    lower, upper = lambda x, y: jnp.sum(x * jnp.exp(y)) + jnp.sum(y**2), lambda x, y: jnp.sum(y**3)
    x, y = jnp.array([1.0, 2.0]), jnp.array([-0.3, -0.5])

    def gradient(estimator):
        return implicit.hypergradient(upper, lower, x, y, estimator=estimator)[0]

    central = gradient(implicit.sama(optax.sgd(0.2), step=1e-3))
    near(central, gradient(implicit.finite_difference(scale=0.2, step=1e-3)), 1e-12)
    exact = gradient(implicit.identity(scale=0.2))
    near(central, exact, 1e-6)
    apart = [
        float(jnp.linalg.norm(gradient(implicit.sama(optax.sgd(0.2), step=step, one_sided=True)) - exact))
        for step in (1e-2, 1e-3)
    ]
    assert 8 < apart[0] / apart[1] < 12


def test_refused():
    refuses("step is 0", lambda: implicit.sama(optax.sgd(0.1), step=0))
    case = quadratic(3, 2.0, outer=1)
    damped = {"estimator": implicit.sama(optax.sgd(0.1)), "curvature": implicit.hessian(damping=1.0)}
    refuses(
        "sama solves no linear system", lambda: implicit.hypergradient(case.upper, case.lower, case.x, case.y, **damped)
    )
