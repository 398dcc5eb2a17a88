"""Convolutional block attention: a gate per channel, then a gate per voxel.

Source: "CBAM: Convolutional Block Attention Module" (Woo et al., 2018), sections 3 and 3.1, in 2D and 3D. Departs from
the public code: the spatial gate's batch normalization is an instance normalization with scale and shift. At batch
size 1 the two are the same in training, and this one has no running statistics to drift from.
"""

from __future__ import annotations

from collections.abc import Callable

import flax.linen as nn
import jax
import jax.numpy as jnp
from jax.typing import DTypeLike

from jaxfuse.arrays import Array, Float
from jaxfuse.nn.conv import Conv, instance_norm
from jaxfuse.nn.initializers import KernelInit, normal
from jaxfuse.nn.maximum import largest


class ChannelGate(nn.Module):
    """sigmoid(MLP(average over voxels) + MLP(maximum over voxels)), one shared MLP with a layer between.

    The layer between has m // reduction channels, at least one, and `activation`. Returns a gate in (0, 1), (b 1.. m).
    """

    reduction: int = 16
    dtype: DTypeLike | None = None
    kernel_init: KernelInit = normal()
    use_bias: bool = True
    activation: Callable[[Array], Array] = nn.relu

    @nn.compact
    def __call__(self, x: Float[Array, "b *space m"]) -> Float[Array, "b *one m"]:
        axes, channels = tuple(range(1, x.ndim - 1)), x.shape[-1]
        common = {"dtype": self.dtype, "kernel_init": self.kernel_init, "use_bias": self.use_bias}
        squeeze = Conv(max(channels // self.reduction, 1), 1, **common, name="squeeze")
        excite = Conv(channels, 1, **common, name="excite")
        average = x.astype(jnp.float32).mean(axes, keepdims=True).astype(x.dtype)
        pooled = jnp.stack([average, largest(x, axes, keepdims=True)], axis=1)
        # Both summaries go through the MLP as one batch, (b 2) 1.. m. They vary fastest, so that a batch that devices
        # share stays where it is.
        mixed = excite(self.activation(squeeze(pooled.reshape(-1, *pooled.shape[2:]))))
        return jax.nn.sigmoid(mixed.reshape(pooled.shape).sum(1)).astype(x.dtype)


class SpatialGate(nn.Module):
    """sigmoid(norm(conv([channel maximum; channel mean]))), a gate in (0, 1) per voxel, (b *space 1).

    Without `normed` there is no norm.
    """

    kernel_size: int = 7
    dtype: DTypeLike | None = None
    kernel_init: KernelInit = normal()
    normed: bool = True

    @nn.compact
    def __call__(self, x: Float[Array, "b *space m"]) -> Float[Array, "b *space 1"]:
        mean = x.astype(jnp.float32).mean(-1, keepdims=True).astype(x.dtype)
        summary = jnp.concatenate([largest(x, -1, keepdims=True), mean], axis=-1)
        y = Conv(1, self.kernel_size, use_bias=False, dtype=self.dtype, kernel_init=self.kernel_init, name="conv")(
            summary
        )
        if not self.normed:
            return jax.nn.sigmoid(y).astype(x.dtype)
        scale = self.param("scale", nn.initializers.ones_init(), (1,), jnp.float32)
        shift = self.param("shift", nn.initializers.zeros_init(), (1,), jnp.float32)
        scale, shift = (jax.lax.broadcast_to_rank(one, y.ndim) for one in (scale, shift))
        return jax.nn.sigmoid(scale * instance_norm(y) + shift).astype(x.dtype)


class CBAM(nn.Module):
    """x times its channel gate, then times the spatial gate of that product."""

    reduction: int = 16
    kernel_size: int = 7
    dtype: DTypeLike | None = None
    kernel_init: KernelInit = normal()

    @nn.compact
    def __call__(self, x: Float[Array, "b *space m"]) -> Float[Array, "b *space m"]:
        x = x * ChannelGate(self.reduction, self.dtype, self.kernel_init, name="channel")(x)
        return x * SpatialGate(self.kernel_size, self.dtype, self.kernel_init, name="spatial")(x)
