"""Losses of images against numbers worked by hand, and SSIM against scikit-image."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from skimage.metrics import structural_similarity

from jaxfuse.losses.image import (
    gradient_difference,
    gradient_length,
    l1,
    neighbor_difference,
    sobel_magnitude,
    ssim,
    ssim_map,
)
from tests.refusals import refused

PAIR = jnp.asarray(np.random.default_rng(0).uniform(size=(2, 14, 16, 2)), jnp.float32)


def test_l1_by_hand_with_its_gradient_and_float32_for_bfloat16_images():
    assert float(l1(jnp.array([[1.0, -2.0, 3.0, 0.0]]), jnp.array([[0.0, 2.0, 3.0, 1.0]]))) == pytest.approx(6 / 4)
    np.testing.assert_allclose(jax.grad(l1)(jnp.array([2.0, -3.0]), jnp.array([1.0, 1.0])), [0.5, -0.5])
    a = jnp.full((16, 16, 16), 1.0, jnp.bfloat16)
    value = l1(a, jnp.zeros_like(a))
    assert (value.dtype, float(value)) == (jnp.float32, 1)


def test_sobel_of_a_ramp_is_eight_inside_and_half_at_the_border():
    ramp = jnp.tile(jnp.arange(6.0)[None, :, None, None], (1, 1, 5, 1))
    expected = np.repeat([[4], [8], [8], [8], [8], [4]], 5, axis=1)
    np.testing.assert_allclose(sobel_magnitude(ramp)[0, ..., 0], expected)
    np.testing.assert_allclose(gradient_length(ramp)[0, 1:-1, :, 0], 1, rtol=1e-6)
    assert float(jax.grad(lambda image: gradient_length(image).sum())(jnp.ones((1, 3, 3, 1))).max()) == 0
    smooth = sobel_magnitude(ramp, 1e-2)[0, 2, 2, 0]
    assert float(smooth) == pytest.approx(np.hypot(8, 0.01) - 0.01, rel=1e-6)


def test_gradients_differ_by_their_parts_in_the_unit_of_the_images():
    along = jnp.tile(jnp.arange(6.0)[None, :, None, None], (1, 1, 6, 1))
    across = 3 * along.swapaxes(1, 2)
    # Of six steps the outer two count by half: (1 + 3) / 2, times 5 / 6.
    np.testing.assert_allclose(gradient_difference(along, -across), [[5 / 3]], rtol=1e-6)
    np.testing.assert_allclose(gradient_difference(along, along + 7), [[0]], atol=1e-6)


def test_ssim_is_that_of_scikit_image_over_valid_windows():
    a, b = np.asarray(PAIR[0, ..., 0], np.float64), np.asarray(PAIR[0, ..., 1], np.float64)
    options = {"gaussian_weights": True, "sigma": 1.5, "use_sample_covariance": False, "data_range": 1.0, "full": True}
    expected = structural_similarity(a, b, **options)[1][5:-5, 5:-5].mean()
    assert float(ssim(PAIR[:1, ..., :1], PAIR[:1, ..., 1:])[0, 0]) == pytest.approx(expected, abs=1e-5)
    np.testing.assert_allclose(ssim(PAIR, PAIR), 1, atol=1e-5)
    refused("11 x 11", ssim, PAIR[:, :10], PAIR[:, :10])


def test_ssim_of_windows_lies_five_pixels_within_the_border():
    made = ssim_map(PAIR[:1], PAIR[1:])
    assert made.shape == (1, 4, 6, 2)
    np.testing.assert_allclose(made.mean((1, 2)), ssim(PAIR[:1], PAIR[1:]), rtol=1e-6)
    # The window around a changed pixel changes, and no other one that lacks it.
    changed = np.abs(ssim_map(PAIR[:1].at[0, 0, 0, 0].add(0.5), PAIR[1:]) - made) > 0
    assert changed[0, 0, 0].tolist() == [True, False]
    assert changed.sum() == 1


def test_neighbor_difference_by_hand():
    image = jnp.zeros((1, 4, 5, 1)).at[0, 1, 2].set(8.0)
    expected = np.zeros((4, 5))
    expected[0:3, 1:4] = 1
    expected[1, 2] = -8
    np.testing.assert_allclose(neighbor_difference(image)[0, ..., 0], expected, atol=1e-6)
    # A constant image lacks neighbors at the border alone: three of eight at an edge, five at a corner.
    flat = neighbor_difference(jnp.ones((1, 3, 4, 1)))[0, ..., 0]
    np.testing.assert_allclose(flat[1, 1:3], 0, atol=1e-6)
    np.testing.assert_allclose(flat[0], [-0.625, -0.375, -0.375, -0.625], atol=1e-6)
