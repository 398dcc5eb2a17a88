"""Weights of a window's voxels where windows overlap: all alike, or a Gaussian that trusts the middle more.

Near its edge a network sees less of the surroundings of a voxel. The Gaussian is that of nnU-Net (Isensee et al.,
Nature Methods 18:203, 2021): its standard deviation is an eighth of the side along each axis. Here it is centered
between both faces, also of an even side, so that mirrored windows have mirrored weights; and it is never cut off, so
that no weight is 0: that of a corner of a volume's window is 4e-11 of that of the middle.

It is a product of one profile for each axis. Windows stand in rows along every axis, so that the sum of all weights at
a voxel is a product of sums as well, and takes no canvas.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from jaxtyping import Float

from jaxfuse.errors import UserError

EQUAL, GAUSSIAN = "equal", "gaussian"
WEIGHTINGS = (EQUAL, GAUSSIAN)
# Standard deviation as a share of a side.
_SIGMA = 1 / 8


def check_weighting(name: str, value: str) -> str:
    """Returns the value of the option `name` if it is a kind of weighting; refuses another."""
    if value not in WEIGHTINGS:
        raise UserError(f"{name} is {value!r}; choose {' or '.join(WEIGHTINGS)}")
    return value


def profile(weighting: str, side: int) -> Float[np.ndarray, " side"]:
    """Returns the weights along one axis of a window, float32; the largest possible is 1."""
    if weighting == EQUAL:
        return np.ones(side, np.float32)
    places = np.arange(side) - (side - 1) / 2
    return np.exp(-0.5 * (places / (_SIGMA * side)) ** 2).astype(np.float32)


def summed(weighting: str, side: int, starts: Sequence[int], length: int) -> Float[np.ndarray, " side"]:
    """Returns the sum, at each place along an axis of this side, of the weights of windows; 1 where there is none.

    Args:
        starts: the first place of each window.
        length: of the windows.
    """
    total, own = np.zeros(side, np.float32), profile(weighting, length)
    for start in starts:
        total[start : start + length] += own
    return np.where(total > 0, total, np.float32(1))
