"""2D convolution whose output channels read only the input channels of their own group: depthwise, or nearly.

XLA's grouped convolution is slow on CPU. There, it is written as one product per tap of the kernel between the shifted
image and that tap's weights, summed. Measured with 3x3 taps, forward and backward together, on two cores: 13.8 ms to
0.7 ms at (1 64 64 64), 5.9 ms to 0.4 ms at (2 64 64 16), 44 ms to 2 ms at (1 64 64 192); in groups of two channels at
(1 64 64 128), 1760 ms to 3 ms. It takes up to twice as long to compile. The choice falls when a program is lowered, so
an accelerator keeps its own convolution.
"""

from __future__ import annotations

import flax.linen as nn
import jax
import jax.numpy as jnp
from jax.typing import DTypeLike

from jaxfuse.arrays import Array, Float
from jaxfuse.errors import UserError
from jaxfuse.nn.initializers import KernelInit, normal


def grouped_conv(
    x: Float[Array, "b h w c"], kernel: Float[Array, "kh kw g c"], *, padding: int
) -> Float[Array, "b out_h out_w c"]:
    """Cross-correlation in groups of g neighboring channels, as many out as in; g = 1 is a depthwise convolution.

    Zero-padded by `padding` pixels on all sides. Differentiable in both directions, and to any order; what reverse
    mode keeps is x and the kernel alone. The CPU form adds up in float32 or wider.

    Raises:
        UserError: the channels do not divide into groups of g.
    """
    group = kernel.shape[2]
    if x.shape[-1] % group:
        raise UserError(f"{x.shape[-1]} channels do not divide into groups of {group}; change the number of channels")

    def native(x: Array, kernel: Array) -> Array:
        return _native(x, kernel, padding)

    def shifted(x: Array, kernel: Array) -> Array:
        return _shifted(x, kernel, padding)

    def by_platform(x: Array, kernel: Array) -> Array:
        return jax.lax.platform_dependent(x, kernel, cpu=shifted, default=native)

    # Without it reverse mode would keep the residuals of both forms: x, and x once per tap.
    return jax.checkpoint(by_platform, prevent_cse=False)(x, kernel)


def _native(x: Array, kernel: Array, padding: int) -> Array:
    return jax.lax.conv_general_dilated(
        x,
        kernel,
        (1, 1),
        [(padding, padding)] * 2,
        dimension_numbers=("NHWC", "HWIO", "NHWC"),
        feature_group_count=x.shape[-1] // kernel.shape[2],
    )


def _shifted(x: Array, kernel: Array, padding: int) -> Array:
    """Whole columns of products first, each of which is then shifted sideways once: fewer slices to differentiate."""
    taps_h, taps_w, group, channels = kernel.shape
    wide = jnp.promote_types(x.dtype, jnp.float32)
    padded = jnp.pad(x, ((0, 0), (padding, padding), (padding, padding), (0, 0))).astype(wide)
    height, width = (n - taps + 1 for n, taps in zip(padded.shape[1:3], (taps_h, taps_w), strict=True))
    columns: list[Array | None] = [None] * taps_w
    for neighbor in range(group):
        source = _neighbors(padded, group, neighbor)
        weights = _neighbor_weights(kernel.astype(wide), neighbor).reshape(-1, channels)
        # A split, because its gradient is one concatenation.
        taps = jax.lax.split(weights, [1] * (taps_h * taps_w))
        for row in range(taps_h):
            band = source[:, row : row + height]
            for column in range(taps_w):
                product = band * jax.lax.broadcast_to_rank(taps[row * taps_w + column], band.ndim)
                so_far = columns[column]
                columns[column] = product if so_far is None else so_far + product
    out = [total[:, :, column : column + width] for column, total in enumerate(columns) if total is not None]
    return sum(out[1:], out[0]).astype(x.dtype)


def _neighbors(x: Array, group: int, step: int) -> Array:
    """Each channel replaced by the one `step` places on in its group, cyclically."""
    if step == 0:
        return x
    return jnp.roll(x.reshape(*x.shape[:-1], -1, group), -step, axis=-1).reshape(x.shape)


def _neighbor_weights(kernel: Array, step: int) -> Array:
    """(taps taps channels): the weight with which each channel takes its neighbor of `_neighbors`."""
    *taps, group, channels = kernel.shape
    if group == 1:
        return kernel[:, :, 0]
    apart = kernel.reshape(*taps, group, channels // group, group)
    own = [apart[:, :, (place + step) % group, :, place] for place in range(group)]
    return jnp.stack(own, axis=-1).reshape(*taps, channels)


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
