"""A network of densely connected convolutions that makes one image of two that it sees side by side.

DDcGAN (Ma et al., 2020) and U2Fusion (Xu et al., 2022) have it in common: a first convolution, then layers each of
which reads the results of all before it, then a decoder whose maps become ever narrower. Maps are reflected beyond
their edge.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp
from jax.typing import DTypeLike

from jaxfuse.arrays import Array, Float
from jaxfuse.nn.initializers import KernelInit
from jaxfuse.nn.reflected_conv import ReflectedConv

Map = Float[Array, "b h w c"]
# (name, train) -> what normalizes a map.
Norm = Callable[[str, bool], nn.Module]


class Layer(nn.Module):
    """Convolution of a map reflected beyond its edge, its norm if it has one, and LeakyReLU; `slope` 0 is ReLU."""

    features: int
    slope: float
    kernel_init: KernelInit
    norm: Norm | None
    dtype: DTypeLike | None

    @nn.compact
    def __call__(self, x: Map, *, train: bool) -> Float[Array, "b h w k"]:
        x = ReflectedConv(self.features, 3, 1, self.kernel_init, self.dtype, name="conv")(x)
        x = x if self.norm is None else self.norm("norm", train)(x)
        return jnp.where(x >= 0, x, self.slope * x)


class DenseFusion(nn.Module):
    """Sources side by side, (b h w 2) in [0, 1] -> one image (b h w 1) in (0, 1), float32.

    Parameters lie under "encoder" and "decoder".

    Attributes:
        growth: channels of the first convolution and of each dense layer.
        layers: dense layers behind the first convolution; the decoder reads (layers + 1) * growth channels.
        narrowing: channels of the decoder's maps but for the image.
        slope: by which a map is multiplied where it is negative; 0 is ReLU.
        norm: what normalizes a map between convolution and slope; None normalizes nothing.
    """

    growth: int
    layers: int
    narrowing: Sequence[int]
    slope: float
    kernel_init: KernelInit
    norm: Norm | None = None
    dtype: DTypeLike | None = None

    def setup(self) -> None:
        common = {"slope": self.slope, "kernel_init": self.kernel_init, "norm": self.norm, "dtype": self.dtype}
        self.encoder = DenseEncoder(self.growth, self.layers, common)
        self.decoder = Decoder(tuple(self.narrowing), common)

    def __call__(self, sources: Float[Array, "b h w 2"], *, train: bool = False) -> Float[Array, "b h w 1"]:
        return self.decoder(self.encoder(sources, train=train), train=train)


class DenseEncoder(nn.Module):
    """Every layer but the first reads the results of all before it; the last map holds them all."""

    growth: int
    layers: int
    common: dict[str, Any]

    @nn.compact
    def __call__(self, sources: Float[Array, "b h w 2"], *, train: bool) -> Map:
        x = Layer(self.growth, **self.common, name="enter")(sources, train=train)
        for number in range(1, self.layers + 1):
            new = Layer(self.growth, **self.common, name=f"dense_{number}")(x, train=train)
            x = jnp.concatenate([new, x], axis=-1)
        return x


class Decoder(nn.Module):
    """Ever narrower maps, then the image by a sigmoid of twice the last one: (1 + tanh) / 2."""

    narrowing: tuple[int, ...]
    common: dict[str, Any]

    @nn.compact
    def __call__(self, x: Map, *, train: bool) -> Float[Array, "b h w 1"]:
        for number, features in enumerate(self.narrowing, start=1):
            x = Layer(features, **self.common, name=f"narrow_{number}")(x, train=train)
        # In float32 even on bfloat16 features, so that losses start from full precision.
        image = ReflectedConv(1, 3, kernel_init=self.common["kernel_init"], name="image")(x)
        return jax.nn.sigmoid(2 * image)
