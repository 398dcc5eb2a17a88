"""Adversarial games: what maker and critic pay, by hand, and the way that each one pulls."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jaxfuse.losses.adversarial import GAN_FORMS, divergence_penalty, gan_form, gradient_penalty
from tests.refusals import refused

LSGAN = gan_form("lsgan")
SCORES = jnp.array([[[0.0], [1.0]], [[2.0], [-1.0]]])


def test_by_hand():
    assert float(LSGAN.real(SCORES).mean()) == pytest.approx((1 + 0 + 1 + 4) / 4)
    assert float(LSGAN.fake(SCORES).mean()) == pytest.approx((0 + 1 + 4 + 1) / 4)
    assert float(LSGAN.maker_loss(SCORES)) == pytest.approx(1.5)
    assert float(LSGAN.critic_loss(SCORES, jnp.array([3.0]))) == pytest.approx(0.5 * (1.5 + 9.0))
    # The critic is content with ones and zeros only.
    ones, zeros = jnp.ones(3), jnp.zeros(3)
    assert (float(LSGAN.critic_loss(ones, zeros)), float(LSGAN.critic_loss(zeros, ones))) == (0, 1)


def test_float32_for_bfloat16_scores():
    scores = jnp.full((4096,), 1.0 + 2**-7, jnp.bfloat16)
    value = LSGAN.critic_loss(jnp.ones(1), scores)
    assert value.dtype == jnp.float32
    assert float(value) == pytest.approx(0.5 * (1 + 2**-7) ** 2, rel=1e-6)


@pytest.mark.parametrize("name", GAN_FORMS)
def test_makers_and_critics_pull_the_way_they_should(name):
    form, scores = gan_form(name), jnp.array([-0.3, 0.4])
    assert form.maker(scores.astype(jnp.bfloat16)).dtype == jnp.float32
    maker, real, fake = (jax.grad(lambda s, f=f: f(s).sum())(scores) for f in (form.maker, form.real, form.fake))
    assert (maker < 0).all()
    assert (real < 0).all()
    assert (fake[1:] > 0).all()


def test_minimax_stalls_where_the_critic_is_sure_and_nonsaturating_does_not():
    stalled, pulled = (float(jax.grad(gan_form(name).maker)(-20.0)) for name in ("minimax", "nonsaturating"))
    assert abs(stalled) < 1e-8
    assert pulled == pytest.approx(-1, abs=1e-6)
    refused("choose one of", gan_form, "hinge")


def test_gradient_penalty_of_a_linear_critic():
    weights = jnp.asarray(np.random.default_rng(0).normal(size=(1, 4, 4, 1)), jnp.float32)
    for scale, expected in ((1, (float(jnp.linalg.norm(weights)) - 1) ** 2), (0, 1)):
        images = jnp.zeros((3, 4, 4, 1)), jnp.ones((3, 4, 4, 1))
        found = gradient_penalty(lambda x, s=scale: s * (x * weights).sum((1, 2, 3)), *images, jax.random.key(0))
        np.testing.assert_allclose(found, expected, rtol=1e-5)
    # The same slope at every point, to the sixth power.
    found = divergence_penalty(lambda x: (x * weights).sum((1, 2, 3)), *images, jax.random.key(0))
    np.testing.assert_allclose(found, float(jnp.linalg.norm(weights)) ** 6, rtol=1e-5)
