"""2D convolution whose output channels read only the input channels of their own group: depthwise, or nearly.

XLA's grouped convolution is slow on CPU. There, it is one sum over the taps of the kernel of the shifted image times
that tap's weights, with the pixels of a row and their channels as one axis. The gradient of the image is the same; that
of the kernel takes its sums over columns first, those of all taps in one pass. Measured at (4 112 112 128), 3x3 taps,
two cores: 6 ms in place of 11 with pixels and channels as two axes, and for the kernel's gradient 11 ms in place of 103
with one sum for each tap. Depthwise, oneDNN does all three where it is installed. An accelerator keeps its own
convolution.
"""

from __future__ import annotations

import operator
from functools import reduce

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
from jax.typing import DTypeLike

from jaxfuse.arrays import Array, Float
from jaxfuse.errors import UserError
from jaxfuse.nn.initializers import KernelInit, normal
from jaxfuse.nn.onednn import convolutions as onednn
from jaxfuse.nn.trilinear import Forms, trilinear

# Height and width of a kernel, and the channels of a group.
Taps = tuple[int, int, int]


def grouped_conv(
    x: Float[Array, "b h w c"], kernel: Float[Array, "kh kw g c"], *, padding: int
) -> Float[Array, "b out_h out_w c"]:
    """Cross-correlation in groups of g neighboring channels, as many out as in; g = 1 is a depthwise convolution.

    Zero-padded by `padding` pixels on all sides. Differentiable in both directions, and to any order; what reverse
    mode keeps is x and the kernel alone. The CPU form adds up in float32 or wider.

    Raises:
        UserError: the channels do not divide into groups of g.
    """
    taps_h, taps_w, group = kernel.shape[:3]
    if x.shape[-1] % group:
        raise UserError(f"{x.shape[-1]} channels do not divide into groups of {group}; change the number of channels")
    return _PRODUCT(x, kernel, taps=(taps_h, taps_w, group), padding=padding)


def _native(x: Array, kernel: Array, *, taps: Taps, padding: int) -> Array:
    return jax.lax.conv_general_dilated(
        x,
        kernel,
        (1, 1),
        [(padding, padding)] * 2,
        dimension_numbers=("NHWC", "HWIO", "NHWC"),
        feature_group_count=x.shape[-1] // taps[2],
    )


def _native_image(y: Array, kernel: Array, *, taps: Taps, padding: int) -> Array:
    sides = (n + t - 1 - 2 * padding for n, t in zip(y.shape[1:3], taps[:2], strict=True))
    image = jax.ShapeDtypeStruct((y.shape[0], *sides, y.shape[-1]), y.dtype)
    return jax.linear_transpose(lambda x: _native(x, kernel, taps=taps, padding=padding), image)(y)[0]


def _native_kernel(x: Array, y: Array, *, taps: Taps, padding: int) -> Array:
    kernel = jax.ShapeDtypeStruct((*taps, x.shape[-1]), x.dtype)
    return jax.linear_transpose(lambda kernel: _native(x, kernel, taps=taps, padding=padding), kernel)(y)[0]


def _shifted(x: Array, kernel: Array, *, taps: Taps, padding: int) -> Array:
    """The sum over taps, each of which is the padded image from another place on times one weight for each channel."""
    height, width = (n + 2 * padding - t + 1 for n, t in zip(x.shape[1:3], taps[:2], strict=True))
    rows, channels = _rows(x, taps, padding), x.shape[-1]
    weights = _by_neighbor(kernel.astype(rows[0].dtype))
    products = []
    for neighbor, row, column in _places(taps):
        band = rows[neighbor][:, row : row + height, column * channels : (column + width) * channels]
        products.append(band * jnp.tile(weights[neighbor, row, column], width))
    return reduce(jnp.add, products).reshape(x.shape[0], height, width, channels).astype(x.dtype)


