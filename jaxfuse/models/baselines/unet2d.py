"""The 2D U-Nets that InfiNet (2018) is compared with: one contracting path, or one per modality.

Source: "U-Net" (Ronneberger et al., 2015), with the widths of the public code of InfiNet's author. Departs from the
original: convolutions keep the size of their map, and a transposed convolution leads straight to the next width. Of
two contracting paths the deepest maps are doubled each by its own transposed convolution and joined with the skips of
both; above that one expanding path joins the skips of both.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import partial
from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp
from jax.typing import DTypeLike

from jaxfuse.arrays import Array, Float, Image, Key, Logits, Params
from jaxfuse.errors import UserError
from jaxfuse.learning.networks import Stateless
from jaxfuse.learning.state import Optimizers
from jaxfuse.learning.system import Geometry, Segmentation, SegmentationLoss
from jaxfuse.nn.channel_weights import over_map
from jaxfuse.nn.conv import Conv
from jaxfuse.nn.forms import check_choices
from jaxfuse.nn.index_pool import max_pool
from jaxfuse.nn.initializers import KernelInit, glorot_uniform
from jaxfuse.nn.precision import DTYPES, layer_dtype

GLOROT_UNIFORM = glorot_uniform()


@dataclass(frozen=True)
class UNet2DForm:
    """The form of the network; the defaults are those of the row with a single arm.

    Attributes:
        base: channels of the first level; they double at each level.
        levels: resolutions; sides of the image are multiples of 2**(levels - 1).
        double_arm: a contracting path for each modality; else one for all, stacked.
        dtype: arithmetic, "float32" or "bfloat16"; weights and logits are float32.
        remat: every level is computed again in the backward pass.
    """

    base: int = 16
    levels: int = 5
    double_arm: bool = False
    dtype: str = "float32"
    remat: bool = False
    kernel_init: KernelInit = GLOROT_UNIFORM

    def network(self, modalities: Sequence[str], classes: int) -> UNet2D:
        """The network of this form, for these input channels and so many classes.

        Raises:
            UserError: an option has none of its values.
        """
        check_choices(self, {"dtype": DTYPES})
        if self.base < 1 or self.levels < 2:
            raise UserError(f"a U-Net needs a base of 1 and 2 levels at least, got {self.base} and {self.levels}")
        return UNet2D(self, tuple(modalities), classes)

    def geometry(self) -> Geometry:
        return Geometry(2, 2 ** (self.levels - 1))

    @property
    def common(self) -> dict[str, Any]:
        """Options of every layer."""
        return {"kernel_init": self.kernel_init, "dtype": layer_dtype(self.dtype)}

    def level(self, module: type[nn.Module], depth: int) -> Any:
        """A level, the first being 0, to be computed again in the backward pass where the form says so."""
        return partial(nn.remat(module) if self.remat else module, self.base * 2**depth, **self.common)


SINGLE_ARM = UNet2DForm()


class UNet2D(nn.Module):
    """Slices (b h w m), channels in the order of `modalities` -> logits (b h w k), float32.

    Parameters lie under "<modality>_level_<number>" ("stacked_level_<number>" for a single arm), "up_<number>" and
    "head", the first level being the finest.

    Raises (when traced):
        UserError: the image has another number of channels, or cannot be halved so often.
    """

    form: UNet2DForm
    modalities: tuple[str, ...]
    classes: int

    @nn.compact
    def __call__(self, image: Float[Array, "b h w m"]) -> Logits:
        self._check(image)
        form = self.form
        if form.double_arm:
            inputs = {name: image[..., i : i + 1] for i, name in enumerate(self.modalities)}
        else:
            inputs = {"stacked": image}
        paths = [self._contract(name, slices) for name, slices in inputs.items()]
        coarse = [path[-1] for path in paths]
        for depth in range(form.levels - 2, -1, -1):
            skips = [path[depth] for path in paths]
            coarse = [form.level(ExpandingLevel, depth)(name=f"up_{depth + 1}")(coarse, skips)]
        # In float32 even on bfloat16 features, so that losses start from full precision.
        return Conv(self.classes, 1, kernel_init=form.kernel_init, name="head")(coarse[0])

    def _contract(self, name: str, x: Array) -> list[Array]:
        """The maps of one contracting path, finest first."""
        maps = []
        for depth in range(self.form.levels):
            x = max_pool(x) if depth else x
            x = self.form.level(TwoConvs, depth)(name=f"{name}_level_{depth + 1}")(x)
            maps.append(x)
        return maps

    def _check(self, image: Array) -> None:
        divisor = 2 ** (self.form.levels - 1)
        if image.ndim != 4 or any(side % divisor for side in image.shape[1:3]):
            raise UserError(
                f"a U-Net of {self.form.levels} levels takes slices (b h w m) whose sides are multiples of {divisor}, "
                f"got shape {image.shape}; pad or crop them, or use fewer levels"
            )
        if image.shape[-1] != len(self.modalities):
            raise UserError(
                f"the U-Net was made for the modalities {', '.join(self.modalities)}, "
                f"got slices of {image.shape[-1]} channels"
            )


class TwoConvs(nn.Module):
    """Two 3x3 convolutions, each with ReLU."""

    features: int
    kernel_init: KernelInit = GLOROT_UNIFORM
    dtype: DTypeLike | None = None

    @nn.compact
    def __call__(self, x: Float[Array, "b h w m"]) -> Float[Array, "b h w c"]:
        for number in (1, 2):
            conv = Conv(self.features, 3, kernel_init=self.kernel_init, dtype=self.dtype, name=f"conv_{number}")
            x = nn.relu(conv(x))
        return x


class ExpandingLevel(nn.Module):
    """Coarse maps, each doubled by its own transposed convolution, joined with the skips; then `TwoConvs`."""

    features: int
    kernel_init: KernelInit = GLOROT_UNIFORM
    dtype: DTypeLike | None = None

    @nn.compact
    def __call__(
        self, coarse: Sequence[Float[Array, "b half_h half_w m"]], skips: Sequence[Float[Array, "b h w c"]]
    ) -> Float[Array, "b h w c"]:
        common = {"kernel_init": self.kernel_init, "dtype": self.dtype}
        ups = [Double(self.features, **common, name=f"double_{i}")(x) for i, x in enumerate(coarse, start=1)]
        return TwoConvs(self.features, **common, name="convs")(jnp.concatenate([*ups, *skips], axis=-1))


class Double(nn.Module):
    """Transposed convolution of side 2 and stride 2, with bias: windows do not overlap, each pixel becomes four."""

    features: int
    kernel_init: KernelInit = GLOROT_UNIFORM
    dtype: DTypeLike | None = None

    @nn.compact
    def __call__(self, x: Float[Array, "b h w m"]) -> Float[Array, "b h2 w2 c"]:
        batch, height, width, channels = x.shape
        kernel = self.param("kernel", self.kernel_init, (2, 2, channels, self.features), jnp.float32)
        bias = self.param("bias", nn.initializers.zeros_init(), (self.features,), jnp.float32)
        dtype = self.dtype or jnp.result_type(x, kernel)
        four = jnp.einsum("bhwm,ijmc->bhiwjc", x.astype(dtype), kernel.astype(dtype))
        four = four + over_map(bias, four)
        return four.reshape(batch, 2 * height, 2 * width, self.features)


@dataclass(frozen=True)
class UNet2DNetwork:
    """The U-Net as a pure function of its parameters."""

    module: UNet2D

    def init(self, rng: Key[Array, ""], image: Image) -> Params:
        # Lazily: no forward pass is computed, nor compiled, to draw weights.
        return self.module.lazy_init(rng, jax.ShapeDtypeStruct(image.shape, image.dtype))["params"]

    def __call__(self, params: Params, image: Image) -> Logits:
        return self.module.apply({"params": params}, image)  # pyright: ignore[reportReturnType]


def make_system(
    *,
    optimizers: Optimizers,
    modalities: Sequence[str],
    classes: int,
    loss: SegmentationLoss,
    form: UNet2DForm = SINGLE_ARM,
) -> Segmentation:
    """A U-Net on slices, with one contracting path or one per modality."""
    return Segmentation(
        network=Stateless(UNet2DNetwork(form.network(modalities, classes))),
        channels=tuple(range(len(modalities))),
        loss=loss,
        optimizers=optimizers,
        geometry=form.geometry(),
        name="segmentation",
    )
