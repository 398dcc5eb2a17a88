import math

import numpy as np
import pytest

from jaxfuse.errors import UserError
from jaxfuse.metrics.overlap import counts, dice, iou, sensitivity, specificity

# TP 2, FP 1, FN 3, TN 4.
PRED = np.array([1, 1, 1, 0, 0, 0, 0, 0, 0, 0], dtype=bool)
TRUTH = np.array([1, 1, 0, 1, 1, 1, 0, 0, 0, 0], dtype=bool)
EMPTY, FULL = np.zeros(10, dtype=bool), np.ones(10, dtype=bool)


def test_counts_and_formulas_by_hand():
    assert counts(PRED, TRUTH) == (2, 1, 3, 4)
    assert dice(PRED, TRUTH) == 4 / 8
    assert iou(PRED, TRUTH) == 2 / 6
    assert sensitivity(PRED, TRUTH) == 2 / 5
    assert specificity(PRED, TRUTH) == 4 / 5


def test_prediction_comes_before_truth():
    assert sensitivity(TRUTH, PRED) == 2 / 3
    assert specificity(TRUTH, PRED) == 4 / 7


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
    assert tuple(f(pred, truth) for f in (dice, iou, sensitivity, specificity)) == expected


def test_empty_nan_marks_only_what_the_formula_leaves_undefined():
    assert math.isnan(dice(EMPTY, EMPTY, empty="nan"))
    assert math.isnan(iou(EMPTY, EMPTY, empty="nan"))
    assert math.isnan(sensitivity(PRED, EMPTY, empty="nan"))
    assert math.isnan(specificity(PRED, FULL, empty="nan"))
    assert dice(PRED, EMPTY, empty="nan") == 0
    assert specificity(EMPTY, EMPTY, empty="nan") == 1


def test_refuses_different_shapes_and_unknown_rules():
    with pytest.raises(UserError, match=r"\(10,\).*\(9,\)"):
        dice(PRED, TRUTH[1:])
    with pytest.raises(UserError, match="zero"):
        dice(PRED, TRUTH, empty="zero")


@pytest.mark.oracle
def test_agrees_with_medpy():
    binary = pytest.importorskip("medpy.metric.binary", reason="MedPy comes with the oracle extra")
    rng = np.random.default_rng(0)
    for share in (0.05, 0.5, 0.9):
        pred, truth = rng.random((2, 9, 8, 7)) < share
        assert dice(pred, truth) == pytest.approx(binary.dc(pred, truth), rel=1e-12)
        assert iou(pred, truth) == pytest.approx(binary.jc(pred, truth), rel=1e-12)
        assert sensitivity(pred, truth) == pytest.approx(binary.sensitivity(pred, truth), rel=1e-12)
        assert specificity(pred, truth) == pytest.approx(binary.specificity(pred, truth), rel=1e-12)
