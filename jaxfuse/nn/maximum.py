"""Maxima over axes whose gradient is a selection, never a quotient.

The derivative that JAX has for a maximum looks for elements that equal it and divides by how many there are. A compiler
may make the elements anew beside that comparison, with another rounding; then none equals the maximum, and 0 / 0 is no
number. Here the place of the maximum is looked up once and kept.
"""

from __future__ import annotations

import jax
import jax.numpy as jnp

from jaxfuse.arrays import Array, Float


def largest(x: Float[Array, "*sides"], axes: int | tuple[int, ...], *, keepdims: bool = False) -> Float[Array, "*left"]:
    """The maxima of x over axes; a NaN among the elements gives NaN.

    The gradient goes to the first element, row by row, that is the maximum, at every order of differentiation. Axis
    after axis, so that nothing is transposed.

    Args:
        x: of at least one element along each axis.
        axes: one or several, counted from the end where negative.
        keepdims: whether they stay, with one element each.
    """
    axes = tuple(axis % x.ndim for axis in ((axes,) if isinstance(axes, int) else axes))
    for axis in sorted(axes, reverse=True):
        place = jnp.argmax(jax.lax.stop_gradient(x), axis, keepdims=True)
        here = jax.lax.broadcasted_iota(place.dtype, x.shape, axis) == place
        x = jnp.where(here, x, jnp.zeros((), x.dtype)).sum(axis, keepdims=True)
    return x if keepdims else x.squeeze(axes)
