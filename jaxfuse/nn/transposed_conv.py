"""Transposed convolution of stride 2 that doubles the sides of a map, in 2D.

XLA's own form is a convolution of the map spread out by zeros. The gradient of that is slow on CPU, so there the
pixels are multiplied by the kernel as one matrix product and what overlaps is added up: a step forward and back takes
a tenth of the time and less (measured on two cores, sides 16 to 64, 128 to 512 channels: 9 to 70 ms in place of 350 to
1600). On a GPU XLA finds no kernel for the gradient of the own form with respect to its kernel, and convolves with the
whole map as a filter (https://github.com/jax-ml/jax/issues/31662). There the four pixels that stem from one place are
channels of one plain convolution, as many products in all, and are laid apart afterwards; forward mode and every
order of differentiation stay. The choice falls when a program is lowered, so one exported program holds both.
"""

from __future__ import annotations

import flax.linen as nn
import jax
import jax.numpy as jnp
from jax.typing import DTypeLike

from jaxfuse.arrays import Array, Float
from jaxfuse.errors import UserError
from jaxfuse.nn.channel_weights import over_map
from jaxfuse.nn.conv import conv
from jaxfuse.nn.initializers import KernelInit, normal

SIDES = (3, 4)


def transposed_conv(
    x: Float[Array, "b h w m"], kernel: Float[Array, "side side m k"]
) -> Float[Array, "b double_h double_w k"]:
    """Pixel i of x adds x[i] @ kernel[s] to pixel 2i - 1 + s of the result, along both axes; the rest falls away.

    The gradient of a convolution of stride 2 and padding 1. In the terms of other libraries: stride 2, padding 1, and
    for kernels of side 3 one pixel of output padding.

    Raises:
        UserError: the kernel has another side than 3 or 4.
    """
    if kernel.shape[0] not in SIDES:
        raise UserError(f"a transposed convolution doubles by kernels of side 3 or 4, got {kernel.shape[:2]}")
    # Without it reverse mode would keep the residuals of both platforms' forms.
    return jax.checkpoint(_by_platform, prevent_cse=False)(x, kernel)


def _by_platform(x: Array, kernel: Array) -> Array:
    return jax.lax.platform_dependent(x, kernel, cpu=_overlapped, default=_interleaved)


def _interleaved(x: Array, kernel: Array) -> Array:
    """One convolution by a kernel of side 2, whose channels are the four parities of the result."""
    batch, height, width, channels = x.shape
    side, features = kernel.shape[0], kernel.shape[-1]
    kernel = jnp.pad(kernel, ((0, 4 - side),) * 2 + ((0, 0),) * 2)[::-1, ::-1]
    # Place 3 - s of the kernel is 2 tap + parity: pixel i of even parity reads i - 1 and i, of odd parity i and i + 1.
    taps = kernel.reshape(2, 2, 2, 2, channels, features).transpose(0, 2, 4, 1, 3, 5)
    # Padded apart: XLA swaps image and filter of a kernel's gradient where the image is the smaller one.
    padded = jax.lax.optimization_barrier(jnp.pad(x, ((0, 0), (1, 1), (1, 1), (0, 0))))
    out = conv(padded, taps.reshape(2, 2, channels, 4 * features), strides=1, padding=0)
    out = out.reshape(batch, height + 1, width + 1, 2, 2, features)
    rows = jnp.stack([out[:, :-1, :, 0], out[:, 1:, :, 1]], axis=2)
    both = jnp.stack([rows[:, :, :, :-1, 0], rows[:, :, :, 1:, 1]], axis=4)
    return both.reshape(batch, 2 * height, 2 * width, features)


def _overlapped(x: Array, kernel: Array) -> Array:
    """Every pixel's 4x4 values from one matrix product, added up where they overlap."""
    batch, height, width, _ = x.shape
    side, features = kernel.shape[0], kernel.shape[-1]
    values = jnp.einsum("bhwm,stmk->bhwstk", x, kernel)
    values = jnp.pad(values, ((0, 0),) * 3 + ((0, 4 - side),) * 2 + ((0, 0),))
    # Along either axis place s is 2a + p: parity p of the pixel pair i + a.
    values = values.reshape(batch, height, width, 2, 2, 2, 2, features)
    rows = _overlap(values[:, :, :, 0], values[:, :, :, 1], axis=1)
    rows = jnp.moveaxis(rows, 3, 2).reshape(batch, 2 * height + 2, width, 2, 2, features)[:, 1:-1]
    columns = _overlap(rows[:, :, :, 0], rows[:, :, :, 1], axis=2)
    return columns.reshape(batch, 2 * height, 2 * width + 2, features)[:, :, 1:-1]


def _overlap(first: Array, second: Array, axis: int) -> Array:
    """Their sum, the second moved on by one along the axis, which grows by one."""

    def padded(values: Array, before: int) -> Array:
        edges = [(before, 1 - before) if i == axis else (0, 0) for i in range(values.ndim)]
        return jnp.pad(values, edges)

    return padded(first, 0) + padded(second, 1)


class TransposedConv(nn.Module):
    """`transposed_conv` with a kernel of side 3 or 4 and, unless `use_bias` is False, a bias that starts at zero.

    `dtype` is what it computes in; None is float32, or the input's dtype if that is wider. Parameters stay float32.
    """

    features: int
    kernel_size: int
    use_bias: bool = True
    kernel_init: KernelInit = normal()
    dtype: DTypeLike | None = None

    @nn.compact
    def __call__(self, x: Float[Array, "b h w m"]) -> Float[Array, "b double_h double_w k"]:
        shape = (self.kernel_size, self.kernel_size, x.shape[-1], self.features)
        kernel = self.param("kernel", self.kernel_init, shape, jnp.float32)
        dtype = self.dtype or jnp.result_type(x, kernel)
        y = transposed_conv(x.astype(dtype), kernel.astype(dtype))
        if not self.use_bias:
            return y
        bias = self.param("bias", nn.initializers.zeros_init(), (self.features,), jnp.float32)
        return y + over_map(bias, y)
