"""Arrays laid as their memory is: NumPy looks at what lies side by side several times faster.

The voxels of a NIfTI file lie with the first axis innermost, often from the far end, those of arrays of this program
with the last. Turning a volume takes as long as unpacking it, so that a volume is turned once it is cropped.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from jaxtyping import Shaped


@dataclass(frozen=True)
class MemoryOrder:
    """The order of an array's items in memory.

    Attributes:
        axes: the one whose items lie furthest apart first.
        mirrored: those of the array along which memory runs backwards.
    """

    axes: tuple[int, ...]
    mirrored: tuple[int, ...]

    def laid(self, array: Shaped[np.ndarray, "*space"]) -> Shaped[np.ndarray, "*turned"]:
        """Returns a view with its axes in this order, none of them backwards."""
        return np.flip(array, self.mirrored).transpose(self.axes)

    def back(self, array: Shaped[np.ndarray, "*turned"]) -> Shaped[np.ndarray, "*space"]:
        """The inverse of `laid`."""
        return np.flip(array.transpose(tuple(np.argsort(self.axes).tolist())), self.mirrored)


def memory_order(array: Shaped[np.ndarray, "*space"]) -> MemoryOrder:
    """Finds the order of an array's items in memory."""
    axes = np.argsort([-abs(stride) for stride in array.strides], kind="stable")
    return MemoryOrder(tuple(axes.tolist()), tuple(axis for axis, stride in enumerate(array.strides) if stride < 0))


def in_memory_order(array: Shaped[np.ndarray, "*space"]) -> Shaped[np.ndarray, "*turned"]:
    """Returns a view laid in the array's own order."""
    return memory_order(array).laid(array)
