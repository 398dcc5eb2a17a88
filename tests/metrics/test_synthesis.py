"""Metrics of synthesized images: hand-worked windows, scikit-image, blank images, the public code's own recipe."""

import math
from functools import reduce

import numpy as np
import pytest
from skimage.metrics import normalized_root_mse, peak_signal_noise_ratio, structural_similarity

from jaxfuse.metrics import synthesis
from jaxfuse.metrics.names import names_of
from jaxfuse.metrics.synthesis import apply_linear, fit_linear, nmse, official_scores, psnr_db, ssim, ssim_of_slices
from tests.refusals import refused

RNG = np.random.default_rng(0)
REAL, MADE = RNG.uniform(0, 1, (13, 12, 11)), RNG.uniform(0, 0.9, (13, 12, 11))
GAUSS = {"gaussian_weights": True, "sigma": 1.5, "use_sample_covariance": False}
score_synthesized = synthesis.score_synthesized


def one_window(y, x, weights, *, data_range: float, bias: float = 1.0) -> float:
    """SSIM of images that are one window large (Wang et al. 2004), with variances multiplied by `bias`."""
    c1, c2 = (0.01 * data_range) ** 2, (0.03 * data_range) ** 2
    mean_y, mean_x = (weights * y).sum(), (weights * x).sum()
    deviations = (y - mean_y), (x - mean_x)
    var_y, var_x, shared = (bias * (weights * deviations[i] * deviations[j]).sum() for i, j in ((0, 0), (1, 1), (0, 1)))
    luminance = (2 * mean_y * mean_x + c1) / (mean_y**2 + mean_x**2 + c1)
    return luminance * (2 * shared + c2) / (var_y + var_x + c2)


def test_psnr_and_nmse_by_hand():
    real, made = np.array([[0.0, 0.5], [1.0, 0.5]]), np.array([[0.0, 0.5], [0.5, 1.0]])
    # Mean squared error 0.5 / 4 = 1 / 8 in the range 1; the squares of the real image sum to 1.5.
    assert psnr_db(real, made) == pytest.approx(10 * math.log10(8))
    assert nmse(real, made) == pytest.approx(1 / 3)
    # The larger range of both counts, whichever image has it.
    assert psnr_db(2 * real, made) == pytest.approx(10 * math.log10(4 / np.mean((2 * real - made) ** 2)))
    assert psnr_db(made / 2, real) == psnr_db(real, made / 2)
    assert psnr_db(real, made, data_range=2) == pytest.approx(psnr_db(real, made) + 20 * math.log10(2))


def test_they_equal_scikit_image_in_two_and_three_dimensions():
    for y, x in ((REAL, MADE), (REAL[..., 0], MADE[..., 0])):
        top = max(y.max(), x.max())
        expected = [peak_signal_noise_ratio(y, x, data_range=top), normalized_root_mse(y, x) ** 2]
        expected += [structural_similarity(y, x, data_range=top, **GAUSS)]
        assert [psnr_db(y, x), nmse(y, x), ssim(y, x)] == pytest.approx(expected, rel=1e-12)
        assert ssim(y, x) == ssim(y, x, data_range=top)


@pytest.mark.parametrize("scale", [0.1, 1.0, 30.0])
def test_nmse_times_the_mean_square_of_the_truth_is_the_squared_error(scale):
    y, x = scale * REAL, scale * MADE
    error = np.mean((y - x) ** 2)
    assert nmse(y, x) * np.mean(y**2) == pytest.approx(error, rel=1e-12)
    assert max(y.max(), x.max()) ** 2 / 10 ** (psnr_db(y, x) / 10) == pytest.approx(error, rel=1e-12)


@pytest.mark.parametrize("ndim", [2, 3])
def test_ssim_of_a_single_window_by_hand(ndim):
    taps = np.exp(-(np.arange(-5, 6) ** 2) / (2 * 1.5**2))
    weights = reduce(np.multiply.outer, [taps / taps.sum()] * ndim)
    y, x = (RNG.uniform(0, 1, (11,) * ndim) for _ in range(2))
    assert ssim(y, x, data_range=0.8) == pytest.approx(one_window(y, x, weights, data_range=0.8), rel=1e-10)
    assert ssim(y, y) == pytest.approx(1)


