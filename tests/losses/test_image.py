import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jaxfuse.losses.image import l1


def test_l1_by_hand():
    assert float(l1(jnp.array([[1.0, -2.0, 3.0, 0.0]]), jnp.array([[0.0, 2.0, 3.0, 1.0]]))) == pytest.approx(6 / 4)


def test_l1_gradient_is_the_sign_over_the_count():
    a, b = jnp.array([2.0, -3.0]), jnp.array([1.0, 1.0])
    np.testing.assert_allclose(jax.grad(l1)(a, b), [0.5, -0.5])


def test_l1_is_float32_for_bfloat16_images():
    a = jnp.full((16, 16, 16), 1.0, jnp.bfloat16)
    value = l1(a, jnp.zeros_like(a))
    assert value.dtype == jnp.float32
    assert float(value) == 1
