"""PVT-CASCADE (Rahman and Marculescu, WACV 2023): a pyramid transformer whose maps are attended to, level by level.

Each level of the decoder joins what lies below it with a skip that a gate has weighed, passes a gate for each channel
and one for each pixel, and two convolutions; it has a head of its own. The logits are the sum of all heads', and the
loss is that of each of them. Departs from the public code: GroupNorm for batch normalization (see
`jaxfuse.nn.normed_conv`); the first layer takes the channels that come, in place of three made of a gray image. Without
the weights of ImageNet, from which the paper starts, its rank is not the paper's.
"""

from __future__ import annotations

from dataclasses import dataclass

import flax.linen as nn
import jax.numpy as jnp
from jax.typing import DTypeLike

from jaxfuse.arrays import Array, Float, Logits
from jaxfuse.models.baselines.pvt import LEVELS, PvtForm, PyramidTransformer
from jaxfuse.nn.attention import ChannelGate, SpatialGate
from jaxfuse.nn.conv import Conv
from jaxfuse.nn.forms import check_picture
from jaxfuse.nn.initializers import KernelInit
from jaxfuse.nn.interpolation import upsample_by_centers
from jaxfuse.nn.normed_conv import AttentionGate, NormedConv, TwoConvs
from jaxfuse.nn.unet import upsample_nearest

Map = Float[Array, "b h w c"]


@dataclass(frozen=True)
class CascadeForm(PvtForm):
    """The form of the encoder, by which that of the decoder is settled; the defaults are those of the public code."""

    def network(self, classes: int) -> Cascade:
        """The network of this form, for so many classes.

        Raises:
            UserError: an option has none of its values.
        """
        self.check()
        return Cascade(self, classes)


class Cascade(nn.Module):
    """Image (b h w m) -> logits of every level from the finest on, all (b h w k), float32.

    Raises (when traced):
        UserError: a side of the image is no multiple of the form's divisor.
    """

    form: CascadeForm
    classes: int

    @nn.compact
    def __call__(self, image: Float[Array, "b h w m"]) -> tuple[Logits, ...]:
        form, common = self.form, self.form.common
        check_picture(image, form.divisor, called="a CASCADE of this form")
        maps = PyramidTransformer(form, name="encoder")(image)
        # One for all levels.
        places = SpatialGate(normed=False, **common, name="places")
        outputs = []
        x = Conv(form.widths[-1], 1, **common, name="enter")(maps[-1])
        for level in range(LEVELS - 1, -1, -1):
            if level < LEVELS - 1:
                hidden = form.widths[level - 1] if level else form.widths[0] // 2
                x = form.block(Join)(form.widths[level], hidden, **common, name=f"join_{level + 1}")(x, maps[level])
            x = x * ChannelGate(use_bias=False, **common, name=f"channels_{level + 1}")(x)
            x = form.block(TwoConvs)(form.widths[level], **common, name=f"decoder_{level + 1}")(x * places(x))
            # In float32 even on bfloat16 features, so that losses start from full precision.
            logits = Conv(self.classes, 1, kernel_init=form.kernel_init, name=f"head_{level + 1}")(x)
            outputs.append(upsample_by_centers(logits, form.patch * 2**level))
        return tuple(reversed(outputs))


class Join(nn.Module):
    """The map of the level below, doubled, beside the skip that it has weighed: twice `width` channels."""

    width: int
    hidden: int
    kernel_init: KernelInit
    dtype: DTypeLike | None

    @nn.compact
    def __call__(self, x: Float[Array, "b h w m"], skip: Float[Array, "b h2 w2 c"]) -> Float[Array, "b h2 w2 k"]:
        common = {"kernel_init": self.kernel_init, "dtype": self.dtype}
        x = NormedConv(self.width, **common, name="up")(upsample_nearest(x))
        weighed = AttentionGate(self.hidden, **common, name="gate")(x, skip)
        return jnp.concatenate([weighed, x], axis=-1)
