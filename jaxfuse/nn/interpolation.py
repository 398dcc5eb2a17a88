"""Linear interpolation between the voxels of a map: its corners stay where they are, or the centers of its voxels."""

from __future__ import annotations

import jax
import jax.numpy as jnp
import numpy as np

from jaxfuse.arrays import Array, Float


def upsample_linear(x: Float[Array, "b *space c"], factor: int) -> Float[Array, "b *finer c"]:
    """`factor` times as many voxels along every axis of space, linearly between those of x.

    The first and the last voxel of each axis keep their values, as PyTorch's `align_corners=True` has it.
    """
    for axis in range(1, x.ndim - 1):
        weights = jnp.asarray(_weights(x.shape[axis], factor * x.shape[axis]), x.dtype)
        x = jnp.moveaxis(jnp.tensordot(x, weights, (axis, 1)), -1, axis)
    return x


def upsample_by_centers(x: Float[Array, "b *space c"], factor: int) -> Float[Array, "b *finer c"]:
    """`factor` times as many voxels along every axis of space, whose centers lie evenly within those of x.

    Beyond the outer centers values stay as they are, as PyTorch's `align_corners=False` has it.
    """
    if factor == 1:
        return x
    sides = (factor * side for side in x.shape[1:-1])
    return jax.image.resize(x, (x.shape[0], *sides, x.shape[-1]), "linear")


def _weights(coarse: int, fine: int) -> np.ndarray:
    """The matrix (fine, coarse) that interpolates along one axis."""
    places = np.linspace(0.0, coarse - 1.0, fine)
    return np.maximum(0.0, 1.0 - np.abs(places[:, None] - np.arange(coarse)))
