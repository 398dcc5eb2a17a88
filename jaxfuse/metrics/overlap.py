"""Overlap of a predicted mask with the true one: Dice, IoU, sensitivity and specificity.

With TP, FP, FN, TN the voxel counts of one case. Where a formula reads 0/0, `empty` decides: "one" follows
the rules of the BraTS rankings, given in each docstring, "nan" says that the value is undefined. Values
are Python floats in [0, 1].
"""

from __future__ import annotations

from typing import NamedTuple

import numpy as np
from jaxtyping import Integer, Shaped

from jaxfuse.errors import UserError

# At most three axes; zero is background. Equal shapes are checked by `require_same_shape`.
Mask = Shaped[np.ndarray, "..."]
Labels = Integer[np.ndarray, "..."]


class Counts(NamedTuple):
    """Voxels of one mask pair: true and false positives, false and true negatives."""

    tp: int
    fp: int
    fn: int
    tn: int


def counts(pred: Mask, truth: Mask) -> Counts:
    """Voxel counts of two masks of one case; anything that is not zero is foreground.

    Raises:
        UserError: the shapes differ, or are those of several cases, whose voxels are never pooled.
    """
    require_same_shape(pred, truth)
    if pred.ndim > 3:
        raise UserError(
            f"masks of shape {pred.shape} are a stack of cases, and one case is expected, of at most three axes; score "
            "each case and average the scores"
        )
    pred, truth = pred.astype(bool, copy=False), truth.astype(bool, copy=False)
    tp = int(np.count_nonzero(pred & truth))
    fp = int(np.count_nonzero(pred)) - tp
    fn = int(np.count_nonzero(truth)) - tp
    return Counts(tp, fp, fn, truth.size - tp - fp - fn)


def require_same_shape(pred: Mask, truth: Mask) -> None:
    """Refuses two arrays of different shapes."""
    if pred.shape != truth.shape:
        raise UserError(
            f"the prediction has shape {pred.shape} but the truth {truth.shape}; bring both onto one voxel grid"
        )


def dice(pred: Mask, truth: Mask, *, empty: str = "one") -> float:
    """2TP / (2TP + FP + FN). Both masks empty: 1 or nan; one empty: 0."""
    n = counts(pred, truth)
    return _ratio(2 * n.tp, 2 * n.tp + n.fp + n.fn, undefined=1.0, empty=empty)


def iou(pred: Mask, truth: Mask, *, empty: str = "one") -> float:
    """TP / (TP + FP + FN), the Jaccard index. Both masks empty: 1 or nan; one empty: 0."""
    n = counts(pred, truth)
    return _ratio(n.tp, n.tp + n.fp + n.fn, undefined=1.0, empty=empty)


def sensitivity(pred: Mask, truth: Mask, *, empty: str = "one") -> float:
    """TP / (TP + FN). Truth empty: with "one" 1 if the prediction is empty too and else 0; with "nan" nan."""
    n = counts(pred, truth)
    return _ratio(n.tp, n.tp + n.fn, undefined=0.0 if n.fp else 1.0, empty=empty)


def specificity(pred: Mask, truth: Mask, *, empty: str = "one") -> float:
    """TN / (TN + FP). A truth that fills the volume leaves nothing to reject: 0 or nan."""
    n = counts(pred, truth)
    return _ratio(n.tn, n.tn + n.fp, undefined=0.0, empty=empty)


def _ratio(part: int, whole: int, *, undefined: float, empty: str) -> float:
    if empty not in ("one", "nan"):
        raise UserError(f'empty={empty!r} is not a rule for empty masks; choose "one" or "nan"')
    if whole:
        return part / whole
    return undefined if empty == "one" else float("nan")
