"""Batch normalization of channels-last maps, as several papers have it."""

from __future__ import annotations

import flax.linen as nn
import jax
import jax.numpy as jnp
from jax.typing import DTypeLike

from jaxfuse.arrays import Array, Bool, Float
from jaxfuse.nn.initializers import KernelInit
from jaxfuse.nn.moments import moments, moments_where, per_deviation


class BatchNorm(nn.Module):
    """Normalization with scale and shift: in training by the batch's own statistics, which move the running ones.

    Statistics are float32, or wider if x is.

    Attributes:
        train: normalizes by the batch; else by the running statistics.
        decay: the share of the old value that a running statistic keeps.
        eps: added to the variance.
        dtype: of the result; None follows input and weights.
        scale_init: (key, shape, dtype) -> scale.
    """

    train: bool
    decay: float
    eps: float
    dtype: DTypeLike | None
    scale_init: KernelInit = nn.initializers.ones

    @nn.compact
    def __call__(self, x: Float[Array, "*map c"], there: Bool[Array, " b"] | None = None) -> Float[Array, "*map c"]:
        """Normalizes a map; in training by those examples alone that are `there`, where that is told.

        Where none is there it normalizes by the running statistics, which stay as they are.
        """
        width = x.shape[-1:]
        running_mean = self.variable("batch_stats", "mean", jnp.zeros, width, jnp.float32)
        running_var = self.variable("batch_stats", "var", jnp.ones, width, jnp.float32)
        mean, var = running_mean.value, running_var.value
        if self.train:
            found = moments(x, range(x.ndim - 1), near=mean) if there is None else moments_where(there, x)
            mean, var = (one.reshape(width) for one in found)
            if there is not None:
                # A variance of 0 would enlarge maps from layer to layer until they are no numbers, and neither were
                # the gradients then, though nothing is made of them.
                some = there.any()
                mean, var = jnp.where(some, mean, running_mean.value), jnp.where(some, var, running_var.value)
            if not self.is_initializing():
                for running, new in ((running_mean, mean), (running_var, var)):
                    moved = self.decay * running.value + (1 - self.decay) * new
                    running.value = moved if there is None else jnp.where(some, moved, running.value)
        scale = self.param("scale", self.scale_init, width, jnp.float32)
        shift = self.param("bias", nn.initializers.zeros, width, jnp.float32)
        gain = (per_deviation(mean, var, self.eps) if self.train else jax.lax.rsqrt(var + self.eps)) * scale
        mean, gain, shift = (jax.lax.broadcast_to_rank(one, x.ndim) for one in (mean, gain, shift))
        y = (x - mean) * gain + shift
        return y.astype(self.dtype or jnp.result_type(x, scale))
