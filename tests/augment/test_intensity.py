"""Changes of intensities: closed forms, and what they leave alone."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from scipy import ndimage

from jaxfuse.augment import intensity
from jaxfuse.augment.settings import BiasField, Blur, Brightness, Contrast, Gamma, LowResolution, Noise, Shift

KEY = jax.random.key(5)
SIDES = (9, 12, 10)
IMAGE = jax.random.normal(KEY, (*SIDES, 2)) * jnp.asarray([1.0, 3.0])
BRAIN = jnp.asarray(np.indices(SIDES)[0] > 3)[..., None]


def inside(image):
    return np.asarray(image)[np.asarray(BRAIN)[..., 0]]


def test_levels_are_those_of_the_brain():
    found = intensity.levels_of(IMAGE, BRAIN)
    shown = inside(IMAGE)
    for level, expected in zip(found, (shown.min(0), shown.max(0), shown.mean(0), shown.std(0)), strict=True):
        np.testing.assert_allclose(level, expected, rtol=1e-5)
    assert all(not np.asarray(one).any() for one in intensity.levels_of(IMAGE, jnp.zeros_like(BRAIN)))


def test_brightness_and_shift_are_one_number_a_modality():
    brighter = intensity.brightness(KEY, IMAGE, BRAIN, Brightness(1.0, (0.5, 2.0)))
    factors = np.asarray(brighter / IMAGE).reshape(-1, 2)
    assert np.ptp(factors, 0).max() < 1e-5
    assert abs(factors[0, 0] - factors[0, 1]) > 0.01
    by = np.asarray(intensity.shift(KEY, IMAGE, BRAIN, Shift(1.0, 0.5)) - IMAGE).reshape(-1, 2)
    assert np.ptp(by, 0).max() < 1e-5 < abs(by[0, 0] - by[0, 1])
    assert np.abs(by).max() <= 0.5


def test_noise_has_one_deviation_up_to_the_limit():
    by = np.asarray(intensity.noise(KEY, IMAGE, BRAIN, Noise(1.0, 0.1)) - IMAGE).reshape(-1, 2)
    assert 0 < by.std() <= 0.11
    assert by[:, 0].std() == pytest.approx(by[:, 1].std(), rel=0.1)
    assert np.corrcoef(by.T)[0, 1] == pytest.approx(0, abs=0.1)


def test_contrast_keeps_mean_and_range():
    changed = intensity.contrast(KEY, IMAGE, BRAIN, Contrast(1.0, (1.1, 1.25)))
    before, after = inside(IMAGE), inside(changed)
    assert np.abs(after.mean(0) - before.mean(0)).max() < 0.05 * before.std(0).max()
    assert (after.std(0) > 1.05 * before.std(0)).all()
    np.testing.assert_allclose((after.min(0), after.max(0)), (before.min(0), before.max(0)), rtol=1e-6)


@pytest.mark.parametrize("change", [intensity.gamma, intensity.inverted_gamma])
def test_gamma_keeps_mean_deviation_and_order(change):
    before, after = inside(IMAGE), inside(change(KEY, IMAGE, BRAIN, Gamma(1.0, (1.4, 1.5))))
    np.testing.assert_allclose(after.mean(0), before.mean(0), atol=1e-4)
    np.testing.assert_allclose(after.std(0), before.std(0), rtol=1e-4)
    for modality in range(2):
        order = np.argsort(before[:, modality])
        assert (np.diff(after[order, modality]) >= 0).all()
    # A power above 1 spreads bright values, and its negative dark ones.
    skewed = ((after - after.mean(0)) ** 3).mean(0) - ((before - before.mean(0)) ** 3).mean(0)
    assert (skewed > 0).all() == (change is intensity.gamma)


def test_a_bias_field_is_smooth_positive_and_small_in_a_small_patch():
    def spread(side_mm: float) -> float:
        field = intensity.bias_field(KEY, IMAGE, BRAIN, BiasField(1.0), spacing_mm=(side_mm,) * 3)
        least = inside(IMAGE).min(0)
        factors = (inside(field) - least)[..., 0] / np.maximum(inside(IMAGE) - least, 1e-3)[..., 0]
        factors = factors[inside(IMAGE)[:, 0] > least[0] + 0.1]
        assert factors.min() > 0
        return float(np.ptp(np.log(factors)))

    assert 0 < spread(1.0) < 0.5 * spread(20.0)


def test_a_blur_is_that_of_scipy():
    matrices = [intensity._blur(jnp.asarray([0.6, 1.0]), side) for side in SIDES]
    found = intensity.filtered(IMAGE, matrices)
    for modality, sigma in enumerate((0.6, 1.0)):
        expected = ndimage.gaussian_filter(np.asarray(IMAGE[..., modality]), sigma, mode="nearest", radius=4)
        np.testing.assert_allclose(found[..., modality], expected, atol=1e-5)


@pytest.mark.parametrize(("side", "share"), [(12, 0.5), (10, 0.7), pytest.param(7, 0.34, marks=pytest.mark.slow)])
def test_a_lower_resolution_takes_nearest_voxels_and_lines_between_them(side, share):
    """PyTorch's `interpolate` does so: `nearest-exact` down, `linear` up."""
    row, count = np.random.default_rng(0).normal(size=side), round(share * side)
    coarse = row[np.floor((np.arange(count) + 0.5) * side / count).astype(int)]
    places = np.clip((np.arange(side) + 0.5) * count / side - 0.5, 0, None)
    expected = np.interp(places, np.arange(count), coarse)
    np.testing.assert_allclose(intensity._coarser(jnp.asarray([share]), side)[0] @ row, expected, atol=1e-5)


@pytest.mark.slow
def test_what_is_not_drawn_stays_bit_by_bit():
    image = np.asarray(IMAGE)
    for name, settings in {
        "noise": Noise(0.0),
        "brightness": Brightness(0.0),
        "shift": Shift(0.0),
        "contrast": Contrast(0.0),
        "gamma": Gamma(0.0),
        "inverted_gamma": Gamma(0.0),
    }.items():
        np.testing.assert_array_equal(getattr(intensity, name)(KEY, IMAGE, BRAIN, settings), image)
    blur = intensity.blur_matrices(KEY, Blur(0.0), SIDES, 2)
    low = intensity.low_resolution_matrices(KEY, LowResolution(1.0, 1.0, (0.5, 0.6)), SIDES, 2, (0, 1))
    np.testing.assert_array_equal(low[2], np.broadcast_to(np.eye(10), (2, 10, 10)))
    assert not np.array_equal(low[0][0], np.eye(9))
    np.testing.assert_array_equal(intensity.filtered(IMAGE, blur), image)
