"""Label maps that are background outside the brain."""

from __future__ import annotations

import numpy as np
from jaxtyping import Int, UInt8


def masked_labels(labels: UInt8[np.ndarray, "*space"], brain: Int[np.ndarray, " n"]) -> UInt8[np.ndarray, "*space"]:
    """Returns the classes of the brain's voxels, and background elsewhere.

    Outside the brain of skull-stripped data a network sees no anatomy. Papers that do not mask their label maps are
    scored on what it says there as well.

    Args:
        brain: flat indices of the brain's voxels.
    """
    masked = np.zeros_like(labels)
    masked.flat[brain] = labels.flat[brain]
    return masked
