"""Adversarial losses. A maker wants its fakes scored as real, a critic tells both apart. Computed in float32."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import NamedTuple

import jax
import jax.numpy as jnp

from jaxfuse.arrays import Array, Float, Key
from jaxfuse.errors import UserError


class GanForm(NamedTuple):
    """A form of the adversarial game, its parts mapping scores to losses element by element, in float32.

    Attributes:
        maker: for the scores of fakes, what their maker wants small.
        real, fake: for the scores of either kind, what the critic wants small.
        penalized: whether the critic also pays `gradient_penalty`.
    """

    maker: Callable[[Array], Array]
    real: Callable[[Array], Array]
    fake: Callable[[Array], Array]
    penalized: bool = False

    def maker_loss(self, fake_scores: Float[Array, "*scores"]) -> Float[Array, ""]:
        """The maker's loss, a mean over all scores: a critic that scores patches weighs them alike."""
        return self.maker(fake_scores).mean()

    def critic_loss(self, real_scores: Float[Array, "*real"], fake_scores: Float[Array, "*fake"]) -> Float[Array, ""]:
        """The critic's loss, half the sum of both means: it moves at half the pace, as in the public CycleGAN code."""
        return 0.5 * (self.real(real_scores).mean() + self.fake(fake_scores).mean())


def _log_real(scores: Array) -> Array:
    return jax.nn.log_sigmoid(scores.astype(jnp.float32))


def _log_fake(scores: Array) -> Array:
    return jax.nn.log_sigmoid(-scores.astype(jnp.float32))


def _wide(scores: Array) -> Array:
    return scores.astype(jnp.float32)


# Goodfellow et al. 2014, both forms, on logits; Mao et al. 2017 (targets 1 for real, 0 for fake) and Gulrajani et al.
# 2017, on scores.
GAN_FORMS: Mapping[str, GanForm] = {
    "minimax": GanForm(_log_fake, lambda s: -_log_real(s), lambda s: -_log_fake(s)),
    "nonsaturating": GanForm(lambda s: -_log_real(s), lambda s: -_log_real(s), lambda s: -_log_fake(s)),
    "lsgan": GanForm(
        lambda s: jnp.square(_wide(s) - 1), lambda s: jnp.square(_wide(s) - 1), lambda s: jnp.square(_wide(s))
    ),
    "wgan-gp": GanForm(lambda s: -_wide(s), lambda s: -_wide(s), _wide, penalized=True),
}


def gan_form(name: str) -> GanForm:
    """Returns the form of this name; `minimax` is the literal one, whose maker stalls where the critic is sure.

    Raises:
        UserError: the name is not one of GAN_FORMS.
    """
    if name not in GAN_FORMS:
        raise UserError(f"gan is {name!r}; choose one of {', '.join(GAN_FORMS)}")
    return GAN_FORMS[name]


def gradient_penalty(
    critic: Callable[[Array], Array],
    real: Float[Array, b * image],
    fake: Float[Array, b * image],
    key: Key[Array, ""],
) -> Float[Array, " b"]:
    """(|d critic / d image| - 1)^2 at a random point between each real and its fake (Gulrajani et al. 2017, Eq. 3).

    `critic` gives scores whose first axis is the batch; a sample's score is their mean.
    """
    # The root's derivative at zero is infinite; a critic that is flat everywhere must not give NaN.
    return jnp.square(jnp.sqrt(_squared_slopes(critic, real, fake, key) + 1e-12) - 1)


def divergence_penalty(
    critic: Callable[[Array], Array],
    real: Float[Array, b * image],
    fake: Float[Array, b * image],
    key: Key[Array, ""],
    power: int = 6,
) -> Float[Array, " b"]:
    """|d critic / d image|^power at such points (Wu et al. 2018, Wasserstein divergence); `power` is even."""
    return _squared_slopes(critic, real, fake, key) ** (power // 2)


def _squared_slopes(
    critic: Callable[[Array], Array], real: Array, fake: Array, key: Key[Array, ""]
) -> Float[Array, " b"]:
    """The squared length of the slope of each sample's score at a random point between real and fake."""
    mix = jax.random.uniform(key, (real.shape[0],) + (1,) * (real.ndim - 1), real.dtype)
    between = mix * real + (1 - mix) * fake

    def total(image: Array) -> Array:
        scores = critic(image).astype(jnp.float32)
        return scores.reshape(scores.shape[0], -1).mean(1).sum()

    slope = jax.grad(total)(between).astype(jnp.float32).reshape(real.shape[0], -1)
    return jnp.square(slope).sum(1)
