"""Attention U-Net (Oktay et al., 2018), in 2D: a U-Net whose skips are weighed by what lies below them.

Widths and layers are those of the code by LeeJunHyun (`AttU_Net`), with which medical papers compare: from 64 channels
doubled at each of five levels, two convolutions a level, nearest neighbors on the way up. Departs from that code:
GroupNorm for batch normalization (see `jaxfuse.nn.normed_conv`).
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import flax.linen as nn
import jax.numpy as jnp
from jax.typing import DTypeLike

from jaxfuse.arrays import Array, Float, Logits
from jaxfuse.nn.conv import Conv
from jaxfuse.nn.forms import check_choices, check_least, check_picture
from jaxfuse.nn.index_pool import max_pool
from jaxfuse.nn.initializers import KernelInit, fan_in_uniform
from jaxfuse.nn.normed_conv import AttentionGate, NormedConv, TwoConvs
from jaxfuse.nn.precision import DTYPES, layer_dtype
from jaxfuse.nn.unet import upsample_nearest

# PyTorch's, with which the public code starts.
FAN_IN_UNIFORM = fan_in_uniform()


@dataclass(frozen=True)
class AttentionUNetForm:
    """The form of the network; the defaults are the public code's.

    Attributes:
        base: channels of the first level; they double at each level.
        levels: resolutions; sides of the image are multiples of 2**(levels - 1).
        dtype: arithmetic, "float32" or "bfloat16"; weights, norms and logits are float32.
        remat: every level is computed again in the backward pass.
    """

    base: int = 64
    levels: int = 5
    dtype: str = "float32"
    remat: bool = False
    kernel_init: KernelInit = FAN_IN_UNIFORM

    @property
    def divisor(self) -> int:
        """Sides of an image are multiples of it."""
        return 2 ** (self.levels - 1)

    def network(self, classes: int) -> AttentionUNet:
        """The network of this form, for so many classes.

        Raises:
            UserError: an option has none of its values.
        """
        check_choices(self, {"dtype": DTYPES})
        check_least(self, {"base": 2, "levels": 2})
        return AttentionUNet(self, classes)

    @property
    def common(self) -> dict[str, Any]:
        """Options of every layer."""
        return {"kernel_init": self.kernel_init, "dtype": layer_dtype(self.dtype)}

    def block(self, module: type[nn.Module]) -> type[nn.Module]:
        """A block, to be computed again in the backward pass where the form says so."""
        return nn.remat(module) if self.remat else module


class AttentionUNet(nn.Module):
    """Image (b h w m) -> logits (b h w k) alone in a tuple, float32.

    Raises (when traced):
        UserError: a side of the image is no multiple of the form's divisor.
    """

    form: AttentionUNetForm
    classes: int

    @nn.compact
    def __call__(self, image: Float[Array, "b h w m"]) -> tuple[Logits]:
        form = self.form
        check_picture(image, form.divisor, called="an Attention U-Net of this form")
        x, maps = image, []
        for level in range(form.levels):
            x = form.block(TwoConvs)(form.base * 2**level, **form.common, name=f"encoder_{level + 1}")(x)
            maps.append(x)
            x = max_pool(x) if level < form.levels - 1 else x
        for level in range(form.levels - 2, -1, -1):
            step = form.block(DecoderLevel)(form.base * 2**level, **form.common, name=f"decoder_{level + 1}")
            x = step(x, maps[level])
        # In float32 even on bfloat16 features, so that losses start from full precision.
        return (Conv(self.classes, 1, kernel_init=form.kernel_init, name="head")(x),)


class DecoderLevel(nn.Module):
    """Doubles the map, weighs the skip by it, joins both, two convolutions."""

    width: int
    kernel_init: KernelInit
    dtype: DTypeLike | None

    @nn.compact
    def __call__(self, x: Float[Array, "b h w m"], skip: Float[Array, "b h2 w2 c"]) -> Float[Array, "b h2 w2 c"]:
        common = {"kernel_init": self.kernel_init, "dtype": self.dtype}
        x = NormedConv(self.width, **common, name="up")(upsample_nearest(x))
        weighed = AttentionGate(self.width // 2, **common, name="gate")(x, skip)
        return TwoConvs(self.width, **common, name="convs")(jnp.concatenate([weighed, x], axis=-1))
