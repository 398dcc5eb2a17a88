"""Distances between images, computed in float32."""

from __future__ import annotations

import jax.numpy as jnp

from jaxfuse.arrays import Array, Float


def l1(a: Float[Array, "*shape"], b: Float[Array, "*shape"]) -> Float[Array, ""]:
    """Mean absolute difference over all elements, in the unit of the images."""
    return jnp.abs(a.astype(jnp.float32) - b.astype(jnp.float32)).mean()
