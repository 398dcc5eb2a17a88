"""Adversarial games: what maker and critic pay, by hand, and the way that each one pulls."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jaxfuse.errors import UserError
from jaxfuse.losses.adversarial import GAN_FORMS, gan_form, gradient_penalty

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


@pytest.mark.parametrize("name", GAN_FORMS)
def test_makers_and_critics_pull_the_way_they_should(name):
    form = gan_form(name)
    scores = jnp.array([-0.3, 0.4], jnp.bfloat16)
    assert form.maker(scores).dtype == jnp.float32
    slope = lambda loss: jax.grad(lambda s: loss(s).sum())(jnp.array([-0.3, 0.4]))  # noqa: E731
    assert bool((slope(form.maker) < 0).all())
    assert bool((slope(form.real) < 0).all())
    assert bool((slope(form.fake)[1:] > 0).all())


def test_minimax_stalls_where_the_critic_is_sure_and_nonsaturating_does_not():
    sure = jnp.array(-20.0)
    assert abs(float(jax.grad(gan_form("minimax").maker)(sure))) < 1e-8
    assert float(jax.grad(gan_form("nonsaturating").maker)(sure)) == pytest.approx(-1, abs=1e-6)
    with pytest.raises(UserError, match="choose one of"):
        gan_form("hinge")


def test_gradient_penalty_of_a_linear_critic():
    weights = jnp.asarray(np.random.default_rng(0).normal(size=(4, 4, 1)), jnp.float32)
    critic = lambda image: (image * weights[None]).sum((1, 2, 3))  # noqa: E731
    found = gradient_penalty(critic, jnp.zeros((3, 4, 4, 1)), jnp.ones((3, 4, 4, 1)), jax.random.key(0))
    np.testing.assert_allclose(found, (float(jnp.linalg.norm(weights)) - 1) ** 2, rtol=1e-5)
    flat = gradient_penalty(lambda image: 0 * image, jnp.zeros((1, 4)), jnp.ones((1, 4)), jax.random.key(0))
    np.testing.assert_allclose(flat, 1, atol=1e-5)
