"""From class probabilities to a label map."""

from __future__ import annotations

import numpy as np
from jaxtyping import Float, UInt8


def label_map(probs: Float[np.ndarray, "d h w k"], image: Float[np.ndarray, "d h w m"]) -> UInt8[np.ndarray, "d h w"]:
    """The most probable class of each voxel; background where every modality is exactly 0.

    Skull-stripped data are 0 outside the brain, where a network sees no anatomy and may answer anything.
    """
    return np.where((image != 0).any(axis=-1), probs.argmax(axis=-1), 0).astype(np.uint8)
