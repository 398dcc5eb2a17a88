"""Forms that a convolution and its two gradients take on CPU, by shape, and XLA's own forms of the three.

XLA's 3D convolution is slow on CPU. There, the plain form lays the taps of the kernel along depth side by side in the
channels, and depth joins the batch: one 2D convolution remains. The other forms are the matrix products of
`conv_forms`, of which `conv_rule` names the number of axes whose taps are laid aside. Each rule is simple and holds for
every shape; where the forms were measured, it takes the fastest or one within a tenth of it, but for what
`experiments/throughput/convolutions.md` says. `shared`: several devices share the batch.
"""

from __future__ import annotations

from collections.abc import Callable

import jax
import jax.numpy as jnp

from jaxfuse.arrays import Array
from jaxfuse.nn import conv_forms
from jaxfuse.nn.conv_forms import Window

_DIMENSION_NUMBERS = {4: ("NHWC", "HWIO", "NHWC"), 5: ("NDHWC", "DHWIO", "NDHWC")}

# Maps of so many voxels along every axis are one matrix product over patches: XLA swaps image and kernel where the
# kernel is the larger, and patches are few.
_TINY = 4

Form = Callable[[Array, Array, Window], Array]


def taken_forward(window: Window, channels: int, features: int) -> int | None:
    """Returns the number of axes whose taps are laid aside in a convolution; None is the plain form."""
    space = len(window.size)
    if max(window.out) <= _TINY:
        return space
    return 1 if space == 3 and max(window.strides) == 1 else None


def taken_backward(window: Window, channels: int, features: int) -> int | None:
    """Returns the same number for the gradient of the image, which has `channels`; all of them, and it is scattered."""
    space = len(window.size)
    if max(window.out) <= _TINY:
        return space
    if max(window.strides) > 1 or min(window.backward.padding) < 0:
        return None
    return 1 if space == 3 and max(window.padding) > 0 and channels <= 64 else None


def taken_in_kernel(window: Window, channels: int, features: int) -> int | None:
    """Returns the same number for the gradient of the kernel."""
    space = len(window.size)
    if max(window.strides) > 1 or min(window.backward.padding) < 0:
        return space if max(window.out) <= _TINY else None
    if space == 2:
        return 1 if min(channels, features) >= 64 else None
    return 1 if max(window.padding) == 0 or channels * features >= 2048 else None


def convolve(x: Array, kernel: Array, window: Window, *, shared: bool = False) -> Array:
    """Cross-correlation in the form of the rule."""
    taken = taken_forward(window, *kernel.shape[-2:])
    if taken is None or x.dtype != jnp.float32:
        return plain(x, kernel, window)
    return conv_forms.convolve(x, kernel, window, taken, shared=shared)


def input_gradient(y: Array, kernel: Array, window: Window, *, shared: bool = False) -> Array:
    """The gradient of the image from the result's, y, in the form of the rule."""
    taken = taken_backward(window, *kernel.shape[-2:])
    if taken is None or y.dtype != jnp.float32:
        return transposed_in_image(plain, y, kernel, window)
    if taken == len(window.size):
        return conv_forms.scattered(y, kernel, window)
    return conv_forms.input_gradient(y, kernel, window, taken, shared=shared)


def kernel_gradient(x: Array, y: Array, window: Window, *, shared: bool = False) -> Array:
    """The gradient of the kernel from the image and the result's, y, in the form of the rule."""
    taken = taken_in_kernel(window, x.shape[-1], y.shape[-1])
    if taken is None or x.dtype != jnp.float32:
        return transposed_in_kernel(plain, x, y, window)
    return conv_forms.kernel_gradient(x, y, window, taken, shared=shared)


def native(x: Array, kernel: Array, window: Window) -> Array:
    """XLA's own convolution."""
    padding = [(pad, pad) for pad in window.padding]
    numbers = _DIMENSION_NUMBERS[x.ndim]
    return jax.lax.conv_general_dilated(x, kernel, window.strides, padding, dimension_numbers=numbers)


def plain(x: Array, kernel: Array, window: Window) -> Array:
    """The form that serves every shape on CPU: one 2D convolution."""
    return _folded(x, kernel, window) if x.ndim == 5 else native(x, kernel, window)


def transposed_in_image(form: Form, y: Array, kernel: Array, window: Window) -> Array:
    """The gradient of the image as JAX derives it from a form."""
    like = jax.ShapeDtypeStruct((y.shape[0], *window.sides, kernel.shape[-2]), y.dtype)
    (x,) = jax.linear_transpose(lambda x: form(x, kernel, window), like)(y)
    return x


def transposed_in_kernel(form: Form, x: Array, y: Array, window: Window) -> Array:
    """The gradient of the kernel as JAX derives it from a form."""
    like = jax.ShapeDtypeStruct((*window.size, x.shape[-1], y.shape[-1]), x.dtype)
    (kernel,) = jax.linear_transpose(lambda kernel: form(x, kernel, window), like)(y)
    return kernel


def _folded(x: Array, kernel: Array, window: Window) -> Array:
    """conv3d as one conv2d over (b depth) with (taps m) channels."""
    depth, stride, edge = window.out[0], window.strides[0], window.padding[0]
    padded = jnp.pad(x, ((0, 0), (edge, edge), (0, 0), (0, 0), (0, 0)))
    reach = (depth - 1) * stride + 1
    shifts = [jax.lax.slice_in_dim(padded, tap, tap + reach, stride, axis=1) for tap in range(window.size[0])]
    planes = jnp.concatenate(shifts, axis=-1)
    # (d h w m k) -> (h w (d m) k), in the order in which the planes were concatenated.
    flat_kernel = jnp.moveaxis(kernel, 0, 2).reshape(*kernel.shape[1:3], -1, kernel.shape[-1])
    in_plane = Window(window.sides[1:], window.size[1:], window.strides[1:], window.padding[1:])
    out = _in_plane(planes.reshape(-1, *planes.shape[2:]), flat_kernel, in_plane)
    return out.reshape(x.shape[0], depth, *out.shape[1:])


def _in_plane(x: Array, kernel: Array, window: Window) -> Array:
    """A 2D convolution; a valid one by way of one that keeps the sides, which XLA computes faster on CPU.

    Measured on two cores, kernel 3, sides 11 to 25, 12 to 400 channels: forward 3 to 8 times, with both gradients 1.4
    to 3.5 times.
    """
    edge = tuple(side // 2 for side in window.size)
    if max(window.padding) or max(window.strides) > 1 or not all(side % 2 for side in window.size) or not max(edge):
        return native(x, kernel, window)
    out = native(x, kernel, Window(window.sides, window.size, window.strides, edge))
    return out[:, edge[0] : out.shape[1] - edge[0], edge[1] : out.shape[2] - edge[1]]
