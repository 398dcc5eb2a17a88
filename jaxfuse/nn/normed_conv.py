"""Blocks of 2D segmentation networks, convolutions with GroupNorm and ReLU and the gate of a skip; their form.

GroupNorm stands where the codes that these blocks are known from have batch normalization: losses stay pure functions
of the weights, and the numbers of weights are the same.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import partial
from typing import Any

import flax.linen as nn
import jax
from jax.typing import DTypeLike

from jaxfuse.arrays import Array, Float
from jaxfuse.nn.conv import Conv
from jaxfuse.nn.forms import check_choices, check_least
from jaxfuse.nn.initializers import KernelInit, normal
from jaxfuse.nn.norms import group_norm
from jaxfuse.nn.precision import DTYPES, layer_dtype


@dataclass(frozen=True)
class LevelsForm:
    """The form of a U-Net of these blocks.

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
    kernel_init: KernelInit = normal()

    @property
    def divisor(self) -> int:
        """Sides of an image are multiples of it."""
        return 2 ** (self.levels - 1)

    def check(self) -> None:
        """Refuses a form that does not exist.

        Raises:
            UserError: an option has none of its values.
        """
        check_choices(self, {"dtype": DTYPES})
        check_least(self, {"base": 2, "levels": 2})

    @property
    def common(self) -> dict[str, Any]:
        """Options of every layer."""
        return {"kernel_init": self.kernel_init, "dtype": layer_dtype(self.dtype)}

    def block(self, module: type[nn.Module]) -> type[nn.Module]:
        """A block, to be computed again in the backward pass where the form says so."""
        return nn.remat(module) if self.remat else module


class NormedConv(nn.Module):
    """Convolution with bias, GroupNorm, ReLU."""

    features: int
    kernel_size: int = 3
    kernel_init: KernelInit = normal()
    dtype: DTypeLike | None = None

    @nn.compact
    def __call__(self, x: Float[Array, "b h w m"]) -> Float[Array, "b h w c"]:
        common = {"kernel_init": self.kernel_init, "dtype": self.dtype}
        return nn.relu(group_norm(Conv(self.features, self.kernel_size, **common, name="conv")(x), "norm"))


class TwoConvs(nn.Module):
    """Two 3x3 convolutions of the same width, each a `NormedConv`."""

    features: int
    kernel_init: KernelInit = normal()
    dtype: DTypeLike | None = None

    @nn.compact
    def __call__(self, x: Float[Array, "b h w m"]) -> Float[Array, "b h w c"]:
        layer = partial(NormedConv, self.features, kernel_init=self.kernel_init, dtype=self.dtype)
        return layer(name="second")(layer(name="first")(x))


class AttentionGate(nn.Module):
    """The skip times a number in (0, 1) for each pixel: sigmoid(norm(linear(ReLU(norm(linear g) + norm(linear x))))).

    Source: "Attention U-Net" (Oktay et al., 2018), Eqs. 1 and 2, on a signal of the skip's own resolution, as the code
    by LeeJunHyun has it, from which most others come.

    Attributes:
        hidden: channels that signal and skip are added in.
    """

    hidden: int
    kernel_init: KernelInit = normal()
    dtype: DTypeLike | None = None

    @nn.compact
    def __call__(self, signal: Float[Array, "b h w g"], skip: Float[Array, "b h w c"]) -> Float[Array, "b h w c"]:
        layer = partial(Conv, kernel_size=1, kernel_init=self.kernel_init, dtype=self.dtype)
        from_signal = group_norm(layer(self.hidden, name="signal")(signal), "signal_norm")
        from_skip = group_norm(layer(self.hidden, name="skip")(skip), "skip_norm")
        found = group_norm(layer(1, name="weigh")(nn.relu(from_signal + from_skip)), "weigh_norm")
        return skip * jax.nn.sigmoid(found)
