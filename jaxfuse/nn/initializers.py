"""Kernel initializers; biases start at zero everywhere."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from typing import Any

import jax.numpy as jnp
import numpy as np

from jaxfuse.arrays import Array, Key
from jaxfuse.nn.drawing import drawn_normal, drawn_truncated, drawn_uniform

# (key, shape, dtype) -> values, as in jax.nn.initializers; kernels are (*kernel, in, out).
KernelInit = Callable[..., Array]
# Standard deviation of a standard normal variable cut at two.
_CUT_STDDEV = float(np.float32(0.87962566103423978))


def normal(stddev: float = 0.02) -> KernelInit:
    """N(0, stddev^2) whatever the fan-in, as in the public CycleGAN code; CMFT and CMFF start from it."""
    return _init(drawn_normal, lambda fan_in, fan_out: stddev)


def he_normal(slope: float = 0.01) -> KernelInit:
    """N(0, 2 / ((1 + slope^2) fan-in)), which keeps the variance through LeakyReLU(slope) (He et al., 2015, eq. 15)."""
    return _init(drawn_normal, lambda fan_in, fan_out: _root(2.0 / (1.0 + slope**2) / fan_in))


def lecun_normal() -> KernelInit:
    """N(0, 1 / fan-in), cut at two standard deviations of what is drawn; the variance is that of the result."""
    return _init(drawn_truncated, lambda fan_in, fan_out: _root(1.0 / fan_in) / _CUT_STDDEV)


def truncated_normal(stddev: float = 0.05) -> KernelInit:
    """N(0, stddev^2) cut at two standard deviations, whatever the fan-in, as TensorFlow's function of this name."""
    return _init(drawn_truncated, lambda fan_in, fan_out: stddev)


def fan_in_uniform() -> KernelInit:
    """U(-1, 1) / sqrt(fan-in), which PyTorch draws for a convolution unless told otherwise."""
    return _init(drawn_uniform, lambda fan_in, fan_out: _root(1.0 / fan_in))


def glorot_uniform() -> KernelInit:
    """U(-1, 1) * sqrt(6 / (fan-in + fan-out)) (Glorot and Bengio, 2010, eq. 16)."""
    return _init(drawn_uniform, lambda fan_in, fan_out: _root(6.0 / (fan_in + fan_out)))


def near_one(key: Key[Array, ""], shape: Sequence[int], dtype: Any = jnp.float32) -> Array:
    """Draws N(1, 0.02^2), from which the public GAN codes start the scales of normalizations."""
    return drawn_normal(key, 0.02, 1.0, tuple(shape)).astype(dtype)


def _init(law: Callable[..., Array], scale: Callable[[int, int], float]) -> KernelInit:
    """Returns the initializer that draws by a law of `jaxfuse.nn.drawing`, scaled by a function of both fans."""

    def init(key: Key[Array, ""], shape: Sequence[int], dtype: Any = jnp.float32) -> Array:
        *kernel, fan_in, fan_out = (1,) * (2 - len(shape)) + tuple(shape)  # a vector is one row
        taps = math.prod(kernel)
        return law(key, scale(taps * fan_in, taps * fan_out), 0.0, tuple(shape)).astype(dtype)

    return init


def _root(variance: float) -> float:
    """Returns the square root as float32 has it."""
    return float(np.sqrt(np.float32(variance)))
