"""Calibration of class probabilities: is a voxel that is called 90 % certain right nine times of ten?

The confidence of a voxel is its greatest probability, its hit whether that class is the true one. Voxels of one case
are pooled into bins by confidence; cases are not pooled with one another.

    found = reliability(probabilities, labels, within=brain)
    found.error, found.greatest_error, ace(probabilities, labels, within=brain), brier(probabilities, labels)
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from jaxtyping import Bool, Float, Float64, Integer

from jaxfuse.errors import UserError
from jaxfuse.metrics.names import Metric

BINS = 15
_GAP = "gap between confidence (the greatest probability) and accuracy"
ECE = Metric("ece", "ECE", 4, False, f"mean {_GAP} over {BINS} bins of equal width of confidence, weighted by voxels")
ACE = Metric("ace", "ACE", 4, False, f"mean {_GAP} over {BINS} bins of equally many voxels")
MCE = Metric("mce", "MCE", 3, False, f"greatest {_GAP} of the bins of equal width")
BRIER = Metric(
    "brier", "Brier", 4, False, "squared distance of the probabilities to the true class, summed over classes"
)
METRICS = (ECE, ACE, MCE, BRIER)
_SUM_WITHIN = 1e-3

Probabilities = Float[np.ndarray, "... k"]
Truth = Integer[np.ndarray, "..."]
Within = Bool[np.ndarray, "..."] | None


@dataclass(frozen=True)
class Reliability:
    """Confidences and hits of the voxels of one case, in bins; those that are empty are left out.

    Attributes:
        confidence: mean of each bin, in rising order.
        accuracy: share of hits of each bin.
        share: of all voxels that each bin holds.
        numbers: those of the bins, from 0.
    """

    confidence: Float64[np.ndarray, " bins"]
    accuracy: Float64[np.ndarray, " bins"]
    share: Float64[np.ndarray, " bins"]
    numbers: Integer[np.ndarray, " bins"]

    @property
    def error(self) -> float:
        """The mean gap between confidence and accuracy, weighted by voxels: ECE of bins of equal width."""
        return float(self.share @ np.abs(self.confidence - self.accuracy))

    @property
    def greatest_error(self) -> float:
        """MCE, the greatest gap of a bin."""
        return float(np.abs(self.confidence - self.accuracy).max())


def reliability(
    probabilities: Probabilities, truth: Truth, *, within: Within = None, bins: int = BINS, adaptive: bool = False
) -> Reliability:
    """Returns confidence beside accuracy (Guo et al., ICML 2017, section 2).

    Args:
        probabilities: of k classes, along the last axis.
        truth: class indices.
        within: the voxels that count, such as those of the brain; None: all.
        bins: how many.
        adaptive: bins hold equally many voxels each, which gives ACE (Nixon et al., CVPR workshops 2019) as the error,
            in place of equal widths of confidence, which give ECE. Equal confidences share the bin of their middle,
            so that bins are as even as they allow: of float32 many are exactly 1.

    Raises:
        UserError: shapes do not fit, no voxel counts, or values are no probabilities or no class indices.
    """
    chances, classes = _voxels(probabilities, truth, within)
    if bins < 1:
        raise UserError(f"bins is {bins}; give one at least")
    confidence, hits = chances.max(axis=1), chances.argmax(axis=1) == classes
    if adaptive:
        ranked = np.sort(confidence)
        first, behind = (np.searchsorted(ranked, confidence, side) for side in ("left", "right"))
        place = (first + behind - 1) * bins // (2 * len(ranked))
    else:
        place = np.clip(np.ceil(confidence * bins).astype(np.int64) - 1, 0, bins - 1)
    counts = np.bincount(place, minlength=bins)
    held = counts > 0
    mean, accuracy = (np.bincount(place, values, minlength=bins)[held] / counts[held] for values in (confidence, hits))
    return Reliability(mean, accuracy, counts[held] / counts.sum(), np.flatnonzero(held))


def ece(probabilities: Probabilities, truth: Truth, *, within: Within = None, bins: int = BINS) -> float:
    """Returns the expected calibration error, of bins of equal width; 0 is best."""
    return reliability(probabilities, truth, within=within, bins=bins).error


def ace(probabilities: Probabilities, truth: Truth, *, within: Within = None, bins: int = BINS) -> float:
    """Returns the adaptive calibration error of the most probable class, of bins of equal counts; 0 is best."""
    return reliability(probabilities, truth, within=within, bins=bins, adaptive=True).error


def brier(probabilities: Probabilities, truth: Truth, *, within: Within = None) -> float:
    """Returns the mean over voxels of the squared distance from the true class' vertex, from 0 to 2 (Brier 1950)."""
    chances, classes = _voxels(probabilities, truth, within)
    right = np.take_along_axis(chances, classes[:, None], axis=1)[:, 0]
    return float(np.mean((chances**2).sum(axis=1) - 2 * right + 1))


def _voxels(
    probabilities: Probabilities, truth: Truth, within: Within
) -> tuple[Float64[np.ndarray, "n k"], Integer[np.ndarray, " n"]]:
    """The voxels that count, one behind the other."""
    sides = probabilities.shape[:-1]
    if truth.shape != sides or (within is not None and within.shape != sides):
        raise UserError(
            f"probabilities {probabilities.shape} do not fit classes {truth.shape}"
            + (f" within {within.shape}" if within is not None else "")
            + "; give probabilities with the classes along the last axis, on one grid with the others"
        )
    inside = np.ones(sides, bool) if within is None else within
    chances, classes = probabilities[inside].astype(np.float64), truth[inside].astype(np.int64)
    if not len(classes):
        raise UserError("no voxel counts; give a mask that holds some")
    if not np.allclose(chances.sum(axis=1), 1, atol=_SUM_WITHIN) or chances.min() < 0:
        raise UserError("probabilities do not sum to 1 over the classes; give those of a softmax, the classes last")
    if classes.min() < 0 or classes.max() >= chances.shape[1]:
        raise UserError(
            f"classes run from {classes.min()} to {classes.max()}; give indices from 0 to {chances.shape[1] - 1}"
        )
    return chances, classes
