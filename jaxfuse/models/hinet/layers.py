"""The layers that all of Hi-Net's networks are made of.

Where `there` is told, examples that are not there move no statistics and are normalized by those of the others.
"""

from __future__ import annotations

import flax.linen as nn
import jax.numpy as jnp

from jaxfuse.arrays import Array, Bool, Float
from jaxfuse.models.hinet.form import Activation, HiNetForm, Map, leaky_relu
from jaxfuse.nn.conv import Conv
from jaxfuse.nn.index_pool import max_pool
from jaxfuse.nn.unet import upsample_nearest

There = Bool[Array, " b"] | None


class Layer(nn.Module):
    """3x3 convolution, batch normalization, activation."""

    form: HiNetForm
    train: bool
    features: int
    activation: Activation

    @nn.compact
    def __call__(self, x: Float[Array, "b h w m"], there: There = None) -> Map:
        y = Conv(self.features, 3, **self.form.common, name="conv")(x)
        return self.activation(self.form.norm("norm", self.train)(y, there))


class EncoderStage(nn.Module):
    """Two layers with LeakyReLU, then the maxima over windows of 2x2 pixels."""

    form: HiNetForm
    train: bool
    features: int

    @nn.compact
    def __call__(self, x: Float[Array, "b h w m"], there: There = None) -> Float[Array, "b half_h half_w c"]:
        for number in (1, 2):
            x = Layer(self.form, self.train, self.features, leaky_relu, name=f"layer_{number}")(x, there)
        return max_pool(x)


class DecoderStage(nn.Module):
    """Layers of these widths with ReLU, then every pixel becomes four."""

    form: HiNetForm
    train: bool
    widths: tuple[int, ...]

    @nn.compact
    def __call__(self, x: Float[Array, "b h w m"], there: There = None) -> Float[Array, "b h2 w2 c"]:
        for number, width in enumerate(self.widths, start=1):
            x = Layer(self.form, self.train, width, nn.relu, name=f"layer_{number}")(x, there)
        return upsample_nearest(x)


class ToImage(nn.Module):
    """A layer with ReLU, then a convolution to one channel and tanh: an image in (-1, 1), float32."""

    form: HiNetForm
    train: bool

    @nn.compact
    def __call__(self, x: Map, there: There = None) -> Float[Array, "b h w 1"]:
        x = Layer(self.form, self.train, self.form.width, nn.relu, name="layer")(x, there)
        # In float32 even on bfloat16 features, so that losses start from full precision.
        return jnp.tanh(Conv(1, 3, kernel_init=self.form.kernel_init, name="conv")(x))
