"""The shape alphabet and the types that networks, losses and learning rules share.

Letters: b batch, d h w volume axes in array-axis order (x, y, z of a canonical RAS volume), m modalities
(input channels), k classes (output channels). `*space` stands for `d h w` or `h w`.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import jax
import jax.numpy as jnp
from jax import Array, ShapeDtypeStruct
from jax.sharding import AbstractMesh
from jaxtyping import Bool, Float, Int, Integer, Key, PyTree

Image = Float[Array, "b *space m"]
# Class indices; batches bring them as they are stored, uint8.
Label = Integer[Array, "b *space"]
Logits = Float[Array, "b *space k"]
Probs = Float[Array, "b *space k"]
# One batch: {"image": Image, "label": Label}, or a dictionary of such batches by stream.
Batch = Mapping[str, Any]
# Shapes stand in for arrays where a tree is only counted, traced or restored into.
Params = PyTree[Array | ShapeDtypeStruct]
Metrics = dict[str, Array]

__all__ = [
    "Array",
    "Batch",
    "Bool",
    "Float",
    "Image",
    "Int",
    "Key",
    "Label",
    "Logits",
    "Metrics",
    "Params",
    "Probs",
    "PyTree",
    "channels_of",
    "mesh_of",
]


def channels_of(image: Float[Array, "*map m"], channels: Sequence[int]) -> Float[Array, "*map k"]:
    """Returns these channels of an image, in this order, without a gather, which XLA fuses with nothing.

    Neighbors in ascending order are one slice; others are laid side by side.
    """
    first, last = channels[0], channels[-1]
    if tuple(channels) == tuple(range(first, last + 1)):
        return image[..., first : last + 1]
    return jnp.stack([image[..., channel] for channel in channels], axis=-1)


def mesh_of(*arrays: Any) -> AbstractMesh | None:
    """Returns the devices that a program is traced for, as its arrays tell; None where it is one."""
    meshes = (jax.typeof(array).sharding.mesh for array in arrays)
    return next((mesh for mesh in meshes if mesh.size > 1), None)
