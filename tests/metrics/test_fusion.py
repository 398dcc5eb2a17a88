import math

import numpy as np
import pytest

from jaxfuse.metrics import fusion
from jaxfuse.metrics.fusion import METRICS, en_bits, luminance, mi, qabf, scd, score_fused, sd, sf, ssim, stretch, vif
from jaxfuse.metrics.names import names_of
from tests.refusals import refused

# Two textured discs on black and their blend, all in whole levels.
_I, _J = np.mgrid[:48, :52]
A = np.where((_I - 22) ** 2 + (_J - 26) ** 2 < 19**2, 120 + (_I * _J) // 7 % 90, 0)
B = np.where((_I - 26) ** 2 + (_J - 24) ** 2 < 17**2, 60 + (_I * _I + 2 * _J * _J) // 31 % 97, 0)
F = (2 * A + B) // 3
BLACK, WHITE = np.zeros_like(F), np.full_like(F, 255)

ssim_255 = fusion.ssim_255
PAIRWISE = (mi, scd, vif, qabf, ssim, ssim_255)


def strength_kept(ratio: float) -> float:
    return 0.9994 / (1 + math.exp(-15 * (ratio - 0.5)))


def angle_kept(alike: float) -> float:
    return 0.9879 / (1 + math.exp(-22 * (alike - 0.8)))


def test_all_equal_the_published_evaluation():
    """The values that CDDFuse's evaluation gives for these images, with the data range 2 that its SSIM once took."""
    expected = {"en_bits": 4.157462901443415, "sd": 68.78728155353004, "sf": 29.237675804625116}
    expected |= {"mi_nats": 3.264067176634461, "scd": 0.6861122265092747, "vif": 0.5239530264958827}
    expected |= {"qabf": 0.6033641884567675, "ssim": 1.2731294545017995}
    scores = score_fused(F, [A, B])
    assert tuple(scores) == names_of(METRICS)
    assert scores.pop("ssim_255") == ssim(F, [A, B], data_range=255) > scores["ssim"]
    assert scores == pytest.approx(expected, rel=1e-10)


def test_values_are_rounded_to_whole_levels_first():
    nudge = np.random.default_rng(0).uniform(-0.45, 0.45, F.shape)
    assert score_fused(F + nudge, [A + nudge, (B - nudge).astype(np.float32)]) == score_fused(F, [A, B])
    assert score_fused(F.astype(np.uint8), [A.astype(np.uint8), B.astype(np.uint8)]) == score_fused(F, [A, B])


def test_one_image_by_hand():
    image = np.array([[0, 3], [4, 255]])
    assert (en_bits(image), sd(np.array([[1, 3], [1, 3]]))) == (pytest.approx(2), 1)
    assert en_bits(np.array([[7, 7, 7, 9]])) == pytest.approx(2 - 0.75 * math.log2(3))
    # Along rows 3 and 251, along columns 4 and 252.
    assert sf(image) == pytest.approx(math.sqrt((9 + 251**2) / 2 + (16 + 252**2) / 2))
    # Three steps along the rows, four along the columns: each mean has its own number.
    assert sf(np.array([[0, 6], [0, 0], [0, 0]])) == pytest.approx(math.sqrt(36 / 3 + 36 / 4))


def test_mutual_information_by_hand():
    fused = np.array([[10, 10], [200, 200]])
    same, across = np.array([[3, 3], [2, 2]]), np.array([[5, 6], [5, 6]])
    # A renamed copy of the fused image's levels tells its one bit; a stripe across it tells nothing.
    assert mi(fused, [same, across], unit="bits") == pytest.approx(1)
    assert mi(fused, [same, across]) == pytest.approx(math.log(2))
    assert mi(fused, [same, same, across, same], unit="bits") == pytest.approx(3)
    assert mi(F, [F, F], unit="bits") == pytest.approx(2 * en_bits(F))


def test_correlation_of_differences_by_hand():
    a, b = np.array([[0, 0], [8, 8]]), np.array([[0, 6], [0, 6]])
    assert scd(a + b, [a, b]) == pytest.approx(2)
    # F - B = 14 - A and F - A = 14 + B - 2A; the latter correlates with B as 9 / sqrt(9 (9 + 64)).
    assert scd(14 + b - a, [a, b]) == pytest.approx(-1 + 3 / math.sqrt(73))
    assert scd(F, [A, B]) == pytest.approx(scd(F, [B, A]))


def test_edge_preservation_by_hand():
    """One row (p, q): outside is 0, so the strengths are (2q, 2p) and every angle is 0."""
    fused, a, b = np.array([[10, 20]]), np.array([[10, 10]]), np.array([[40, 20]])
    # Strengths 40, 20 of the fused image; 20, 20 of A; 40, 80 of B.
    unequal = 20 * strength_kept(20 / 40) + 80 * strength_kept(20 / 80)
    published = angle_kept(1) * (unequal + 20 * strength_kept(20) + 40 * strength_kept(40)) / 160
    plain = angle_kept(1) * (unequal + (20 + 40) * strength_kept(1)) / 160
    assert qabf(fused, [a, b]) == pytest.approx(published, rel=1e-14)
    assert qabf(fused, [a, b], compat=False) == pytest.approx(plain, rel=1e-14)
    assert published > plain


def test_edge_angles_by_hand():
    """x grows to the left, y downward, and a vanishing x gives +pi/2: the mirror image scores otherwise."""
    source, fused = np.array([[0, 0], [1, 0]]), np.array([[0, 0], [0, 1]])
    root = math.sqrt(2)
    # Source: 2 at pi/2 and root at pi/4 above, nothing and 2 at 0 below. Fused: root at -pi/4 and 2 at pi/2 above,
    # 2 at 0 and nothing (pi/2) below. The lower left weighs nothing; the lower right keeps ratio 0 and angle 0.
    above, below = strength_kept(root / 2), 2 * strength_kept(0) * angle_kept(0)
    seen = (above * (2 * angle_kept(-0.5) + root * angle_kept(0.5)) + below) / (4 + root)
    mirrored = (above * (2 * angle_kept(0.5) + root * angle_kept(-0.5)) + below) / (4 + root)
    assert qabf(fused, [source, source]) == pytest.approx(seen, rel=1e-12)
    assert qabf(source, [fused, fused]) == pytest.approx(mirrored, rel=1e-12)


def test_structural_similarity_of_one_window_by_hand():
    fused, source = F[20:27, 20:27].astype(float), A[20:27, 20:27].astype(float)
    (vf, c), (_, vs) = np.cov(fused.ravel(), source.ravel())
    mf, ms = fused.mean(), source.mean()
    for data_range, metric in ((2, ssim), (255, ssim_255)):
        c1, c2 = (0.01 * data_range) ** 2, (0.03 * data_range) ** 2
        one = (2 * mf * ms + c1) * (2 * c + c2) / ((mf**2 + ms**2 + c1) * (vf + vs + c2))
        assert metric(fused, [source] * 3) == pytest.approx(3 * one)


def test_a_copy_of_its_sources_keeps_everything():
    assert (vif(F, [F, F]), ssim(F, [F, F]), ssim_255(F, [F, F])) == pytest.approx((2, 2, 2), rel=1e-9)
    assert qabf(F, [F, F], compat=False) == pytest.approx(strength_kept(1) * angle_kept(1))
    assert math.isnan(scd(A, [A, B]))


def test_fidelity_rises_with_contrast_and_vanishes_for_the_negative():
    half = A // 2
    assert vif(2 * half, [half, half]) > 2 > vif(half, [2 * half, 2 * half]) > vif(255 - A, [A, A]) == 0


def test_two_to_four_sources_add_up_and_their_order_does_not_matter():
    fused, a, b, c = F[:, :48], A[:, :48], B[:, :48], A.T[:48, :48]
    for metric in (mi, vif, ssim, ssim_255):
        pairs = metric(fused, [a, b]), metric(fused, [b, c]), metric(fused, [a, c])
        assert metric(fused, [c, a, b]) == pytest.approx(sum(pairs) / 2)
    # Repeating all sources changes no weighted mean.
    assert qabf(fused, [a, b, a, b]) == pytest.approx(qabf(fused, [b, a]))
    assert set(score_fused(fused, [a, b, c])) == set(names_of(METRICS)) - {"scd"}


def test_constant_images():
    both = score_fused(WHITE, [WHITE, WHITE])
    assert [both[name] for name in ("en_bits", "sd", "sf", "mi_nats", "vif", "ssim")] == [0, 0, 0, 0, 2, 2]
    assert math.isnan(both["scd"])
    # The border of a white image is an edge; a black one has none.
    assert both["qabf"] == pytest.approx(0.9994 * angle_kept(1), rel=1e-5)
    assert math.isnan(qabf(F, [BLACK, BLACK]))
    flat = score_fused(WHITE, [A, B])
    assert [flat[name] for name in ("en_bits", "sd", "sf")] == [0, 0, 0]
    assert (flat["mi_nats"], flat["vif"]) == pytest.approx((0, 0), abs=1e-12)
    assert flat["scd"] == pytest.approx(-2 * np.corrcoef(A.ravel(), B.ravel())[0, 1])
    assert 0 < flat["qabf"] < 0.1
    assert vif(F, [BLACK, A]) == pytest.approx(1 + vif(F, [A, A]) / 2)
    speck = BLACK.copy()
    speck[0, 0] = 1
    assert vif(BLACK, [speck, speck]) == 0
    assert vif(speck, [speck, speck]) == pytest.approx(2, rel=1e-4)
    # Luminance term only: C1 / (255^2 + C1) for each source.
    assert ssim_255(BLACK, [WHITE, WHITE]) == pytest.approx(2 * 1e-4 / (1 + 1e-4))


@pytest.mark.parametrize("shape", [(0, 0), (0, 5)])
def test_images_without_pixels_have_no_value(shape):
    empty = np.zeros(shape)
    scores = score_fused(empty, [empty, empty])
    assert tuple(scores) == names_of(METRICS)
    assert all(math.isnan(value) for value in scores.values())
    assert math.isnan(sf(np.ones((1, 9))))


def test_luminance_and_stretch():
    rgb = np.array([[[255, 0, 0], [0, 255, 0], [0, 0, 255], [255, 255, 255]]], dtype=np.uint8)
    assert luminance(rgb).tolist() == [[76, 150, 29, 255]]
    assert stretch(np.array([[-1.0, 0.0, 4.0]])).tolist() == [[0, 51, 255]]
    assert (stretch(WHITE).tolist(), stretch(np.zeros((0, 3))).shape) == (BLACK.tolist(), (0, 3))


def test_refusals():
    for metric in (en_bits, sd, sf):
        refused("from 0 to 256", metric, np.array([[0, 256]]))
    assert 0 < vif(F[:41, :41], [A[:41, :41]] * 2) < 2
    for metric, side in ((vif, 41), (ssim, 7), (ssim_255, 7)):
        refused(rf"{side} pixels.*\(48, {side - 1}\)", metric, F[:, : side - 1], [A[:, : side - 1]] * 2)
    refused("source 2 holds values from -1 ", mi, F, [A, B - 1])
    refused("fused image.*not finite", qabf, np.full(F.shape, np.nan), [A, B])
    refused("2D", sd, np.zeros((4, 4, 3)))
    refused("three axes", luminance, F)
    for metric in PAIRWISE:
        refused(r"source 2 has shape \(4, 4\)", metric, F, [A, B[:4, :4]])
        refused("1 sources", metric, F, [A])
        refused("5 sources", metric, F, [A] * 5)
    refused("3 sources", scd, F, [A, A, B])
    refused("hartley", mi, F, [A, B], unit="hartley")
    refused("data_range", ssim, F, [A, B], data_range=0)
