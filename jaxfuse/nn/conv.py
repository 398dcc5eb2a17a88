"""Convolution, instance normalization and the block of the two with LeakyReLU, in 2D and 3D.

Images are channels-last, (b h w m) or (b d h w m), and padding is explicit, the same on both sides: XLA's "SAME"
pads a strided convolution unevenly.

On CPU a convolution and each of its gradients are oneDNN's where that is installed (`nn.onednn`), and else take the
form that is fastest for their shape (`conv_rule`): XLA's 3D convolution is slow there, above all the gradient of a
strided one with respect to its input (measured: 60 to 280 times the time of the form that replaces it). The choice
falls when a program is lowered, so one exported program holds both and an accelerator keeps its own convolution.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from contextvars import ContextVar

import flax.linen as nn
import jax
import jax.numpy as jnp
from jax.typing import DTypeLike

from jaxfuse.arrays import Array, Float
from jaxfuse.errors import UserError
from jaxfuse.nn.channel_weights import over_map
from jaxfuse.nn.conv_forms import Window
from jaxfuse.nn.conv_primitive import FORMS, convolve
from jaxfuse.nn.conv_rule import native
from jaxfuse.nn.initializers import KernelInit, normal
from jaxfuse.nn.moments import moments, per_deviation

_implementation: ContextVar[str] = ContextVar("convolution implementation", default="auto")


@contextmanager
def implementation(name: str) -> Iterator[None]:
    """Within the block, every convolution that is traced uses one form.

    "auto" is on CPU oneDNN's where that is installed, else "products": matrix products, by shape. Elsewhere both are
    native. "native" is XLA's own convolution, "folded" makes a 3D one a 2D one whatever its shape. "partitioned" is for
    images that devices share along the first axis of space: a form that XLA divides so, with an exchange of what lies
    at the borders. A function compiled before the block keeps the form it was traced with.
    """
    if name not in FORMS:
        raise UserError(f"convolution implementation {name!r} is not known; choose one of {', '.join(FORMS)}")
    token = _implementation.set(name)
    try:
        yield
    finally:
        _implementation.reset(token)


def conv(
    x: Float[Array, "b *space m"],
    kernel: Float[Array, "*kernel m k"],
    *,
    strides: int | Sequence[int],
    padding: int | Sequence[int],
) -> Float[Array, "b *out k"]:
    """Cross-correlation of x with a kernel, zero-padded by `padding` voxels on both sides of each axis.

    An axis of n voxels leaves (n + 2 padding - kernel) // strides + 1. Differentiable in both directions, and to any
    order; what reverse mode keeps is x and the kernel alone.

    Raises:
        UserError: x is neither 2D nor 3D, or an axis of the output would be empty.
    """
    if x.ndim not in (4, 5):
        raise UserError(f"an image must be (b h w m) or (b d h w m), got shape {x.shape}; add or drop an axis")
    stride = _per_axis(strides, x.ndim - 2)
    pad = _per_axis(padding, x.ndim - 2)
    size = kernel.shape[:-2]
    window = Window(x.shape[1:-1], size, stride, pad)
    if min(window.out) < 1:
        raise UserError(
            f"a convolution with kernel {size}, strides {stride} and padding {pad} leaves nothing of an image "
            f"of {x.shape[1:-1]} voxels; use a larger image or fewer layers"
        )
    if max(size) == 1 and max(pad) == 0:
        return _matrix_product(x, kernel, window)
    return convolve(x, kernel, window, _implementation.get())


def _matrix_product(x: Array, kernel: Array, window: Window) -> Array:
    """A convolution by a kernel of one voxel.

    With strides the CPU multiplies the voxels that are left; other devices convolve, as XLA stops the process where a
    matrix product for a GPU reads a strided slice (https://github.com/openxla/xla/issues/47381).
    """

    def sliced(x: Array, kernel: Array) -> Array:
        return _pixel_by_pixel(x[(slice(None), *(slice(None, None, s) for s in window.strides))], kernel)

    def strided(x: Array, kernel: Array) -> Array:
        return native(x, kernel, window)

    def by_platform(x: Array, kernel: Array) -> Array:
        return jax.lax.platform_dependent(x, kernel, cpu=sliced, default=strided)

    if _implementation.get() == "partitioned":
        # Voxels as rows of one matrix would be gathered for it.
        return native(x, kernel, window) if max(window.strides) > 1 else x @ kernel.reshape(kernel.shape[-2:])
    if max(window.strides) == 1:
        return _pixel_by_pixel(x, kernel)
    return jax.checkpoint(by_platform, prevent_cse=False)(x, kernel)


def _pixel_by_pixel(x: Array, kernel: Array) -> Array:
    """One matrix product of all voxels, as rows: the gradient of the kernel takes them as they lie, too."""
    flat = x.reshape(-1, x.shape[-1]) @ kernel.reshape(kernel.shape[-2:])
    return flat.reshape(*x.shape[:-1], -1)


def _per_axis(value: int | Sequence[int], ndim: int) -> tuple[int, ...]:
    axes = (value,) * ndim if isinstance(value, int) else tuple(value)
    if len(axes) != ndim:
        raise UserError(f"a {ndim}D convolution takes one number or {ndim}, one per axis, got {axes}")
    return axes


class Conv(nn.Module):
    """Convolution with a cubic (or square) kernel; its rank follows the input.

    Attributes:
        features: output channels.
        kernel_size: side of the kernel in voxels.
        strides: the same along every axis.
        padding: zeros on both sides of each axis; None is kernel_size // 2.
        use_bias: adds one number per output channel, zero at first.
        kernel_init: (key, shape, dtype) -> kernel.
        dtype: computes in it; None is float32, or the input's dtype if that is wider. Parameters stay float32.
    """

    features: int
    kernel_size: int
    strides: int = 1
    padding: int | None = None
    use_bias: bool = True
    kernel_init: KernelInit = normal()
    dtype: DTypeLike | None = None

    @nn.compact
    def __call__(self, x: Float[Array, "b *space m"]) -> Float[Array, "b *out k"]:
        shape = (self.kernel_size,) * (x.ndim - 2) + (x.shape[-1], self.features)
        kernel = self.param("kernel", self.kernel_init, shape, jnp.float32)
        dtype = self.dtype or jnp.result_type(x, kernel)
        padding = self.kernel_size // 2 if self.padding is None else self.padding
        y = conv(x.astype(dtype), kernel.astype(dtype), strides=self.strides, padding=padding)
        if not self.use_bias:
            return y
        bias = self.param("bias", nn.initializers.zeros_init(), (self.features,), jnp.float32)
        return y + over_map(bias, y)


def instance_norm(x: Float[Array, "b *space m"], eps: float = 1e-5) -> Float[Array, "b *space m"]:
    """Each channel of each sample to mean 0 and biased variance 1 over its voxels; no scale, no shift.

    Statistics are float32 whatever the dtype of x, which is also the dtype of the result. A constant channel
    becomes 0, and no gradient flows through it.

    Raises:
        UserError: there is one voxel only, so that every result would be 0.
    """
    axes = tuple(range(1, x.ndim - 1))
    if max(x.shape[1:-1]) == 1:
        raise UserError(
            f"instance normalization over a single voxel (shape {x.shape}) erases its input; "
            "use larger patches or a network with fewer levels"
        )
    mean, variance = moments(x, axes)
    return ((x - mean) * per_deviation(mean, variance, eps)).astype(x.dtype)


class ConvNormAct(nn.Module):
    """Convolution without bias (the mean is removed anyway), instance normalization, LeakyReLU(slope)."""

    features: int
    kernel_size: int
    strides: int = 1
    padding: int | None = None
    slope: float = 0.01
    kernel_init: KernelInit = normal()
    dtype: DTypeLike | None = None

    @nn.compact
    def __call__(self, x: Float[Array, "b *space m"]) -> Float[Array, "b *out k"]:
        y = Conv(
            self.features,
            self.kernel_size,
            self.strides,
            self.padding,
            use_bias=False,
            kernel_init=self.kernel_init,
            dtype=self.dtype,
            name="conv",
        )(x)
        return nn.leaky_relu(instance_norm(y), self.slope)