def test_ssim_of_a_volume_is_the_mean_over_slices_that_are_not_blank():
    real, made = REAL.copy(), MADE.copy()
    real[..., 2:5] = 0
    kept = [ssim(real[..., k], made[..., k], data_range=1) for k in range(11) if k not in (2, 3, 4)]
    assert ssim_of_slices(real, made) == pytest.approx(np.mean(kept))
    turned = np.moveaxis(real, 2, 0), np.moveaxis(made, 2, 0)
    assert ssim_of_slices(*turned, axis=0) == ssim_of_slices(real, made)
    alone = {"psnr_db": psnr_db, "nmse": nmse, "ssim": ssim_of_slices}
    assert score_synthesized(real, made) == {name: metric(real, made) for name, metric in alone.items()}
    assert score_synthesized(REAL[..., 0], MADE[..., 0])["ssim"] == ssim(REAL[..., 0], MADE[..., 0], data_range=1)


def test_blank_images_have_the_values_that_are_documented():
    blank, some = np.zeros((12, 12, 12)), np.zeros((12, 12, 12))
    some[3, 4, 5] = 0.5
    assert psnr_db(REAL, REAL) == psnr_db(blank, blank) == math.inf
    assert math.isnan(nmse(blank, blank))
    assert (nmse(blank, some), nmse(some, blank), nmse(some, some)) == (math.inf, 1, 0)
    assert psnr_db(some, blank) == psnr_db(blank, some) == pytest.approx(10 * math.log10(12**3))
    assert ssim(blank, blank) == 1
    assert math.isnan(ssim_of_slices(blank, some))
    assert math.isnan(score_synthesized(REAL[:10], MADE[:10])["ssim"])  # smaller than its windows
    for truth, made in ((blank, blank), (blank[..., 0], some[..., 5])):
        scores = score_synthesized(truth, made)
        assert math.isnan(scores["ssim"])
        assert scores["psnr_db"] == (math.inf if truth is blank else pytest.approx(10 * math.log10(144)))


def test_negative_values_are_warned_of_unless_the_range_is_named():
    signed = 2 * REAL - 1
    with pytest.warns(UserWarning, match="negative values"):
        found = psnr_db(signed, 2 * MADE - 1)
    # The span of 2 would have given 6 dB more.
    assert psnr_db(signed, 2 * MADE - 1, data_range=2) - found == pytest.approx(20 * math.log10(2 / signed.max()))


def test_patches_are_stretched_one_by_one_and_constant_ones_become_0():
    patches = np.stack([[[1.0, 3.0], [5.0, 2.0]], [[-4.0, -4.0], [-4.0, -4.0]], [[0.0, 0.0], [0.0, 0.0]]])
    expected = np.stack([[[0, 0.5], [1, 0.25]], np.zeros((2, 2)), np.zeros((2, 2))])
    np.testing.assert_array_equal(synthesis.official_patches(patches), expected)
    np.testing.assert_array_equal(synthesis.official_patches(2 * REAL + 7).max((1, 2)), 1)


def test_the_official_recipe_by_hand():
    """A volume of one window, with background in the truth where something was made."""
    real, made = RNG.uniform(0.2, 0.6, (7, 7, 7)), RNG.uniform(0.1, 0.9, (7, 7, 7))
    real[:3] = 0
    y = real / real.max()
    x = np.where(y == 0, 0, (made - made.min()) / (made.max() - made.min()))
    even = np.full(y.shape, 1 / y.size)
    found = official_scores(real, made)
    assert tuple(found) == names_of(synthesis.OFFICIAL)
    assert found["official_ssim"] == pytest.approx(one_window(y, x, even, data_range=2, bias=343 / 342), rel=1e-10)
    assert found["official_nmse"] == pytest.approx(np.sum((y - x) ** 2) / np.sum(y**2), rel=1e-12)
    assert found["official_psnr_db"] == pytest.approx(-10 * math.log10(np.mean((y - x) ** 2)), rel=1e-12)
    # Stretching hides a wrong scale, and the mask what lies outside the head.
    assert official_scores(real, 5 * made + 2) == pytest.approx(found)
    assert found["official_nmse"] < nmse(real, made) / 2


