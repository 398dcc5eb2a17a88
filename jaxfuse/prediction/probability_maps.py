"""Maps of class probabilities, as files on the grid of a case's images."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from pathlib import Path

import numpy as np
from jaxtyping import Float

from jaxfuse.data.cases import Image
from jaxfuse.io.nifti import write_channels_like, write_like

PROBABILITIES, ENTROPY = "probabilities", "entropy"

Probabilities = Float[np.ndarray, "d h w k"]


def write_maps(paths: Mapping[str, Path], probabilities: Probabilities, *, like: Image) -> None:
    """Writes those of `MAPS` that have a path, in float32, on the grid of the image `like`; folders are made."""
    for name, path in paths.items():
        path.parent.mkdir(parents=True, exist_ok=True)
        MAPS[name](path, probabilities, like)


def entropy_nats(probabilities: Probabilities) -> Float[np.ndarray, "d h w"]:
    """Returns the entropy of each voxel's class probabilities: 0 where one is certain, at most the logarithm of k."""
    total = np.zeros(probabilities.shape[:-1], np.float32)
    for one in np.moveaxis(probabilities, -1, 0):  # one class at a time, for the memory
        total -= one * np.log(np.where(one > 0, one, np.float32(1)))
    return np.maximum(total, 0)


def _write_probabilities(path: Path, probabilities: Probabilities, like: Image) -> None:
    write_channels_like(path, probabilities, like.grid, channel=like.channel, description="class probabilities")


def _write_entropy(path: Path, probabilities: Probabilities, like: Image) -> None:
    entropy = entropy_nats(probabilities)
    write_like(path, entropy, like.grid, channel=like.channel, dtype="float32", description="entropy in nats")


MAPS: Mapping[str, Callable[[Path, Probabilities, Image], None]] = {
    PROBABILITIES: _write_probabilities,
    ENTROPY: _write_entropy,
}