def _shifted_image(y: Array, kernel: Array, *, taps: Taps, padding: int) -> Array:
    """Multiplies by the kernel turned about; within a group, what was read and what was made change places."""
    group, channels = kernel.shape[2:]
    apart = kernel[::-1, ::-1].reshape(*kernel.shape[:2], group, channels // group, group)
    turned = jnp.swapaxes(apart, 2, 4).reshape(kernel.shape)
    return _shifted(y, turned, taps=taps, padding=taps[0] - 1 - padding)


def _shifted_kernel(x: Array, y: Array, *, taps: Taps, padding: int) -> Array:
    """Sums of the shifted image times y: over columns for all taps together, then over rows and the batch."""
    batch, height, width, channels = y.shape
    rows = _rows(x, taps, padding)
    wide = y.astype(rows[0].dtype).reshape(batch, height, -1)
    products = [
        rows[neighbor][:, row : row + height, column * channels : (column + width) * channels] * wide
        for neighbor, row, column in _places(taps)
    ]
    zeros = [jnp.zeros((), wide.dtype)] * len(products)
    columns = jax.lax.reduce(products, zeros, lambda a, b: list(map(operator.add, a, b)), (1,))
    # Apart, or XLA makes one sum of both, which is slow.
    columns = jax.lax.optimization_barrier(columns)
    sums = jnp.stack([column.reshape(batch * width, channels).sum(0) for column in columns])
    kernel = jax.ShapeDtypeStruct((*taps, channels), wide.dtype)
    sums = sums.reshape(taps[2], *taps[:2], channels)
    return jax.linear_transpose(_by_neighbor, kernel)(sums)[0].astype(x.dtype)


def _by_library(x: Array, kernel: Array, *, taps: Taps, padding: int) -> Array:
    if not _serves(x, taps):
        return _shifted(x, kernel, taps=taps, padding=padding)
    sides = (n + 2 * padding - t + 1 for n, t in zip(x.shape[1:3], taps[:2], strict=True))
    return onednn.result(x, kernel, (x.shape[0], *sides, x.shape[-1]), **_place(padding, x))


def _by_library_image(y: Array, kernel: Array, *, taps: Taps, padding: int) -> Array:
    if not _serves(y, taps):
        return _shifted_image(y, kernel, taps=taps, padding=padding)
    sides = (n + t - 1 - 2 * padding for n, t in zip(y.shape[1:3], taps[:2], strict=True))
    return onednn.image(y, kernel, (y.shape[0], *sides, y.shape[-1]), **_place(padding, y))


def _by_library_kernel(x: Array, y: Array, *, taps: Taps, padding: int) -> Array:
    if not _serves(x, taps):
        return _shifted_kernel(x, y, taps=taps, padding=padding)
    return onednn.kernel(x, y, (*taps, x.shape[-1]), **_place(padding, x))


def _serves(array: Array, taps: Taps) -> bool:
    return array.dtype == np.float32 and taps[2] == 1 and onednn.available()


def _place(padding: int, array: Array) -> dict[str, tuple[int, ...]]:
    return {"strides": (1, 1), "padding": (padding, padding), "groups": (array.shape[-1],)}


def _rows(x: Array, taps: Taps, padding: int) -> list[Array]:
    """The padded image (b h (w c)) in float32 or wider, of the own channel and of each further one of its group."""
    padded = jnp.pad(x, ((0, 0), (padding, padding), (padding, padding), (0, 0)))
    padded = padded.astype(jnp.promote_types(x.dtype, jnp.float32))
    # Written out: read in place, a pixel would be compared with the borders once per tap.
    shifted = [jax.lax.optimization_barrier(_neighbors(padded, taps[2], step)) for step in range(taps[2])]
    return [one.reshape(*one.shape[:2], -1) for one in shifted]


def _places(taps: Taps) -> list[tuple[int, int, int]]:
    """(neighbor, row, column) of every weight that a channel has."""
    return [(n, row, column) for n in range(taps[2]) for row in range(taps[0]) for column in range(taps[1])]


def _neighbors(x: Array, group: int, step: int) -> Array:
    """Each channel replaced by the one `step` places on in its group, cyclically."""
    if step == 0:
        return x
    return jnp.roll(x.reshape(*x.shape[:-1], -1, group), -step, axis=-1).reshape(x.shape)


def _by_neighbor(kernel: Array) -> Array:
    """(group kh kw c): the weights with which each channel takes its neighbors of `_neighbors`."""
    *taps, group, channels = kernel.shape
    apart = kernel.reshape(*taps, group, channels // group, group)
    steps = [
        jnp.stack([apart[:, :, (place + step) % group, :, place] for place in range(group)], axis=-1)
        for step in range(group)
    ]
    return jnp.stack([one.reshape(*taps, channels) for one in steps])


_PRODUCT = trilinear(
    "grouped_convolution",
    ("taps", "padding"),
    Forms(_shifted, _native, alone=_by_library),
    Forms(_shifted_image, _native_image, alone=_by_library_image),
    Forms(_shifted_kernel, _native_kernel, alone=_by_library_kernel),
)


class GroupedConv(nn.Module):
    """`grouped_conv` with its kernel (side side group channels), without bias.

    Attributes:
        kernel_size: side of the square kernel in pixels.
        group: channels per group; 1 is depthwise.
        padding: zeros on all sides; None is kernel_size // 2.
        dtype: computes in it; None is float32, or the input's dtype if that is wider. The kernel stays float32.
    """

    kernel_size: int = 3
    group: int = 1
    padding: int | None = None
    kernel_init: KernelInit = normal()
    dtype: DTypeLike | None = None

    @nn.compact
    def __call__(self, x: Float[Array, "b h w c"]) -> Float[Array, "b out_h out_w c"]:
        shape = (self.kernel_size, self.kernel_size, self.group, x.shape[-1])
        kernel = self.param("kernel", self.kernel_init, shape, jnp.float32)
        dtype = self.dtype or jnp.result_type(x, kernel)
        padding = self.kernel_size // 2 if self.padding is None else self.padding
        return grouped_conv(x.astype(dtype), kernel.astype(dtype), padding=padding)
