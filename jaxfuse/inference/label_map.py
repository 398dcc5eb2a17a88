"""Label maps from class probabilities."""

from __future__ import annotations

import numpy as np
from jaxtyping import Float, Int, UInt8


def label_map(probs: Float[np.ndarray, "*space k"], brain: Int[np.ndarray, " n"]) -> UInt8[np.ndarray, "*space"]:
    """Returns the most probable class of each voxel of the brain, and background elsewhere.

    Outside the brain of skull-stripped data a network sees no anatomy, and its answer means nothing.

    Args:
        probs: class probabilities.
        brain: flat indices of the brain's voxels.
    """
    labels = np.zeros(probs.shape[:-1], np.uint8)
    labels.flat[brain] = probs.reshape(-1, probs.shape[-1])[brain].argmax(axis=-1)
    return labels
