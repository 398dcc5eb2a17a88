"""The settled image against dense algebra, each example by itself."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jaxfuse.learning.game import Energy
from jaxfuse.learning.settling import conjugate_gradients, settle


@pytest.fixture(autouse=True)
def double():
    with jax.enable_x64(True):
        yield


def _systems(count, size=6):
    """Positive definite matrices of very different conditions, and targets."""
    rng = np.random.default_rng(0)
    roots = rng.normal(size=(count, size, size)) * np.logspace(0, 2, count)[:, None, None]
    return roots @ roots.transpose(0, 2, 1) + np.eye(size), rng.normal(size=(count, size))


def _solved(matrices, targets, steps=60):
    product = lambda x: jnp.einsum("bij,bj->bi", matrices, x)
    return jax.jit(lambda target: conjugate_gradients(product, target, steps))(targets)


def test_every_example_is_solved_as_if_it_were_alone():
    matrices, targets = _systems(3)
    together = _solved(matrices, targets)
    np.testing.assert_allclose(together, np.linalg.solve(matrices, targets[..., None])[..., 0], rtol=1e-4, atol=1e-9)
    for number in range(3):
        alone = _solved(matrices[number, None], targets[number, None])
        np.testing.assert_allclose(together[number, None], alone, rtol=1e-9, atol=1e-12)


def test_a_target_of_zeros_is_solved_by_zeros_and_differentiated():
    matrices, targets = _systems(2)
    targets[1] = 0
    np.testing.assert_array_equal(_solved(matrices, targets)[1], 0)
    assert np.isfinite(jax.grad(lambda target: _solved(matrices, target).sum())(targets)).all()


def _energy(wanted, weight=3.0):
    """A quadratic, whose minimum is a weighted mean."""
    weights = {"fidelity": 1.0, "wanted": weight}

    def convex(residuals):
        return sum(0.5 * weights[name] * (r**2).sum() for name, r in residuals.items())

    return Energy(
        lambda theta, output: {"fidelity": theta - output, "wanted": theta - wanted},
        convex,
        lambda residuals: {name: jnp.full_like(r, weights[name]) for name, r in residuals.items()},
    )


def test_a_quadratic_energy_settles_in_one_round_and_none_leaves_the_output():
    rng = np.random.default_rng(1)
    output, wanted = jnp.asarray(rng.uniform(size=(2, 4, 4, 1))), jnp.asarray(rng.uniform(size=(2, 4, 4, 1)))
    np.testing.assert_allclose(settle(_energy(wanted), output, 1, 5), (output + 3 * wanted) / 4, rtol=1e-6)
    np.testing.assert_array_equal(settle(_energy(wanted), output, 0, 5), output)
