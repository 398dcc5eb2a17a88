"""Scores of lesions by their published definition, on whole arrays."""

import numpy as np
from scipy import ndimage

from jaxfuse.metrics.lesions import Matching
from jaxfuse.metrics.overlap import dice
from jaxfuse.metrics.surfels import surfel_hd95_mm


def slow_lesion_scores(pred, truth, spacing, matching: Matching) -> tuple[float, float, int, int, int]:
    """Returns dice, hd95, found, missed, false."""
    near = ndimage.generate_binary_structure(pred.ndim, 2)

    def widen(mask):
        return ndimage.binary_dilation(mask, near, matching.dilations) if matching.dilations else mask

    parts, count = ndimage.label(pred, np.ones((3,) * pred.ndim))
    joined, number = ndimage.label(widen(truth), np.ones((3,) * pred.ndim))
    touched, dices, distances, missed = set(), [], [], 0
    for index in range(1, number + 1):
        lesion = truth & (joined == index)
        around = widen(lesion)
        matched = [one for one in range(1, count + 1) if (around & (parts == one)).any()]
        touched |= set(matched)
        if lesion.sum() * np.prod(spacing) <= matching.smallest_mm3:
            continue
        made = np.isin(parts, matched)
        missed += not matched
        dices.append(dice(made, lesion))
        distances.append(surfel_hd95_mm(made, lesion, spacing_mm=spacing, one_empty=matching.miss_mm))
    false = count - len(touched)
    all_of_them = len(dices) + false
    if not all_of_them:
        return 1.0, 0.0, 0, 0, 0
    hd95 = (sum(distances) + false * matching.miss_mm) / all_of_them
    return sum(dices) / all_of_them, hd95, len(dices) - missed, missed, false
