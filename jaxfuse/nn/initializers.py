"""Kernel initializers; biases start at zero everywhere."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import jax
import jax.numpy as jnp

from jaxfuse.arrays import Array, Key

# (key, shape, dtype) -> values, as in jax.nn.initializers; kernels are (*kernel, in, out).
KernelInit = Callable[..., Array]


def normal(stddev: float = 0.02) -> KernelInit:
    """N(0, stddev^2) whatever the fan-in, as in the public CycleGAN code; CMFT and CMFF start from it."""
    return jax.nn.initializers.normal(stddev)


def he_normal(slope: float = 0.01) -> KernelInit:
    """N(0, 2 / ((1 + slope^2) fan-in)), which keeps the variance through LeakyReLU(slope) (He et al., 2015, eq. 15)."""
    return jax.nn.initializers.variance_scaling(2.0 / (1.0 + slope**2), "fan_in", "normal")


def fan_in_uniform() -> KernelInit:
    """U(-1, 1) / sqrt(fan-in), which PyTorch draws for a convolution unless told otherwise."""
    return jax.nn.initializers.variance_scaling(1 / 3, "fan_in", "uniform")


def near_one(key: Key[Array, ""], shape: Sequence[int], dtype: Any = jnp.float32) -> Array:
    """Draws N(1, 0.02^2), from which the public GAN codes start the scales of normalizations."""
    return 1.0 + 0.02 * jax.random.normal(key, shape, dtype)