def test_official_scores_of_blank_volumes():
    blank = np.zeros((7, 8, 9))
    for truth in (blank, blank + 3):
        psnr, error, similarity = official_scores(truth, RNG.uniform(0, 1, blank.shape)).values()
        assert (psnr, math.isnan(error), similarity) == (math.inf, True, 1)
    found = official_scores(REAL, np.zeros_like(REAL))
    assert found["official_nmse"] == 1
    assert all(math.isfinite(value) for value in found.values())


def test_a_linear_target_is_found_again_from_the_voxels_that_show_something():
    cases = []
    for seed in (1, 2):
        sources = np.random.default_rng(seed).uniform(0.1, 0.5, (4, 5, 6, 2)).astype(np.float32)
        sources[0] = 0
        target = 0.3 * sources[..., 0] + 0.6 * sources[..., 1] + 0.05
        target[0] = 0.9  # outside the sources: not learned from, and made as 0
        cases.append((sources, target))
    weights = fit_linear(iter(cases))
    np.testing.assert_allclose(weights, [0.3, 0.6, 0.05], atol=1e-6)
    made = apply_linear(weights, cases[0][0])
    np.testing.assert_allclose(made[1:], cases[0][1][1:], atol=1e-6)
    assert not made[0].any()
    bright = apply_linear(np.array([2.0, 2.0, 0.5]), cases[0][0])
    assert (bright.min(), bright.max()) == (0, 1)


def test_the_fit_is_that_of_all_cases_at_once_even_of_a_source_that_says_nothing():
    cases = [(RNG.uniform(0.1, 1, (9, 2)), RNG.uniform(0, 1, 9)) for _ in range(3)]
    rows = np.column_stack([np.concatenate([s for s, _ in cases]), np.ones(27)])
    expected = np.linalg.lstsq(rows, np.concatenate([t for _, t in cases]), rcond=None)[0]
    np.testing.assert_allclose(fit_linear(cases), expected, rtol=1e-8)
    same = np.full((9, 1), 0.5)
    weights = fit_linear([(same, np.full(9, 0.7))])
    np.testing.assert_allclose(apply_linear(weights, same), 0.7)


def test_statistics_count_what_is_undefined():
    scores = {"output": "made", "nmse": 0.5, "ssim": 0.25}
    rows = [{**scores, "case": case, "psnr_db": db} for case, db in (("a", 20.0), ("b", 30.0), ("c", math.inf))]
    found = synthesis.summarize_synthesized(rows)
    assert tuple(found["made"]) == names_of(synthesis.METRICS)
    psnr = found["made"]["psnr_db"]
    assert (psnr["mean"], psnr["std"], psnr["n"], psnr["undefined"]) == (25, pytest.approx(50**0.5), 2, 1)


@pytest.mark.parametrize(
    ("call", "said"),
    [
        (lambda: psnr_db(REAL, MADE[1:]), r"shape \(13, 12, 11\), the synthesized one \(12, 12, 11\)"),
        (lambda: nmse(REAL, np.full_like(REAL, np.nan)), "synthesized image holds values that are not finite"),
        (lambda: psnr_db(REAL[:0], REAL[:0]), "no pixel"),
        (lambda: psnr_db(-REAL, -MADE, data_range=0.0), "data_range is 0.0"),
        (lambda: ssim(-REAL, -MADE), "no range; scale them"),
        (lambda: ssim(REAL[:10], MADE[:10]), r"2D or 3D image of at least 11 pixels .* got shape \(10, 12, 11\)"),
        (lambda: ssim_of_slices(REAL[:10], MADE[:10]), r"2D image of at least 11 .* got shape \(10, 12\)"),
        (lambda: official_scores(REAL[..., 0], MADE[..., 0]), "3D image of at least 7"),
        (lambda: official_scores(REAL[:6], MADE[:6]), "at least 7"),
        (lambda: fit_linear([(np.zeros((4, 2)), np.ones(4))]), "no voxel of any source"),
        (lambda: fit_linear([]), "no voxel of any source"),
        (lambda: apply_linear(np.ones(2), np.ones((4, 2))), "2 weights for 2 sources"),
    ],
)
def test_what_cannot_be_scored_is_refused(call, said):
    refused(said, call)
