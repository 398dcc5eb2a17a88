"""EMCAD (Rahman et al., CVPR 2024): a pyramid transformer and a light decoder of depthwise convolutions.

Each level of the decoder adds what lies below it and a skip that a grouped gate has weighed, passes a gate for each
channel and one for each pixel, and depthwise convolutions of several sizes side by side. Every level has a head; the
logits are those of the finest, and the loss is that of the sum of every choice of heads. Departs from the public code:
GroupNorm for batch normalization (see `jaxfuse.nn.normed_conv`); the first layer takes the channels that come, in place
of three made of a gray image; channels are not shuffled, as a dense layer follows wherever they would be. Without the
weights of ImageNet, from which the paper starts, its rank is not the paper's.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import partial

import flax.linen as nn
import jax
import jax.numpy as jnp
from jax.typing import DTypeLike

from jaxfuse.arrays import Array, Float, Logits
from jaxfuse.errors import UserError
from jaxfuse.models.baselines.pvt import LEVELS, PvtForm, PyramidTransformer
from jaxfuse.nn.attention import ChannelGate, SpatialGate
from jaxfuse.nn.channel_weights import over_map
from jaxfuse.nn.conv import Conv
from jaxfuse.nn.forms import check_least, check_picture
from jaxfuse.nn.grouped_conv import GroupedConv
from jaxfuse.nn.initializers import KernelInit
from jaxfuse.nn.interpolation import upsample_by_centers
from jaxfuse.nn.norms import group_norm
from jaxfuse.nn.unet import upsample_nearest

Map = Float[Array, "b h w c"]


@dataclass(frozen=True)
class EmcadForm(PvtForm):
    """The form of encoder and decoder; the defaults are those of the public code.

    Attributes:
        sizes: sides of the depthwise kernels, odd.
        expansion: channels of these convolutions, in channels of their level.
    """

    sizes: tuple[int, ...] = (1, 3, 5)
    expansion: int = 2

    def network(self, classes: int) -> Emcad:
        """The network of this form, for so many classes.

        Raises:
            UserError: an option has none of its values, or channels cannot be paired.
        """
        self.check()
        check_least(self, {"expansion": 1})
        if not self.sizes or any(size < 1 or size % 2 == 0 for size in self.sizes):
            raise UserError(f"sizes is {tuple(self.sizes)}; give odd sides of kernels, at least one")
        if any(width % 2 for width in self.widths):
            raise UserError(f"widths is {tuple(self.widths)}; give even numbers, as gates take channels by twos")
        return Emcad(self, classes)


class Emcad(nn.Module):
    """Image (b h w m) -> logits of every level from the finest on, all (b h w k), float32.

    Raises (when traced):
        UserError: a side of the image is no multiple of the form's divisor.
    """

    form: EmcadForm
    classes: int

    @nn.compact
    def __call__(self, image: Float[Array, "b h w m"]) -> tuple[Logits, ...]:
        form, common = self.form, self.form.common
        check_picture(image, form.divisor, called="an EMCAD of this form")
        maps = PyramidTransformer(form, name="encoder")(image)
        # One for all levels.
        places = SpatialGate(normed=False, **common, name="places")
        outputs, x = [], maps[-1]
        for level in range(LEVELS - 1, -1, -1):
            if level < LEVELS - 1:
                x = form.block(Join)(form.widths[level], **common, name=f"join_{level + 1}")(x, maps[level])
            gate = ChannelGate(use_bias=False, activation=nn.relu6, **common, name=f"channels_{level + 1}")
            x = x * gate(x)
            block = form.block(MultiScale)(form.sizes, form.expansion, **common, name=f"decoder_{level + 1}")
            x = block(x * places(x))
            # In float32 even on bfloat16 features, so that losses start from full precision.
            logits = Conv(self.classes, 1, kernel_init=form.kernel_init, name=f"head_{level + 1}")(x)
            outputs.append(upsample_by_centers(logits, form.patch * 2**level))
        return tuple(reversed(outputs))


class Join(nn.Module):
    """The map of the level below, doubled and looked around in, plus the skip that it has weighed."""

    width: int
    kernel_init: KernelInit
    dtype: DTypeLike | None

    @nn.compact
    def __call__(self, x: Float[Array, "b h w m"], skip: Float[Array, "b h2 w2 c"]) -> Float[Array, "b h2 w2 c"]:
        common = {"kernel_init": self.kernel_init, "dtype": self.dtype}
        x = GroupedConv(**common, name="around")(upsample_nearest(x))
        x = Conv(self.width, 1, **common, name="up")(nn.relu6(group_norm(x, "around_norm")))
        return x + PairedGate(**common, name="gate")(x, skip)


class PairedGate(nn.Module):
    """The skip times a number in (0, 1) for each pixel, by 3x3 convolutions in which every two channels make one."""

    kernel_init: KernelInit
    dtype: DTypeLike | None

    @nn.compact
    def __call__(self, signal: Map, skip: Map) -> Map:
        added = nn.relu6(self._paired(signal, "signal") + self._paired(skip, "skip"))
        layer = Conv(1, 1, kernel_init=self.kernel_init, dtype=self.dtype, name="weigh")
        return skip * jax.nn.sigmoid(group_norm(layer(added), "weigh_norm"))

    def _paired(self, x: Map, name: str) -> Float[Array, "b h w half"]:
        """A convolution in groups of two channels to one each, with bias and GroupNorm."""
        y = GroupedConv(kernel_init=self.kernel_init, dtype=self.dtype, name=name)(x)
        y = y.reshape(*y.shape[:-1], -1, 2).sum(-1)
        bias = self.param(f"{name}_bias", nn.initializers.zeros_init(), (y.shape[-1],), jnp.float32)
        return group_norm(y + over_map(bias, y), f"{name}_norm")


class MultiScale(nn.Module):
    """x plus a dense layer of the sum of depthwise convolutions of several sizes, of an expanded map."""

    sizes: tuple[int, ...]
    expansion: int
    kernel_init: KernelInit
    dtype: DTypeLike | None

    @nn.compact
    def __call__(self, x: Map) -> Map:
        common = {"kernel_init": self.kernel_init, "dtype": self.dtype}
        layer = partial(Conv, kernel_size=1, use_bias=False, **common)
        wide = nn.relu6(group_norm(layer(self.expansion * x.shape[-1], name="expand")(x), "expand_norm"))
        total = jnp.zeros_like(wide)
        for size in self.sizes:
            around = GroupedConv(size, **common, name=f"around_{size}")(wide)
            total = total + nn.relu6(group_norm(around, f"around_{size}_norm"))
        return x + group_norm(layer(x.shape[-1], name="contract")(total), "contract_norm")
