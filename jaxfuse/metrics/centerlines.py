"""Overlap of the center lines of tubes, such as vessels and tracts: does a prediction keep them connected?"""

from __future__ import annotations

import numpy as np
from skimage.morphology import skeletonize

from jaxfuse.metrics.overlap import Mask, require_same_shape


def cl_dice(pred: Mask, truth: Mask) -> float:
    """Returns clDice (Shit et al., CVPR 2021): the harmonic mean of the shares of each skeleton in the other mask.

    Skeletons are those of scikit-image. Both masks empty: 1; one empty: 0.

    Args:
        pred, truth: masks (*space) of one case, 2D or 3D.

    Raises:
        UserError: shapes differ.
    """
    require_same_shape(pred, truth)
    pred, truth = pred.astype(bool, copy=False), truth.astype(bool, copy=False)
    if not pred.any() or not truth.any():
        return float(pred.any() == truth.any())
    lines = skeletonize(pred).astype(bool), skeletonize(truth).astype(bool)
    precision, recall = (
        np.count_nonzero(line & other) / np.count_nonzero(line)
        for line, other in zip(lines, (truth, pred), strict=True)
    )
    return float(2 * precision * recall / (precision + recall)) if precision + recall else 0.0
