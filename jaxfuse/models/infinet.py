"""InfiNet: 2D segmentation of infant brain MRI by two encoders whose maxima are unpooled to their places.

Source: "InfiNet: Fully Convolutional Networks for Infant Brain MRI Segmentation" (2018) and its author's public code.
One arm per modality pools three times; a fusion block unpools the coarse maps with the indices of every arm, so that
each arm's edges stay where they were, and joins the arms' maps of that resolution; the first fusion block stands at
the bottom and takes the pooled maps straight, with no convolution between.

Departs from the paper's text as its author's code does, since only so the parameters come to the published 0.74 M:
two convolutions per encoder block, and batch normalization of the input and of both concatenations. Departs from that
code: a maximum that several pixels share is unpooled to the first of them, as the text and indices have it
(`ties="all"` for the code's way). The output sees 44 or 52 pixels along an axis, depending on its place, and not the
whole brain as the text says.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import partial
from typing import Any, NamedTuple

import flax.linen as nn
import jax.numpy as jnp

from jaxfuse.arrays import Array, Float, Logits, Shown
from jaxfuse.errors import UserError
from jaxfuse.learning.networks import LinenNetwork
from jaxfuse.learning.state import Optimizers
from jaxfuse.learning.system import Geometry, Segmentation, SegmentationLoss
from jaxfuse.nn.batch_norm import BatchNorm
from jaxfuse.nn.conv import Conv
from jaxfuse.nn.forms import check_choices
from jaxfuse.nn.index_pool import TIES, max_pool_with_index, unpool
from jaxfuse.nn.initializers import KernelInit, glorot_uniform
from jaxfuse.nn.precision import DTYPES, layer_dtype
from jaxfuse.nn.presence import MASKED, ZEROED, gains, where_present, with_gains

GLOROT_UNIFORM = glorot_uniform()

Map = Float[Array, "b h w c"]


@dataclass(frozen=True)
class InfiNetForm:
    """The form of the network; the defaults are the paper's size.

    Attributes:
        width: channels of every layer.
        blocks: encoder blocks of an arm, and fusion blocks; sides of the image are multiples of 2**blocks.
        convs_per_block: 3x3 convolutions of an encoder block; the paper's text has 1.
        mix_kernel: side of the kernel that mixes the unpooled maps, 1 or 3.
        input_bn: normalizes the image first.
        fused_bn: normalizes what a fusion block's 3x3 convolution reads, the mixed maps and those of the arms.
        bias: convolutions add one number per output channel.
        ties: "first" or "all", the places of a maximum that several pixels share (see `max_pool_with_index`).
        single_encoder: one arm for all modalities, stacked, instead of one each.
        norm_eps, norm_decay: added to the variance; of the running statistics.
        dtype: arithmetic, "float32" or "bfloat16"; weights, statistics and logits are float32.
        remat: every block is computed again in the backward pass.
        presence: what is made of absent modalities: "zeroed", or "masked": their arms are left out, and sums over the
            arms scaled up; not with `single_encoder`.
    """

    width: int = 64
    blocks: int = 3
    convs_per_block: int = 2
    mix_kernel: int = 1
    input_bn: bool = True
    fused_bn: bool = True
    bias: bool = True
    ties: str = "first"
    single_encoder: bool = False
    norm_eps: float = 1e-3
    norm_decay: float = 0.99
    dtype: str = "float32"
    remat: bool = False
    kernel_init: KernelInit = GLOROT_UNIFORM
    presence: str = ZEROED

    def network(self, modalities: Sequence[str], classes: int) -> InfiNet:
        """The network of this form, for these input channels and so many classes.

        Raises:
            UserError: an option has none of its values.
        """
        choices = {"ties": TIES, "dtype": DTYPES, "mix_kernel": (1, 3)}
        check_choices(self, {**choices, "presence": (ZEROED,) if self.single_encoder else (ZEROED, MASKED)})
        for name in ("width", "blocks", "convs_per_block"):
            if (value := getattr(self, name)) < 1:
                raise UserError(f"{name} is {value}; give a positive number")
        if not 0.0 <= self.norm_decay < 1.0:
            raise UserError(f"norm_decay is {self.norm_decay}; give a rate from 0 to below 1")
        return InfiNet(self, tuple(modalities), classes)

    def geometry(self) -> Geometry:
        return Geometry(2, 2**self.blocks)

    def norm(self, name: str, train: bool) -> BatchNorm:
        """Batch normalization with scale and shift, by the batch's own statistics in training."""
        return BatchNorm(train, name=name, decay=self.norm_decay, eps=self.norm_eps, dtype=layer_dtype(self.dtype))

    def block(self, module: type[nn.Module], train: bool) -> Any:
        """A block, to be computed again in the backward pass where the form says so."""
        return partial(nn.remat(module) if self.remat else module, self, train)


# The paper's size.
PAPER = InfiNetForm()


