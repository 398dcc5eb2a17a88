"""Label maps from class probabilities."""

from __future__ import annotations

import numpy as np
from jaxtyping import Float, Int, UInt8


def label_map(
    probs: Float[np.ndarray, "*space k"], brain: Int[np.ndarray, " n"], *, mask_to_brain: bool = True
) -> UInt8[np.ndarray, "*space"]:
    """Returns the most probable class of each voxel of the brain, and background elsewhere.

    Outside the brain of skull-stripped data a network sees no anatomy. Papers that do not mask their label maps are
    scored on what it says there as well.

    Args:
        probs: class probabilities.
        brain: flat indices of the brain's voxels.
        mask_to_brain: False takes the most probable class everywhere.
    """
    if not mask_to_brain:
        return probs.argmax(axis=-1).astype(np.uint8)
    labels = np.zeros(probs.shape[:-1], np.uint8)
    labels.flat[brain] = probs.reshape(-1, probs.shape[-1])[brain].argmax(axis=-1)
    return labels
