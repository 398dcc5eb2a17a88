"""Least squares as a game: what maker and critic pay, by hand."""

import jax
import jax.numpy as jnp
import pytest

from jaxfuse.losses.adversarial import gan_form

LSGAN = gan_form("lsgan")
SCORES = jnp.array([[[0.0], [1.0]], [[2.0], [-1.0]]])


def test_by_hand():
    assert float(LSGAN.real(SCORES).mean()) == pytest.approx((1 + 0 + 1 + 4) / 4)
    assert float(LSGAN.fake(SCORES).mean()) == pytest.approx((0 + 1 + 4 + 1) / 4)
    assert float(LSGAN.maker_loss(SCORES)) == pytest.approx(1.5)
    assert float(LSGAN.critic_loss(SCORES, jnp.array([3.0]))) == pytest.approx(0.5 * (1.5 + 9.0))


def test_critic_is_content_with_ones_and_zeros_only():
    assert float(LSGAN.critic_loss(jnp.ones(3), jnp.zeros(3))) == 0
    assert float(LSGAN.critic_loss(jnp.zeros(3), jnp.ones(3))) == 1


def test_maker_and_critic_pull_the_same_fakes_apart():
    fakes = jnp.array([0.4, 0.6])
    maker = jax.grad(LSGAN.maker_loss)(fakes)
    critic = jax.grad(LSGAN.critic_loss, argnums=1)(jnp.ones(2), fakes)
    assert (maker < 0).all()
    assert (critic > 0).all()


def test_float32_for_bfloat16_scores():
    scores = jnp.full((4096,), 1.0 + 2**-7, jnp.bfloat16)
    value = LSGAN.critic_loss(jnp.ones(1), scores)
    assert value.dtype == jnp.float32
    assert float(value) == pytest.approx(0.5 * (1 + 2**-7) ** 2, rel=1e-6)
