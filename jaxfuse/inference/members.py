"""The mean of several networks' class probabilities for one volume, taken where they lie on the device."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import jax.numpy as jnp
from jaxtyping import Float

from jaxfuse.arrays import Array

Values = Float[Array, "... k"]
# A volume's array axis across which the pictures of a canvas lie; None where it is no stack of pictures.
Axis = int | None


def aligned(parts: Sequence[Values], shifts: Sequence[Any], across: Sequence[Axis]) -> list[Values]:
    """Returns outputs of several canvases on one, as large as the smallest along each axis, the volume at its origin.

    Args:
        shifts: of each part, the volume's first voxel on its canvas, in the volume's axes.
        across: of each part, how its pictures lie.
    """
    axes = tuple(range(parts[0].ndim - 1))
    turned = [
        jnp.roll(_turned(part, own), [-shift[axis] for axis in axes], axis=axes)
        for part, shift, own in zip(parts, shifts, across, strict=True)
    ]
    sides = tuple(map(min, zip(*(one.shape[:-1] for one in turned), strict=True)))
    return [one[tuple(map(slice, sides))] for one in turned]


def mean_of(parts: Sequence[Values]) -> Values:
    """Returns the mean; all count equally."""
    return sum(parts[1:], start=parts[0]) / len(parts)


def _turned(canvas: Values, across: Axis) -> Values:
    """A canvas in the axes of the volume, whose slices `jaxfuse.data.slices.pictures` sets upright."""
    if across is None:
        return canvas
    return jnp.moveaxis(canvas[:, ::-1, ::-1].swapaxes(1, 2), 0, across)
