"""Random numbers of augmentation, each from a key of its own."""

from __future__ import annotations

from collections.abc import Sequence

import jax
import jax.numpy as jnp
from jax import lax

from jaxfuse.arrays import Array, Bool, Float, Key


def settled(array: Array) -> Array:
    """Has an array computed once, where XLA would compute it again for every voxel or statistic that needs it."""
    return lax.optimization_barrier(array)


def happens(key: Key[Array, ""], probability: float, shape: Sequence[int] = ()) -> Bool[Array, ...]:
    """Draws True with this probability."""
    return settled(jax.random.uniform(key, tuple(shape)) < probability)


def between(key: Key[Array, ""], ends: tuple[float, float], shape: Sequence[int] = ()) -> Float[Array, ...]:
    """Draws evenly between two ends."""
    return settled(jax.random.uniform(key, tuple(shape), minval=ends[0], maxval=ends[1]))


def around_one(key: Key[Array, ""], ends: tuple[float, float], shape: Sequence[int] = ()) -> Float[Array, ...]:
    """Draws factors, below 1 and above it equally often where the ends lie on both sides of it (batchgenerators)."""
    low, high = ends
    which, below, above = jax.random.split(key, 3)
    if low >= 1 or high <= 1:
        return between(below, ends, shape)
    return jnp.where(happens(which, 0.5, shape), between(below, (low, 1.0), shape), between(above, (1.0, high), shape))
