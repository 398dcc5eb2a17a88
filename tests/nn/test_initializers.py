import jax
import jax.numpy as jnp
import pytest

from jaxfuse.nn.initializers import fan_in_uniform, he_normal, normal, truncated_normal

KEY = jax.random.key(0, impl="rbg")


def test_normal_ignores_the_fan_in():
    for shape in ((3, 3, 3, 16, 64), (1, 1, 1, 64, 256)):
        assert float(normal()(KEY, shape, jnp.float32).std()) == pytest.approx(0.02, rel=0.03)


def test_truncated_normal_is_cut_at_twice_its_deviation():
    kernel = truncated_normal(0.05)(KEY, (3, 3, 16, 256), jnp.float32)
    assert 0.099 < float(jnp.abs(kernel).max()) <= 0.1
    assert float(kernel.std()) == pytest.approx(0.05 * 0.8796, rel=0.03)


def test_fan_in_uniform_is_bounded_by_the_root_of_the_fan_in():
    kernel = fan_in_uniform()(KEY, (3, 3, 16, 256), jnp.float32)
    bound = (9 * 16) ** -0.5
    assert 0.99 * bound < float(jnp.abs(kernel).max()) <= bound
    assert float(kernel.std()) == pytest.approx(bound / 3**0.5, rel=0.03)


@pytest.mark.parametrize("slope", [0.01, 0.2])
def test_he_normal_keeps_the_second_moment_through_leaky_relu(slope):
    kernel = he_normal(slope)(KEY, (3, 3, 3, 16, 64), jnp.float32)
    assert float(kernel.std()) == pytest.approx((2 / (1 + slope**2) / (27 * 16)) ** 0.5, rel=0.03)
    x = jax.random.normal(KEY, (4000, 27 * 16))
    y = jax.nn.leaky_relu(x @ kernel.reshape(-1, 64), slope)
    assert float((y**2).mean()) == pytest.approx(1.0, rel=0.05)
