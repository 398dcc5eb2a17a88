"""The adapter of SAM-Med2D: a gate per channel and a view of the neighborhood, beside the MLP of a transformer block.

Source: "SAM-Med2D" (Cheng et al., 2023), section 3.2, and its public code. No linear map and no convolution has a
bias. Departs from it: the default makes both convolutions of the spatial branch depthwise, each followed by a 1x1
convolution, because dense ones outweigh the transformer that they adapt (15,042,048 against 1,495,296 weights at 768
channels); a grid with an odd side, which would come back longer by one, loses the surplus row or column at its end.
"""

from __future__ import annotations

import flax.linen as nn
import jax
import jax.numpy as jnp
from jax.typing import DTypeLike

from jaxfuse.arrays import Array, Float
from jaxfuse.errors import UserError
from jaxfuse.nn.conv import Conv
from jaxfuse.nn.grouped_conv import GroupedConv
from jaxfuse.nn.initializers import KernelInit, normal

ADAPTERS = ("depthwise", "dense")


class Adapter(nn.Module):
    """LayerNorm(x + branch(x * gate(x))) of a map of tokens; keeps its shape and dtype.

    gate = sigmoid(linear(relu(linear(mean over the map)))), with c // reduction channels between. branch = relu of a
    4x4 transposed convolution of stride 2, of relu of a 3x3 convolution of stride 2.

    Attributes:
        form: "depthwise" (convolutions within channels, then 1x1) or "dense".
        plain_start: the LayerNorm's scale starts at zero, so that at first the adapter adds nothing.
        reduction: the gate's first layer has this many times fewer channels.

    Raises (when traced):
        UserError: the form is unknown, or fewer channels came than `reduction`.
    """

    form: str = "depthwise"
    plain_start: bool = False
    reduction: int = 4
    kernel_init: KernelInit = normal()
    dtype: DTypeLike | None = None

    @nn.compact
    def __call__(self, x: Float[Array, "b h w c"]) -> Float[Array, "b h w c"]:
        if self.form not in ADAPTERS:
            raise UserError(f"adapter {self.form!r} is not known; choose one of {', '.join(ADAPTERS)}")
        if x.shape[-1] < self.reduction:
            raise UserError(
                f"an adapter divides its channels by {self.reduction}, got {x.shape[-1]}; use at least {self.reduction}"
            )
        down = self._convolve(x * self._gate(x), "down")
        up = self._convolve(down, "up")[:, : x.shape[1], : x.shape[2]]
        start = nn.initializers.zeros_init() if self.plain_start else nn.initializers.ones_init()
        norm = nn.LayerNorm(epsilon=1e-5, scale_init=start, use_fast_variance=False, name="norm")
        return norm(x + up).astype(x.dtype)

    def _gate(self, x: Array) -> Float[Array, "b 1 1 c"]:
        common = {"use_bias": False, "kernel_init": self.kernel_init, "dtype": self.dtype}
        mean = x.astype(jnp.promote_types(x.dtype, jnp.float32)).mean((1, 2), keepdims=True).astype(x.dtype)
        hidden = nn.relu(Conv(x.shape[-1] // self.reduction, 1, **common, name="squeeze")(mean))
        return jax.nn.sigmoid(Conv(x.shape[-1], 1, **common, name="excite")(hidden)).astype(x.dtype)

    def _convolve(self, x: Array, name: str) -> Array:
        """The convolution that halves the map ("down") or doubles it ("up"), and ReLU."""
        channels, common = x.shape[-1], {"kernel_init": self.kernel_init, "dtype": self.dtype}
        # A transposed convolution is a convolution of the map with zeros set between its pixels.
        side, padding, source = (3, 1, x) if name == "down" else (4, 2, _spread(x))
        if self.form == "dense":
            strides = 2 if name == "down" else 1
            return nn.relu(Conv(channels, side, strides, padding, use_bias=False, **common, name=name)(source))
        y = GroupedConv(side, padding=padding, **common, name=f"{name}_spatial")(source)
        # Every second pixel is what stride 2 leaves; the map is small, the other three cost little.
        y = y[:, ::2, ::2] if name == "down" else y
        return nn.relu(Conv(channels, 1, use_bias=False, **common, name=name)(y))


def _spread(x: Float[Array, "b h w c"]) -> Float[Array, "b h2 w2 c"]:
    """One zero between neighboring pixels along both axes: n become 2 n - 1."""
    return jax.lax.pad(x, jnp.zeros((), x.dtype), ((0, 0, 0), (0, 0, 1), (0, 0, 1), (0, 0, 0)))
