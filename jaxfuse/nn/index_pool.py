"""Max-pooling over windows of 2x2 pixels that remembers where the maxima lay, and unpooling to those places.

Source: SegNet (Badrinarayanan et al., 2017), as the encoders of InfiNet (2018) use it. Written with comparisons and
selections alone: the gradient of a window reduction is select-and-scatter, slow on CPU and refused by deterministic
GPU programs.
"""

from __future__ import annotations

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Bool

from jaxfuse.arrays import Array, Float, Int
from jaxfuse.errors import UserError

TIES = ("first", "all")
# The pixels of a window, row by row; bit p of an index stands for pixel p.
_PLACES = ((0, 0), (0, 1), (1, 0), (1, 1))
_BITS = np.array([[1, 2], [4, 8]], np.int8)

Map = Float[Array, "b h w c"]
Pooled = Float[Array, "b half_h half_w c"]
Index = Int[Array, "b half_h half_w c"]


def max_pool_with_index(x: Map, *, ties: str = "first") -> tuple[Pooled, Index]:
    """Maxima over windows of 2x2 pixels, and where they lay.

    The gradient of a maximum goes to the first pixel that has it, row by row, whatever `ties` says. A window with a
    NaN gives NaN.

    Args:
        ties: where equal pixels are the maximum, "first" marks the first of them, row by row, and "all" marks each
            (a comparison of the map with its repeated maxima, as InfiNet's public code has it).

    Returns:
        (maxima, index): bit p of the index, an int8, is set where pixel p of the window is marked.

    Raises:
        UserError: a side of the map is odd, or `ties` has none of its values.
    """
    if ties not in TIES:
        raise UserError(f"ties is {ties!r}; choose one of {', '.join(TIES)}")
    batch, height, width, channels = x.shape
    if height % 2 or width % 2:
        raise UserError(f"pooling by windows of 2x2 needs even sides, got shape {x.shape}; pad or crop the image")
    windows = x.reshape(batch, height // 2, 2, width // 2, 2, channels)
    pixels = [jax.lax.stop_gradient(windows[:, :, row, :, column]) for row, column in _PLACES]
    top = pixels[0]
    first = jnp.ones(top.shape, jnp.int8)
    for place, pixel in enumerate(pixels[1:], start=1):
        higher = (pixel > top) | jnp.isnan(pixel)
        top = jnp.where(higher, pixel, top)
        first = jnp.where(higher, jnp.int8(1 << place), first)
    # A sum of one value and three zeros: its gradient is a selection, the unpooling of `first`.
    maxima = jnp.where(_marked(first), windows, jnp.zeros((), x.dtype)).sum((2, 4))
    if ties == "first":
        return maxima, first
    marks = [jnp.where(pixel >= top, jnp.int8(1 << place), jnp.int8(0)) for place, pixel in enumerate(pixels)]
    return maxima, marks[0] | marks[1] | marks[2] | marks[3]


def max_pool(x: Map) -> Pooled:
    """The maxima of `max_pool_with_index` alone."""
    return max_pool_with_index(x)[0]


def unpool(y: Pooled, index: Index) -> Map:
    """Each value at the marked places of its window of 2x2 pixels, zeros elsewhere.

    Its gradient is the sum over the marked places; none goes through the index.
    """
    batch, height, width, channels = y.shape
    spread = jnp.where(_marked(index), y[:, :, None, :, None, :], jnp.zeros((), y.dtype))
    return spread.reshape(batch, 2 * height, 2 * width, channels)


def _marked(index: Index) -> Bool[Array, "b half_h 2 half_w 2 c"]:
    """Whether a pixel's bit is set, by window and by row and column within it."""
    return (index[:, :, None, :, None, :] & _BITS[None, None, :, None, :, None]) != 0
