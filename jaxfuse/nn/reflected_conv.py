"""Convolution of maps that are reflected beyond their edge, so that no frame of zeros is seen."""

from __future__ import annotations

import flax.linen as nn
import jax.numpy as jnp
from jax.typing import DTypeLike

from jaxfuse.arrays import Array, Float
from jaxfuse.nn.conv import Conv
from jaxfuse.nn.initializers import KernelInit, normal


class ReflectedConv(nn.Module):
    """Convolution with bias, in 2D or 3D, of a map reflected beyond its edge; with strides of 1 it keeps the sides.

    The edge itself is not repeated, so sides are longer than half the kernel. Parameters lie under "conv".
    """

    features: int
    kernel_size: int
    strides: int = 1
    kernel_init: KernelInit = normal()
    dtype: DTypeLike | None = None

    @nn.compact
    def __call__(self, x: Float[Array, "b *space m"]) -> Float[Array, "b *out k"]:
        edge = self.kernel_size // 2
        if edge:
            x = jnp.pad(x, ((0, 0), *((edge, edge),) * (x.ndim - 2), (0, 0)), mode="reflect")
        common = {"kernel_init": self.kernel_init, "dtype": self.dtype}
        return Conv(self.features, self.kernel_size, self.strides, 0, **common, name="conv")(x)
