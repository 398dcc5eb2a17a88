"""UNet 3+ (Huang et al., ICASSP 2020): every level of the way up reads all levels, and each has a head of its own.

Widths and layers are those of the public code: an encoder from 64 channels doubled at each of five levels; of each
level the decoder takes 64 channels, pooled or enlarged to its own resolution, and has the 320 of all five. Departs from
it: GroupNorm for batch normalization (see `jaxfuse.nn.normed_conv`); the loss is that of the recipe for each of the
heads, in place of focal, MS-SSIM and IoU; without the module that tells whether an organ is there at all.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import flax.linen as nn
import jax.numpy as jnp
from jax.typing import DTypeLike

from jaxfuse.arrays import Array, Float, Logits
from jaxfuse.nn.conv import Conv
from jaxfuse.nn.forms import check_picture
from jaxfuse.nn.index_pool import max_pool
from jaxfuse.nn.initializers import KernelInit, he_normal
from jaxfuse.nn.interpolation import upsample_by_centers
from jaxfuse.nn.normed_conv import LevelsForm, NormedConv, TwoConvs

HE_NORMAL = he_normal(0.0)


@dataclass(frozen=True)
class UNet3PlusForm(LevelsForm):
    """The form of the network; the defaults are the public code's.

    Attributes:
        base: channels of the encoder's first level, which double at each level, and those that the decoder takes of
            every level.
    """

    kernel_init: KernelInit = HE_NORMAL

    def network(self, classes: int) -> UNet3Plus:
        """The network of this form, for so many classes.

        Raises:
            UserError: an option has none of its values.
        """
        self.check()
        return UNet3Plus(self, classes)


class UNet3Plus(nn.Module):
    """Image (b h w m) -> logits of every level from the finest on, all (b h w k), float32.

    Raises (when traced):
        UserError: a side of the image is no multiple of the form's divisor.
    """

    form: UNet3PlusForm
    classes: int

    @nn.compact
    def __call__(self, image: Float[Array, "b h w m"]) -> tuple[Logits, ...]:
        form = self.form
        check_picture(image, form.divisor, called="a UNet 3+ of this form")
        x, maps = image, []
        for level in range(form.levels):
            x = form.block(TwoConvs)(form.base * 2**level, **form.common, name=f"encoder_{level + 1}")(x)
            maps.append(x)
            x = max_pool(x) if level < form.levels - 1 else x
        # From the coarsest on, each level takes the place of the encoder's for those above it.
        for level in range(form.levels - 2, -1, -1):
            step = form.block(FullScale)(level, form.base, **form.common, name=f"decoder_{level + 1}")
            maps[level] = step(maps)
        # In float32 even on bfloat16 features, so that losses start from full precision.
        heads = (
            Conv(self.classes, 3, kernel_init=form.kernel_init, name=f"head_{level + 1}")(x)
            for level, x in enumerate(maps)
        )
        return tuple(upsample_by_centers(logits, 2**level) for level, logits in enumerate(heads))


class FullScale(nn.Module):
    """All levels at the resolution of one: finer ones pooled, coarser ones enlarged, a convolution each, and of all.

    Attributes:
        level: whose resolution, from 0.
        base: channels of each level; there are as many more as levels in what comes out.
    """

    level: int
    base: int
    kernel_init: KernelInit
    dtype: DTypeLike | None

    @nn.compact
    def __call__(self, maps: Sequence[Array]) -> Float[Array, "b h w c"]:
        common = {"kernel_init": self.kernel_init, "dtype": self.dtype}
        taken = []
        for number, x in enumerate(maps):
            for _ in range(self.level - number):
                x = max_pool(x)
            x = upsample_by_centers(x, 2 ** max(number - self.level, 0))
            taken.append(NormedConv(self.base, **common, name=f"from_{number + 1}")(x))
        return NormedConv(len(maps) * self.base, **common, name="join")(jnp.concatenate(taken, axis=-1))
