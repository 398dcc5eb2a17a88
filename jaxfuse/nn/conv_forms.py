"""A convolution and its two gradients as matrix products, for CPUs.

The taps of the leading `taken` axes are laid side by side in the channels before the product; the product has the taps
of the other axes beside the output channels, and what belongs together is added up after it. With all axes taken,
this is the product over patches; with none, the image is multiplied as it lies. Which number is fastest depends on the
shape: see `conv_rule`. What does not fit the cache is worked through in slabs along the first axis; where several
devices share a batch, each slab is of all examples: of slabs of one after the other each device would need all.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass

import jax
import jax.numpy as jnp

from jaxfuse.arrays import Array

# Measured: slabs of 1 to 8 MB are equally fast, larger ones leave the cache.
SLAB_BYTES = 4 << 20


@dataclass(frozen=True)
class Window:
    """How a kernel lies on an image, each with one number per axis of space.

    Attributes:
        sides: of the image, in voxels.
        size: of the kernel.
        strides: from one voxel of the result to the next.
        padding: zeros on both sides of the image.
    """

    sides: tuple[int, ...]
    size: tuple[int, ...]
    strides: tuple[int, ...]
    padding: tuple[int, ...]

    @property
    def out(self) -> tuple[int, ...]:
        """The sides of the result."""
        axes = zip(self.sides, self.size, self.strides, self.padding, strict=True)
        return tuple((side + 2 * pad - size) // stride + 1 for side, size, stride, pad in axes)

    @property
    def backward(self) -> Window:
        """The window by which the gradient of the image is a convolution of the result's; strides must be 1."""
        padding = tuple(size - 1 - pad for size, pad in zip(self.size, self.padding, strict=True))
        return Window(self.out, self.size, self.strides, padding)


def convolve(x: Array, kernel: Array, window: Window, taken: int, *, shared: bool = False) -> Array:
    """Cross-correlation; strides other than 1 only where all axes are taken."""
    space = len(window.size)
    # (taken taps, channels) by (other taps, features).
    order = (*range(taken), space, *range(taken, space), space + 1)
    rows = math.prod(window.size[:taken]) * kernel.shape[-2]
    matrix = kernel.transpose(order).reshape(rows, -1)
    x = _padded(x, window.padding)

    def of(planes: Array, out: tuple[int, ...]) -> Array:
        beside = _beside(planes, window, range(taken), out)
        return _summed(beside @ matrix, window, range(taken, space), out)

    row_bytes = math.prod(x.shape[2:-1]) * sum(matrix.shape) * x.dtype.itemsize
    slabs = _slabs(window, x.shape[0], row_bytes, shared) if taken else None
    if slabs is None:
        return of(x, window.out)
    empty = jnp.zeros((x.shape[0], *window.out, kernel.shape[-1]), x.dtype)

    def one(number: Array, made: Array) -> Array:
        item, start = slabs.place(number)
        start = jnp.minimum(start, window.out[0] - slabs.planes)
        planes = slabs.planes_of(x, item, start * window.strides[0], slabs.reach)
        part = of(planes, (slabs.planes, *window.out[1:]))
        return jax.lax.dynamic_update_slice(made, part, (item, start, *(0,) * space))

    return jax.lax.fori_loop(0, slabs.count, one, empty)


def input_gradient(y: Array, kernel: Array, window: Window, taken: int, *, shared: bool = False) -> Array:
    """The gradient of the image from that of the result, y; for strides of 1 and padding below the kernel's side."""
    flipped = jnp.flip(kernel, range(len(window.size)))
    return convolve(y, jnp.swapaxes(flipped, -1, -2), window.backward, taken, shared=shared)


def scattered(y: Array, kernel: Array, window: Window) -> Array:
    """The gradient of the image from that of the result, y, where the result is small; for any strides and padding.

    Every voxel of y is multiplied by the whole kernel, which is not turned round for it, and what overlaps is added up.
    """
    space = len(window.size)
    values = y @ kernel.reshape(-1, kernel.shape[-1]).T
    like = jax.ShapeDtypeStruct((y.shape[0], *window.sides, kernel.shape[-2]), y.dtype)
    taps = jax.linear_transpose(lambda x: _beside(_padded(x, window.padding), window, range(space), window.out), like)
    return taps(values)[0]


