"""Pairs of pictures A and B in which one lesion is bright in A alone, one in B alone, and two decoys in both.

By its shape and place nothing tells a lesion from a decoy: what is bright where does.
"""

from __future__ import annotations

from functools import partial

import jax
import jax.numpy as jnp

SIDE, CONTRAST, NOISE = 48, 0.22, 0.05
CLASSES = ("background", "lesion 1", "lesion 2")
# Each round thing has one of nine cells of 16 pixels for itself.
_CELL, _JITTER, _RADIUS = 16, 3.0, (3.0, 5.0)
_LEVEL, _WAVES, _SWING = 0.4, 3, 0.04


@partial(jax.jit, static_argnums=1)
def pictures(key: jax.Array, count: int) -> dict[str, jax.Array]:
    """`image` (n 48 48 2) in [0, 1], A and B as channels, and `label` (n 48 48), by `CLASSES`."""
    image, label = jax.vmap(_one)(jax.random.split(key, count))
    return {"image": image, "label": label}


def _one(key: jax.Array) -> tuple[jax.Array, jax.Array]:
    keys = jax.random.split(key, 5)
    cells = jax.random.permutation(keys[0], 9)[:4]
    corner = jnp.stack([cells // 3, cells % 3], axis=-1) * _CELL
    center = corner + _CELL / 2 + jax.random.uniform(keys[1], (4, 2), minval=-_JITTER, maxval=_JITTER)
    radius = jax.random.uniform(keys[2], (4,), minval=_RADIUS[0], maxval=_RADIUS[1])
    axis = jnp.arange(SIDE) + 0.5
    place = jnp.stack(jnp.meshgrid(axis, axis, indexing="ij"), axis=-1)
    inside = jnp.linalg.norm(place - center[:, None, None], axis=-1) <= radius[:, None, None]
    lesion_1, lesion_2, *decoys = inside
    bright = jnp.stack([lesion_1 | decoys[0] | decoys[1], lesion_2 | decoys[0] | decoys[1]], axis=-1)
    noise = NOISE * jax.random.normal(keys[3], (SIDE, SIDE, 2))
    image = _LEVEL + _anatomy(keys[4])[..., None] + CONTRAST * bright + noise
    return jnp.clip(image, 0, 1), jnp.where(lesion_1, 1, jnp.where(lesion_2, 2, 0))


def _anatomy(key: jax.Array) -> jax.Array:
    """Draws what both pictures share: a sum of slow waves."""
    keys = jax.random.split(key, 2)
    waves = jax.random.uniform(keys[0], (_WAVES, 2), minval=-2.0, maxval=2.0)
    phases = jax.random.uniform(keys[1], (_WAVES,), maxval=2 * jnp.pi)
    axis = jnp.arange(SIDE) / SIDE
    rows, columns = jnp.meshgrid(axis, axis, indexing="ij")
    turns = waves[:, 0, None, None] * rows + waves[:, 1, None, None] * columns
    return _SWING * jnp.cos(2 * jnp.pi * turns + phases[:, None, None]).sum(0)
