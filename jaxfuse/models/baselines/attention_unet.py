"""Attention U-Net (Oktay et al., 2018), in 2D: a U-Net whose skips are weighed by what lies below them.

Widths and layers are those of the code by LeeJunHyun (`AttU_Net`), with which medical papers compare: from 64 channels
doubled at each of five levels, two convolutions a level, nearest neighbors on the way up. Departs from that code:
GroupNorm for batch normalization (see `jaxfuse.nn.normed_conv`).
"""

from __future__ import annotations

from dataclasses import dataclass

import flax.linen as nn
import jax.numpy as jnp
from jax.typing import DTypeLike

from jaxfuse.arrays import Array, Float, Logits
from jaxfuse.nn.conv import Conv
from jaxfuse.nn.forms import check_picture
from jaxfuse.nn.index_pool import max_pool
from jaxfuse.nn.initializers import KernelInit, fan_in_uniform
from jaxfuse.nn.normed_conv import AttentionGate, LevelsForm, NormedConv, TwoConvs
from jaxfuse.nn.unet import upsample_nearest

# PyTorch's, with which the public code starts.
FAN_IN_UNIFORM = fan_in_uniform()


@dataclass(frozen=True)
class AttentionUNetForm(LevelsForm):
    """The form of the network; the defaults are the public code's."""

    kernel_init: KernelInit = FAN_IN_UNIFORM

    def network(self, classes: int) -> AttentionUNet:
        """The network of this form, for so many classes.

        Raises:
            UserError: an option has none of its values.
        """
        self.check()
        return AttentionUNet(self, classes)


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
