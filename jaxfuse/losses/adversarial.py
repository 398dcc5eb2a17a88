"""Least-squares adversarial losses (LSGAN, Mao et al., 2017, with targets 1 for real and 0 for fake).

A maker wants its fakes scored as real, a critic tells both apart. Means run over every score, so a critic that scores
patches weighs them alike. Computed in float32.
"""

from __future__ import annotations

import jax.numpy as jnp

from jaxfuse.arrays import Array, Float


def least_squares_real(scores: Float[Array, "*scores"]) -> Float[Array, ""]:
    """mean (scores - 1)^2: how far scores are from "real"."""
    return jnp.square(scores.astype(jnp.float32) - 1.0).mean()


def least_squares_fake(scores: Float[Array, "*scores"]) -> Float[Array, ""]:
    """mean scores^2: how far scores are from "fake"."""
    return jnp.square(scores.astype(jnp.float32)).mean()


def least_squares_maker(fake_scores: Float[Array, "*scores"]) -> Float[Array, ""]:
    """The maker's loss: its fakes should score 1."""
    return least_squares_real(fake_scores)


def least_squares_critic(real_scores: Float[Array, "*real"], fake_scores: Float[Array, "*fake"]) -> Float[Array, ""]:
    """The critic's loss, half the sum of both: it then moves at half the pace, as in the public CycleGAN code."""
    return 0.5 * (least_squares_real(real_scores) + least_squares_fake(fake_scores))
