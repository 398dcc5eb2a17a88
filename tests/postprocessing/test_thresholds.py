"""Factors of class probabilities: what they change, and that nothing else is looked at."""

import numpy as np
import pytest

from jaxfuse.labels import label_scheme
from jaxfuse.metrics.overlap import dice
from jaxfuse.postprocessing.choice import choose, labeled
from jaxfuse.postprocessing.plan import Plan
from jaxfuse.postprocessing.thresholds import FACTORS, by_class, most_probable, unsure_of

BRATS, LESION = label_scheme("brats"), label_scheme("lesion")
RNG = np.random.default_rng(0)


def probabilities(classes: int, shape=(9, 8, 7)) -> np.ndarray:
    drawn = RNG.random((*shape, classes), np.float32) ** 8  # of most voxels one class is sure
    return drawn / drawn.sum(-1, keepdims=True)


def test_a_factor_of_two_is_a_threshold_of_a_third():
    lesion = np.array([0.3, 0.33, 0.34, 0.6], np.float32)
    found = most_probable(np.stack([1 - lesion, lesion], -1), by_class({"lesion": 2.0}, LESION))
    assert found.tolist() == [0, 0, 1, 1]
    assert most_probable(np.stack([1 - lesion, lesion], -1)).tolist() == [0, 0, 0, 1]


def test_unsure_voxels_are_all_that_any_factors_change():
    probs = probabilities(4)
    labels, unsure = most_probable(probs), unsure_of(probs)
    assert 0 < unsure.places.size < labels.size
    for _ in range(40):
        factors = RNG.choice([1.0, *FACTORS], 4).astype(np.float32)
        np.testing.assert_array_equal(unsure.relabeled(labels, factors), most_probable(probs, factors))


def test_voxels_outside_the_brain_stay_background():
    probs, inside = probabilities(2), np.zeros((9, 8, 7), bool)
    inside[2:5, 3:6, 1:4] = True
    assert inside.ravel()[unsure_of(probs, inside).places].all()


def test_the_box_of_a_case_holds_what_factors_may_mark():
    probs = np.zeros((9, 8, 7, 2), np.float32)
    probs[..., 0] = 1
    probs[2, 3, 4], probs[6, 5, 1] = (0.6, 0.4), (0.7, 0.3)
    truth = np.zeros((9, 8, 7), np.uint8)
    truth[2, 3, 4] = 1
    one = labeled(np.zeros_like(truth), truth, (1.0,) * 3, unsure_of(probs))
    assert one.labels.shape == (7, 5, 6)  # both voxels, and one more around them
    found = one.unsure.relabeled(one.labels, np.array([1, 2], np.float32))
    np.testing.assert_array_equal(found, one.truth)
    assert one.unsure.relabeled(one.labels, np.array([1, 4], np.float32)).sum() == 2


def test_a_factor_is_taken_where_it_pays_and_no_region_falls():
    truth = np.zeros((12, 12, 12), np.uint8)
    truth[2:8, 2:8, 2:8] = 1
    lesion = np.where(truth, np.float32(0.4), np.float32(0.05))  # below a half, above a third
    probs = np.stack([1 - lesion, lesion], -1)
    case = labeled(most_probable(probs), truth, (1.0,) * 3, unsure_of(probs))
    choice = choose([case], LESION, lambda done, of: None)
    assert choice.plan == Plan("lesion", (), {"lesion": 2.0})
    assert choice.before["lesion"] == dice(np.zeros_like(truth, bool), truth > 0)
    assert choice.after["lesion"] == 1.0
    sure = labeled(truth, truth, (1.0,) * 3, unsure_of(probs))
    assert choose([sure], LESION, lambda done, of: None).plan.factors == {}


@pytest.mark.parametrize("factors", [{}, {"edema": 2.0}])
def test_a_plan_without_factors_keeps_its_digest(factors):
    plan = Plan("brats", (), factors)
    assert ("factors" in plan.document()) == bool(factors)
    assert plan.does_something == bool(factors)
    assert (plan.weights is None) == (not factors)
    assert plan.told() == ("edema: probability times 2" if factors else "no step")
