"""The predictors of `experiments.phantom_thresholds` on data whose best scores are known."""

import numpy as np
import pytest

from experiments.phantom_thresholds import run as experiment
from jaxfuse.labels import label_scheme

SCHEME = label_scheme("stroke")


def case(seed: int):
    """Lesion and rest overlap in each modality, and are apart in the sum of both, which a common swing leaves alone."""
    rng = np.random.default_rng(seed)
    label = np.zeros((12, 12, 12), np.uint8)
    label[3:9, 3:9, 3:9] = 1
    swing = rng.uniform(-20, 20, label.shape)
    images = {"t2": 100 + swing + 3 * label, "dwi_b0": 100 - swing + 3 * label}
    return {name: image + rng.uniform(-0.5, 0.5, label.shape) for name, image in images.items()}, label


def test_the_best_threshold_is_found_in_either_direction():
    score, truth = np.array([-1.0, 0.0, 1.0, 2.0]), np.array([True, True, False, True])
    above = experiment.dice_by_threshold(score, truth, above=True)
    below = experiment.dice_by_threshold(score, truth, above=False)
    assert above.max() == pytest.approx(6 / 7)  # all four, three of them right
    edge = int(np.searchsorted(experiment.EDGES, 0.5))
    assert (above[edge], below[edge]) == (pytest.approx(2 / 5), pytest.approx(4 / 5))


def test_a_linear_discriminant_finds_what_only_both_modalities_show():
    cases = [case(seed) for seed in range(2)]
    (alone, *_) = experiment.best_thresholds(cases, ("t2", "dwi_b0"), SCHEME)
    assert alone["dice"] < 0.4
    rows = experiment.best_discriminants(cases, ("t2", "dwi_b0"), SCHEME, (1, 1, 1))
    scores = {"+".join(row["modalities"]): row["dice"] for row in rows}
    assert scores["t2"] < 0.4
    assert scores["t2+dwi_b0"] == 1.0


def test_log_odds_of_two_normal_distributions():
    """Means 0 and 2, variance 1, equal priors: log odds 2 x - 2."""
    rng = np.random.default_rng(0)
    truth = np.arange(200_000) % 2
    features = (rng.standard_normal(len(truth)) + 2 * truth)[:, None]
    log_posteriors = experiment._discriminant(features, truth, 2)
    odds = np.diff(log_posteriors(np.array([[0.0], [1.0], [3.0]])), axis=1)[:, 0]
    np.testing.assert_allclose(odds, [-2, 0, 4], atol=0.05)
