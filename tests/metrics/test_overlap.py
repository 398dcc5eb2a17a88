import math

import numpy as np
import pytest

from jaxfuse.metrics.overlap import counts, dice, iou, sensitivity, specificity
from tests.refusals import refused

# TP 2, FP 1, FN 3, TN 4.
PRED = np.array([1, 1, 1, 0, 0, 0, 0, 0, 0, 0], dtype=bool)
TRUTH = np.array([1, 1, 0, 1, 1, 1, 0, 0, 0, 0], dtype=bool)
EMPTY, FULL = np.zeros(10, dtype=bool), np.ones(10, dtype=bool)
ALL = (dice, iou, sensitivity, specificity)


def test_counts_and_formulas_by_hand():
    assert counts(PRED, TRUTH) == (2, 1, 3, 4)
    assert tuple(f(PRED, TRUTH) for f in ALL) == (4 / 8, 2 / 6, 2 / 5, 4 / 5)
    assert (sensitivity(TRUTH, PRED), specificity(TRUTH, PRED)) == (2 / 3, 4 / 7)


@pytest.mark.parametrize("dtype", [np.uint8, np.int32, np.float32])
def test_anything_but_zero_is_foreground(dtype):
    assert counts(PRED.astype(dtype) * 4, TRUTH.astype(dtype)) == (2, 1, 3, 4)


@pytest.mark.parametrize(
    ("pred", "truth", "expected"),
    [
        (EMPTY, EMPTY, (1, 1, 1, 1)),
        (EMPTY, TRUTH, (0, 0, 0, 1)),
        (PRED, EMPTY, (0, 0, 0, 7 / 10)),
        (PRED, FULL, (6 / 13, 3 / 10, 3 / 10, 0)),
    ],
)
def test_empty_masks_by_the_ranking_rules(pred, truth, expected):
    assert tuple(f(pred, truth) for f in ALL) == expected


def test_empty_nan_marks_only_what_the_formula_leaves_undefined():
    for metric, pred, truth in ((dice, EMPTY, EMPTY), (iou, EMPTY, EMPTY), (sensitivity, PRED, EMPTY)):
        assert math.isnan(metric(pred, truth, empty="nan"))
    assert math.isnan(specificity(PRED, FULL, empty="nan"))
    assert (dice(PRED, EMPTY, empty="nan"), specificity(EMPTY, EMPTY, empty="nan")) == (0, 1)
    refused(r"\(10,\).*\(9,\)", dice, PRED, TRUTH[1:])
    refused("zero", dice, PRED, TRUTH, empty="zero")