def kernel_gradient(x: Array, y: Array, window: Window, taken: int, *, shared: bool = False) -> Array:
    """The gradient of the kernel from the image and the result's, y; strides other than 1 only if all are taken."""
    space, channels, features = len(window.size), x.shape[-1], y.shape[-1]
    x = _padded(x, (*window.padding[:taken], *(0,) * (space - taken)))
    y = _padded(y, (*(0,) * taken, *window.backward.padding[taken:])) if taken < space else y
    places = (*window.out[:taken], *window.sides[taken:])

    def of(x_planes: Array, y_planes: Array, places: tuple[int, ...]) -> Array:
        left = _beside(x_planes, window, range(taken), places)
        right = _beside(y_planes, window, range(taken, space), places)
        return left.reshape(-1, left.shape[-1]).T @ right.reshape(-1, right.shape[-1])

    rows, columns = math.prod(window.size[:taken]) * channels, math.prod(window.size[taken:]) * features
    row_bytes = math.prod(places[1:]) * (rows + columns) * x.dtype.itemsize
    slabs = _slabs(window, x.shape[0], row_bytes, shared) if taken else None
    if slabs is None:
        product = of(x, y, places)
    else:
        more = slabs.per_item * slabs.planes - window.out[0]
        y = jnp.pad(y, ((0, 0), (0, more), *((0, 0),) * space))
        x = jnp.pad(x, ((0, 0), (0, more * window.strides[0]), *((0, 0),) * space))

        def one(number: Array, sums: Array) -> Array:
            item, start = slabs.place(number)
            x_planes = slabs.planes_of(x, item, start * window.strides[0], slabs.reach)
            y_planes = slabs.planes_of(y, item, start, slabs.planes)
            out = (slabs.planes, *places[1:])
            if not shared:
                return sums + of(x_planes, y_planes, out)
            # By example, so that devices do not wait for each other in every slab.
            return sums + jax.vmap(lambda x, y: of(x[None], y[None], out))(x_planes, y_planes)

        sums = jnp.zeros(((slabs.items, rows, columns) if shared else (rows, columns)), x.dtype)
        product = jax.lax.fori_loop(0, slabs.count, one, sums)
        product = product.sum(0) if shared else product
    product = product.reshape(*window.size[:taken], channels, *window.size[taken:], features)
    order = (*range(taken), *range(taken + 1, space + 1), taken, space + 1)
    return jnp.flip(product.transpose(order), range(taken, space))


@dataclass(frozen=True)
class _Slabs:
    """Pieces of a batch: `planes` planes of the result of `items` examples, which read `reach` planes of the image."""

    items: int
    planes: int
    reach: int
    per_item: int
    count: int

    def place(self, number: Array) -> tuple[Array, Array]:
        """The first item of a slab and the first plane of its result."""
        return number // self.per_item, number % self.per_item * self.planes

    def planes_of(self, x: Array, item: Array, start: Array, count: int) -> Array:
        """Cuts these planes of the items from `item` on."""
        return jax.lax.dynamic_slice(x, (item, start, *(0,) * (x.ndim - 2)), (self.items, count, *x.shape[2:]))


def _slabs(window: Window, batch: int, plane_bytes: int, shared: bool) -> _Slabs | None:
    """Cuts a batch into slabs that fit the cache; None where all of it does. If shared, each example is cut alike."""
    depth, items = window.out[0], 1
    if shared:
        batch, items = 1, batch
    if batch * depth * plane_bytes <= 2 * SLAB_BYTES:
        return None
    most = max(1, min(depth, SLAB_BYTES // plane_bytes))
    even = max(count for count in range(1, most + 1) if depth % count == 0)
    # Slabs of which one is cut short cost a copy of image and result.
    planes = even if 2 * even >= most else math.ceil(depth / math.ceil(depth / most))
    reach = (planes - 1) * window.strides[0] + window.size[0]
    return _Slabs(items, planes, reach, math.ceil(depth / planes), batch * math.ceil(depth / planes))


def _padded(x: Array, padding: Sequence[int]) -> Array:
    if not any(padding):
        return x
    return jnp.pad(x, ((0, 0), *((pad, pad) for pad in padding), (0, 0)))


def _beside(x: Array, window: Window, axes: Sequence[int], out: Sequence[int]) -> Array:
    """Lays the taps of these axes side by side in the channels, the first axis outermost."""
    for axis in reversed(axes):
        # Laid out apart: fused with what comes before, that would be computed once per tap.
        x = jax.lax.optimization_barrier(x)
        x = jnp.concatenate(_shifts(x, window, axis, out[axis]), axis=-1)
    return jax.lax.optimization_barrier(x) if len(axes) else x


def _summed(z: Array, window: Window, axes: Sequence[int], out: Sequence[int]) -> Array:
    """Adds up the taps of these axes, which lie side by side in the channels."""
    for axis in axes:
        parts = jnp.split(z, window.size[axis], axis=-1)
        z = _sum(lambda tap, axis=axis, parts=parts: _shift(parts[tap], window, axis, tap, out[axis]), len(parts))
    return z


def _sum(part: Callable[[int], Array], count: int) -> Array:
    total = part(0)
    for number in range(1, count):
        total = total + part(number)
    return total


def _shifts(x: Array, window: Window, axis: int, count: int) -> list[Array]:
    return [_shift(x, window, axis, tap, count) for tap in range(window.size[axis])]


def _shift(x: Array, window: Window, axis: int, tap: int, count: int) -> Array:
    stride = window.strides[axis]
    return jax.lax.slice_in_dim(x, tap, tap + (count - 1) * stride + 1, stride, axis=axis + 1)
