"""Connected parts of a mask (d h w), and the holes that it encloses.

Voxels are connected by their faces (6 neighbors), by faces and edges (18), or by corners as well (26).
"""

from __future__ import annotations

from typing import Any

import numpy as np
from jaxtyping import Bool, Int
from scipy import ndimage

from jaxfuse.metrics.lesions import numbered

# Neighbors of a voxel -> most steps along different axes that lead to one.
CONNECTIVITIES = {6: 1, 18: 2, 26: 3}

Mask = Bool[np.ndarray, "d h w"]


def parts_of(mask: Mask, connectivity: int) -> tuple[Int[np.ndarray, "d h w"], Int[np.ndarray, " parts"]]:
    """Returns the parts of a mask, numbered from 1, and their voxels by number; place 0 stands for the rest, and is 0.

    Args:
        connectivity: a key of `CONNECTIVITIES`.
    """
    found, count = numbered(mask, CONNECTIVITIES[connectivity])
    sizes = np.bincount(found.ravel(), minlength=count + 1)
    sizes[0] = 0
    return found, sizes


def largest_part(mask: Mask, connectivity: int) -> Mask:
    """Returns the part of the most voxels; of several the one whose first voxel comes first, the last axis fastest."""
    found, sizes = parts_of(mask, connectivity)
    largest = np.flatnonzero(sizes == sizes.max())
    if largest.size > 1 and sizes.max():
        largest = found[np.isin(found, largest)][:1]
    return mask & (found == largest[0])


def small_parts(mask: Mask, connectivity: int, fewer_than: float) -> Mask:
    """Returns all parts that have fewer voxels."""
    found, sizes = parts_of(mask, connectivity)
    small = sizes < fewer_than
    small[0] = False
    return small[found]


def holes_of(mask: Mask) -> Mask:
    """Returns the voxels outside a mask that no way over faces leads from to the border of the array.

    An axis of one voxel is no way out: of a single slice holes are those of the picture.
    """
    flat = tuple(axis for axis, length in enumerate(mask.shape) if length == 1)
    if len(flat) == mask.ndim:
        return np.zeros_like(mask)
    outside = ~np.pad(np.squeeze(mask, flat), 1)
    labeled: Any = ndimage.label(outside)  # over faces
    found = labeled[0]
    # The corner of the frame that was put around.
    held = outside & (found != found[(0,) * found.ndim])
    return np.expand_dims(held[(slice(1, -1),) * held.ndim], flat)
