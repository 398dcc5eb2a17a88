"""Linear interpolation between the voxels of a map whose corners stay where they are."""

from __future__ import annotations

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


def _weights(coarse: int, fine: int) -> np.ndarray:
    """The matrix (fine, coarse) that interpolates along one axis."""
    places = np.linspace(0.0, coarse - 1.0, fine)
    return np.maximum(0.0, 1.0 - np.abs(places[:, None] - np.arange(coarse)))
