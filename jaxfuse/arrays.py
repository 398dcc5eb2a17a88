"""The shape alphabet and the types that networks, losses and learning rules share.

Letters: b batch, d h w volume axes in array-axis order (x, y, z of a canonical RAS volume), m modalities
(input channels), k classes (output channels). `*space` stands for `d h w` or `h w`.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
from jax import Array, ShapeDtypeStruct
from jax.sharding import AbstractMesh
from jaxtyping import Bool, Float, Int, Integer, Key, PyTree, Shaped

Image = Float[Array, "b *space m"]
# Class indices; batches bring them as they are stored, uint8.
Label = Integer[Array, "b *space"]
Logits = Float[Array, "b *space k"]
Probs = Float[Array, "b *space k"]
# One batch: {"image": Image, "label": Label}, or a dictionary of such batches by stream. `presence`, (b m), tells where
# examples may lack modalities which of them they have; without it they have all.
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
    "Shown",
    "channels_of",
    "mesh_of",
    "presence_of",
    "shown",
    "shown_of",
]


def channels_of(image: Shaped[Array, "*map m"], channels: Sequence[int]) -> Shaped[Array, "*map k"]:
    """Returns these channels of an image or a presence, in this order, without a gather, which XLA fuses with nothing.

    Neighbors in ascending order are one slice; others are laid side by side.
    """
    first, last = channels[0], channels[-1]
    if tuple(channels) == tuple(range(first, last + 1)):
        return image[..., first : last + 1]
    return jnp.stack([image[..., channel] for channel in channels], axis=-1)


def presence_of(batch: Mapping[str, Any]) -> Bool[Array, "b m"] | None:
    """Returns which modalities each example of a batch has; None where all have all.

    A presence may be given for each example, or (m) for all of them.
    """
    if "presence" not in batch:
        return None
    image = batch["image"]
    return jnp.broadcast_to(batch["presence"] > 0, (image.shape[0], image.shape[-1]))


def shown(batch: Mapping[str, Any]) -> Image:
    """Returns the image of a batch, exactly 0 in the channels that an example lacks, whatever stands in them.

    Where nothing tells a presence it is the very array.
    """
    presence, image = presence_of(batch), batch["image"]
    if presence is None:
        return image
    there = presence.reshape(presence.shape[0], *(1,) * (image.ndim - 2), presence.shape[-1])
    return jnp.where(there, image, jnp.zeros((), image.dtype))


class Shown(NamedTuple):
    """An image whose absent channels are 0, and which are present: what a network is given that reads both."""

    image: Image
    presence: Bool[Array, "b m"]


def shown_of(batch: Mapping[str, Any], channels: Sequence[int]) -> Shown:
    """Returns these channels of what is shown of a batch, and their presence: all are there where none is told."""
    presence, image = presence_of(batch), channels_of(shown(batch), channels)
    there = jnp.ones((image.shape[0], len(channels)), bool)
    return Shown(image, there if presence is None else channels_of(presence, channels))


def mesh_of(*arrays: Any) -> AbstractMesh | None:
    """Returns the devices that a program is traced for, as its arrays tell; None where it is one."""
    meshes = (jax.typeof(array).sharding.mesh for array in arrays)
    return next((mesh for mesh in meshes if mesh.size > 1), None)
