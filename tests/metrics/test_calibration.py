import numpy as np
import pytest

from jaxfuse.metrics.calibration import ace, brier, ece, reliability
from tests.refusals import refused


def _two_classes(confidence, hits):
    """Voxels of a given confidence in class 1, which is the true one where they hit."""
    confidence = np.asarray(confidence, np.float64)
    return np.stack([1 - confidence, confidence], axis=-1), np.asarray(hits, np.int64)


def test_by_hand():
    """Four voxels at 0.9, of which three hit, and two at 0.6, of which both do."""
    chances, truth = _two_classes([0.9] * 4 + [0.6] * 2, [1, 1, 1, 0, 1, 1])
    found = reliability(chances, truth, bins=10)
    assert found.confidence == pytest.approx([0.6, 0.9])
    assert found.accuracy == pytest.approx([1.0, 0.75])
    assert found.share == pytest.approx([1 / 3, 2 / 3])
    assert found.error == ece(chances, truth, bins=10) == pytest.approx(0.4 / 3 + 0.15 * 2 / 3)
    assert found.greatest_error == pytest.approx(0.4)


def test_bins_of_equal_counts_by_hand():
    """Two bins of three voxels: (0.6, 0.7, 0.8) hit twice, (0.9, 0.92, 0.94) twice."""
    chances, truth = _two_classes([0.9, 0.94, 0.6, 0.92, 0.8, 0.7], [0, 1, 1, 1, 0, 1])
    assert ace(chances, truth, bins=2) == pytest.approx((abs(0.7 - 2 / 3) + abs(0.92 - 2 / 3)) / 2)


def test_equal_confidences_lie_in_one_bin_whatever_their_order():
    """Four voxels of 0.9 hit twice, two of 0.6 do; in one bin each, not by where they lie."""
    for hits in ([0, 1, 1, 0, 1, 1], [1, 1, 0, 0, 1, 1]):
        chances, truth = _two_classes([0.9] * 4 + [0.6] * 2, hits)
        assert ace(chances, truth, bins=2) == pytest.approx(0.4)
    certain, right = _two_classes(np.ones(60), np.r_[np.zeros(6), np.ones(54)])
    assert ace(certain, right) == pytest.approx(0.1)


def test_probabilities_that_are_right_as_often_as_they_say_have_no_error():
    rng = np.random.default_rng(0)
    chances = rng.dirichlet([1.0, 1.0, 1.0], 200_000)
    truth = (rng.uniform(size=(len(chances), 1)) > np.cumsum(chances, axis=1)).sum(axis=1)
    assert max(ece(chances, truth), ace(chances, truth)) < 0.005
    sharper = chances**3 / (chances**3).sum(axis=1, keepdims=True)
    assert min(ece(sharper, truth), ace(sharper, truth)) > 0.1
    assert brier(chances, truth) < brier(sharper, truth)


def test_brier_by_hand():
    chances, truth = _two_classes([0.8, 0.4], [1, 1])
    assert brier(chances, truth) == pytest.approx((2 * 0.2**2 + 2 * 0.6**2) / 2)


def test_only_what_is_within_counts():
    chances, truth = _two_classes([0.9, 0.9, 0.5], [1, 1, 0])
    within = np.array([True, True, False])
    assert ece(chances, truth, within=within) == pytest.approx(0.1)
    cube = chances.reshape(3, 1, 1, 2)
    assert ece(cube, truth.reshape(3, 1, 1), within=within.reshape(3, 1, 1)) == pytest.approx(0.1)


def test_edges_of_confidence_have_a_bin():
    chances, truth = _two_classes([1.0, 0.5], [1, 1])
    assert reliability(chances, truth, bins=2).share.tolist() == [0.5, 0.5]
    assert reliability(chances[:1], truth[:1]).error == 0.0


def test_refuses_what_are_no_probabilities():
    chances, truth = _two_classes([0.9, 0.8], [1, 0])
    refused("do not fit classes", ece, chances, truth[:1])
    refused("do not sum to 1", ece, 2 * chances, truth)
    refused("classes run from 0 to 5", ece, chances, np.array([0, 5]))
    refused("no voxel counts", brier, chances, truth, within=np.zeros(2, bool))
    refused("bins is 0", reliability, chances, truth, bins=0)
