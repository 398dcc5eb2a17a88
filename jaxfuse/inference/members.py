"""Outputs of several networks for one volume, summed where they lie on the device, one after the other."""

from __future__ import annotations

from typing import Any

import jax.numpy as jnp
from jaxtyping import Float

from jaxfuse.arrays import Array

Values = Float[Array, "... k"]
# A volume's array axis across which the pictures of a canvas lie; None where it is no stack of pictures.
Axis = int | None


def upright(part: Values, shift: Any, across: Axis) -> Values:
    """Returns the output of a canvas in the axes of the volume, which begins at its origin.

    Args:
        shift: the volume's first voxel on the canvas, in the volume's axes; None where it is the origin.
        across: how the pictures of the canvas lie.
    """
    turned = _turned(part, across)
    if shift is None:
        return turned
    axes = tuple(range(part.ndim - 1))
    return jnp.roll(turned, [-shift[axis] for axis in axes], axis=axes)


def added(total: Values, part: Values) -> Values:
    """Returns the sum of two, as large as the smaller one along each axis."""
    sides = tuple(slice(min(pair)) for pair in zip(total.shape[:-1], part.shape[:-1], strict=True))
    return total[sides] + part[sides]


def _turned(canvas: Values, across: Axis) -> Values:
    """A canvas in the axes of the volume, whose slices `jaxfuse.data.slices.pictures` sets upright."""
    if across is None:
        return canvas
    return jnp.moveaxis(canvas[:, ::-1, ::-1].swapaxes(1, 2), 0, across)