class InfiNet(nn.Module):
    """Slices (b h w m), channels in the order of `modalities` -> logits (b h w k), float32.

    Parameters and statistics lie under "<modality>_arm" ("stacked_arm" for a single encoder), "fusion_<level>" from the
    bottom's number down to 1, and "head".

    Raises (when traced):
        UserError: the image has another number of channels, or cannot be halved so often.
    """

    form: InfiNetForm
    modalities: tuple[str, ...]
    classes: int

    @nn.compact
    def __call__(self, image: Float[Array, "b h w m"] | Shown, *, train: bool = False) -> Logits:
        present = image.presence if isinstance(image, Shown) else None
        image = image.image if isinstance(image, Shown) else image
        self._check(image)
        form = self.form
        if form.single_encoder:
            inputs = {"stacked": image}
        else:
            inputs = {name: image[..., i : i + 1] for i, name in enumerate(self.modalities)}
        arms = [Arm(form, train, name=f"{name}_arm")(slices) for name, slices in inputs.items()]
        coarse = [arm.bottom for arm in arms]
        fuse = form.block(FusionBlock, train)
        for level in range(form.blocks - 1, -1, -1):
            maps, indices = [arm.maps[level] for arm in arms], [arm.indices[level] for arm in arms]
            fused = fuse(name=f"fusion_{level + 1}")(coarse, maps, indices, present)
            # From here on one map is unpooled once per arm.
            coarse = [fused] * len(arms)
        # In float32 even on bfloat16 features, so that losses start from full precision.
        return Conv(self.classes, 1, use_bias=form.bias, kernel_init=form.kernel_init, name="head")(coarse[0])

    def _check(self, image: Array) -> None:
        divisor = 2**self.form.blocks
        if image.ndim != 4 or any(side % divisor for side in image.shape[1:3]):
            raise UserError(
                f"InfiNet of {self.form.blocks} blocks takes slices (b h w m) whose sides are multiples of {divisor}, "
                f"got shape {image.shape}; pad or crop them"
            )
        if image.shape[-1] != len(self.modalities):
            raise UserError(
                f"InfiNet was made for the modalities {', '.join(self.modalities)}, "
                f"got slices of {image.shape[-1]} channels"
            )


class Encoded(NamedTuple):
    """Outputs of an arm: its maps before each pooling and where their maxima lay, finest first; the last pooled map."""

    maps: tuple[Array, ...]
    indices: tuple[Array, ...]
    bottom: Array


class Arm(nn.Module):
    """The encoder of one modality, or of all, stacked."""

    form: InfiNetForm
    train: bool

    @nn.compact
    def __call__(self, image: Float[Array, "b h w m"]) -> Encoded:
        form = self.form
        x = form.norm("input_norm", self.train)(image) if form.input_bn else image
        encode = form.block(EncoderBlock, self.train)
        maps, indices = [], []
        for level in range(1, form.blocks + 1):
            maps.append(encode(name=f"block_{level}")(x))
            x, index = max_pool_with_index(maps[-1], ties=form.ties)
            indices.append(index)
        return Encoded(tuple(maps), tuple(indices), x)


class EncoderBlock(nn.Module):
    """3x3 layers, one after the other."""

    form: InfiNetForm
    train: bool

    @nn.compact
    def __call__(self, x: Float[Array, "b h w m"]) -> Map:
        for number in range(1, self.form.convs_per_block + 1):
            x = Layer(self.form, self.train, 3, name=f"layer_{number}")(x)
        return x


class FusionBlock(nn.Module):
    """Coarse maps and, of every arm, the map and indices at twice their resolution -> one map there.

    The coarse maps are one per arm, and each is unpooled with the indices of its arm; these are normalized and mixed,
    joined with the arms' maps, normalized and convolved.
    """

    form: InfiNetForm
    train: bool

    @nn.compact
    def __call__(
        self,
        coarse: Sequence[Float[Array, "b half_h half_w c"]],
        maps: Sequence[Map],
        indices: Sequence[Array],
        present: Array | None = None,
    ) -> Map:
        form = self.form
        unpooled = [unpool(y, index) for y, index in zip(coarse, indices, strict=True)]
        if present is not None:
            unpooled, maps = (_of_present(present, one) for one in (unpooled, maps))
        x = jnp.concatenate(unpooled, axis=-1)
        x = form.norm("unpooled_norm", self.train)(x)
        # Behind the normalization, by which channels of 0 would be something else.
        x = x if present is None else with_gains(x, gains(present, [one.shape[-1] for one in unpooled]))
        x = Layer(form, self.train, form.mix_kernel, name="mix")(x)
        x = jnp.concatenate([x, *maps], axis=-1)
        if form.fused_bn:
            x = form.norm("fused_norm", self.train)(x)
        if present is not None:
            widths = [one.shape[-1] for one in maps]
            mixed = jnp.ones((x.shape[0], x.shape[-1] - sum(widths)))
            x = with_gains(x, jnp.concatenate([mixed, gains(present, widths)], axis=1))
        return Layer(form, self.train, 3, name="fuse")(x)


def _of_present(present: Array, maps: Sequence[Map]) -> list[Map]:
    return [where_present(present[:, arm], one) for arm, one in enumerate(maps)]


class Layer(nn.Module):
    """Convolution, ReLU, batch normalization, in this order."""

    form: InfiNetForm
    train: bool
    kernel_size: int

    @nn.compact
    def __call__(self, x: Float[Array, "b h w m"]) -> Map:
        form = self.form
        common = {"use_bias": form.bias, "kernel_init": form.kernel_init, "dtype": layer_dtype(form.dtype)}
        y = Conv(form.width, self.kernel_size, **common, name="conv")(x)
        return form.norm("norm", self.train)(nn.relu(y))


def make_system(
    *,
    optimizers: Optimizers,
    modalities: Sequence[str],
    classes: int,
    loss: SegmentationLoss,
    form: InfiNetForm = PAPER,
) -> Segmentation:
    """InfiNet on slices; the paper's two modalities are T1 and T2, and each one has its arm."""
    return Segmentation(
        network=LinenNetwork(form.network(modalities, classes)),
        channels=tuple(range(len(modalities))),
        loss=loss,
        optimizers=optimizers,
        geometry=form.geometry(),
        name="segmentation",
        tells_presence=form.presence == MASKED,
    )
