"""Overlap of the center lines of tubes, such as vessels and tracts: does a prediction keep them connected?"""

from __future__ import annotations

from typing import Any

import numpy as np
from jaxtyping import Bool
from scipy import ndimage
from skimage.morphology import skeletonize

from jaxfuse.metrics.overlap import Mask, require_same_shape


def cl_dice(pred: Mask, truth: Mask) -> float:
    """Returns clDice (Shit et al., CVPR 2021): the harmonic mean of the shares of each skeleton in the other mask.

    Skeletons are those of scikit-image, which are empty of some solid parts, such as a cube of an even side: there the
    deepest voxel of the part, the first of several, is its skeleton. Both masks empty: 1; one empty: 0.

    Args:
        pred, truth: masks (*space) of one case, 2D or 3D.

    Raises:
        UserError: shapes differ.
    """
    require_same_shape(pred, truth)
    pred, truth = pred.astype(bool, copy=False), truth.astype(bool, copy=False)
    if not pred.any() or not truth.any():
        return float(pred.any() == truth.any())
    lines = _skeleton(pred), _skeleton(truth)
    precision, recall = (
        np.count_nonzero(line & other) / np.count_nonzero(line)
        for line, other in zip(lines, (truth, pred), strict=True)
    )
    return float(2 * precision * recall / (precision + recall)) if precision + recall else 0.0


def _skeleton(mask: Bool[np.ndarray, "*space"]) -> Bool[np.ndarray, "*space"]:
    """The skeleton of a mask, of which each connected part has a voxel at least."""
    line = skeletonize(mask).astype(bool)
    labeled: Any = ndimage.label(mask, np.ones((3,) * mask.ndim))
    parts, count = labeled
    places = ndimage.find_objects(parts)
    for number in np.setdiff1d(np.arange(1, count + 1), parts[line]):
        part = np.pad(parts[places[number - 1]] == number, 1)
        depth: Any = ndimage.distance_transform_edt(part)
        line[places[number - 1]].flat[np.argmax(depth[(slice(1, -1),) * mask.ndim])] = True
    return line
