"""Losses of fusion against numbers worked by hand, and sources that are absent."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jaxfuse.data.color import seen_in_gray
from jaxfuse.losses import fusion
from jaxfuse.losses.image import ssim

RNG = np.random.default_rng(0)
PAIR = jnp.asarray(RNG.uniform(size=(2, 14, 16, 2)), jnp.float32)
BOTH = jnp.ones((2, 2))


def test_an_absent_slot_counts_for_nothing():
    presence = jnp.array([[1.0, 1.0, 0.0]] * 2)
    bands = jnp.asarray(RNG.normal(size=(2, 6, 6, 3, 3)), jnp.float32)
    made = PAIR[..., ::-1]

    def all_losses(last: float) -> list[float]:
        padded = jnp.concatenate([PAIR, jnp.full((2, 14, 16, 1), last)], -1)
        again = jnp.concatenate([made, jnp.full((2, 14, 16, 1), -last)], -1)
        filled = bands.at[..., 2].set(last)
        return [
            float(fusion.reconstruction(padded, again, presence)),
            float(fusion.band_correlation(filled, filled + bands, presence)),
            float(fusion.fusion_content(PAIR[..., :1], padded, presence)[0]),
            float(fusion.smooth_fusion_energy(PAIR[..., :1], PAIR[..., 1:], padded, presence, gamma=0.1)[0]),
        ]

    np.testing.assert_allclose(all_losses(0.5), all_losses(77.0), rtol=1e-5)
    assert float(fusion.reconstruction(PAIR, made, BOTH)) == pytest.approx(all_losses(0.5)[0], rel=1e-5)


def test_reconstruction_by_hand():
    made = PAIR + 0.1
    expected = 0.1**2 + 1 - float(ssim(PAIR, made).mean())
    assert float(fusion.reconstruction(PAIR, made, BOTH)) == pytest.approx(expected, rel=1e-5)
    assert float(fusion.reconstruction(PAIR, PAIR, BOTH)) == pytest.approx(0, abs=1e-5)


def test_band_correlation_by_hand():
    low, high = (jnp.asarray(RNG.normal(size=(1, 5, 5, 2, 2)), jnp.float32) for _ in range(2))
    one = jnp.ones((1, 2))

    def cc(bands: jax.Array) -> float:
        flat = np.asarray(bands[0]).reshape(25, 2, 2)
        return float(np.mean([np.corrcoef(flat[:, c, 0], flat[:, c, 1])[0, 1] for c in range(2)]))

    assert float(fusion.band_correlation(low, high, one)) == pytest.approx(cc(high) ** 2 / (cc(low) + 1.01), rel=1e-4)
    # The worst case that the paper's constant allows: agreeing high bands and opposite low bands.
    same, opposite = (jnp.stack([low[..., 0], sign * low[..., 0]], -1) for sign in (1, -1))
    assert float(fusion.band_correlation(opposite, same, one)) == pytest.approx(100, rel=1e-2)
    assert float(fusion.band_correlation(low, high, jnp.array([[1.0, 0.0]]))) == 0
    of_constant = jax.grad(lambda bands: fusion.band_correlation(bands, bands, one))(jnp.ones_like(low))
    assert bool(jnp.all(jnp.isfinite(of_constant)))


def test_fusion_content_is_zero_at_the_maximum_of_sources_that_agree_on_edges():
    one = PAIR[..., :1]
    sources = jnp.concatenate([one, 0 * one], -1)
    loss, terms = fusion.fusion_content(one, sources, BOTH)
    assert (float(loss), set(terms)) == (0, {"intensity", "gradient"})
    loss, _ = fusion.fusion_content(one + 0.2, sources, BOTH, intensity=3.0)
    assert float(loss) == pytest.approx(0.6, rel=1e-4)


def test_the_pixel_energy_is_smooth_and_its_residuals_make_it():
    energy, residuals = fusion.smooth_fusion_energy(PAIR[..., :1], PAIR[..., 1:], PAIR, BOTH, gamma=0.3, kappa=0.5)
    again = fusion.fusion_energy_of(residuals, gamma=0.3, kappa=0.5, width=1e-2)
    assert float(energy) == pytest.approx(float(again))

    def of(fused: jax.Array, gamma: float) -> jax.Array:
        return fusion.smooth_fusion_energy(fused, PAIR[..., 1:], PAIR, BOTH, gamma=gamma)[0]

    theta = PAIR[..., :1]
    _, curved = jax.jvp(jax.grad(lambda f: of(f, 0.3)), (theta,), (jnp.ones_like(theta),))
    assert float(jnp.abs(curved - 1).max()) > 1e-3  # an L1 norm would leave the identity of the fidelity term
    # gamma = 0: the optimum is the network's output itself.
    np.testing.assert_allclose(jax.grad(lambda f: of(f, 0.0))(PAIR[..., 1:]), 0, atol=1e-7)


@pytest.mark.parametrize("channels", [2, 3])
def test_a_fused_image_in_color_is_compared_by_its_luminance_and_hues_are_free(channels):
    image = jnp.asarray(RNG.uniform(size=(2, 14, 16, channels)), jnp.float32)
    gray = fusion.in_gray(image)
    np.testing.assert_allclose(gray[..., 0], seen_in_gray(np.asarray(image)), atol=1e-6)
    assert fusion.in_gray(gray) is gray
    of = fusion.fusion_content(image, PAIR, BOTH)[0]
    assert float(of) == pytest.approx(float(fusion.fusion_content(gray, PAIR, BOTH)[0]), rel=1e-5)
    gradient = jax.grad(lambda image: fusion.fusion_content(image, PAIR, BOTH)[0])(image)
    along = gradient / jnp.array(fusion.SEEN_IN_GRAY[channels])
    assert float(jnp.abs(along).max()) > 1e-4
    np.testing.assert_allclose(along, jnp.broadcast_to(along[..., :1], along.shape), atol=1e-6)
