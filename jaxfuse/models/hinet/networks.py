"""Hi-Net's generators: hybrid fusion, and the early and late fusion that it is compared with.

Each takes the sources as channels, in (-1, 1), and gives the target in channel 0 and behind it, where every source has
its own encoder, the sources as they are given back; each has a last convolution of its own.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence

import flax.linen as nn
import jax.numpy as jnp

from jaxfuse.arrays import Array, Float
from jaxfuse.errors import UserError
from jaxfuse.models.hinet.autoencoder import LEVELS, Encoder, autoencode
from jaxfuse.models.hinet.form import KINDS, HiNetForm, Map
from jaxfuse.models.hinet.fusion import JOINS, FusionBlock, FusionNetwork, SkipBlock
from jaxfuse.models.hinet.layers import Layer, ToImage
from jaxfuse.nn.unet import upsample_nearest

DIVISOR = 2**LEVELS

Sources = Float[Array, "b h w s"]
Images = Float[Array, "b h w k"]


class SynthesisNetwork(nn.Module):
    """The deepest map and the sources' maps by level, finest first -> the target in (-1, 1).

    `block` makes, of a width and a name, what joins the maps of a level with what comes from below.
    """

    form: HiNetForm
    train: bool
    block: Callable[..., nn.Module]

    @nn.compact
    def __call__(self, bottom: Map, levels: Sequence[Sequence[Array]]) -> Float[Array, "b h8 w8 1"]:
        form, n = self.form, self.form.width
        x = Layer(form, self.train, 8 * n, form.fusion_activation, name="layer_1")(bottom)
        x = Layer(form, self.train, 4 * n, nn.relu, name="layer_2")(x)
        for number, (maps, width) in enumerate(zip(levels[::-1], (2 * n, n, n), strict=True), start=1):
            x = upsample_nearest(self.block(width, name=f"block_{number}")(maps, x))
        return form.block(ToImage, self.train)(name="image")(x)


class Hybrid(nn.Module):
    """Hi-Net: sources are fused at each level, and the synthesis network reads the maps of each level again.

    Raises (when traced), as `Early` and `Late`:
        UserError: the image has another number of channels, or cannot be halved so often.
    """

    form: HiNetForm
    sources: tuple[str, ...]

    @nn.compact
    def __call__(self, image: Sources, *, train: bool = False) -> Images:
        check_image(image, self.sources)
        form = self.form
        levels, images = autoencode(form, train, self.sources, image)
        fused = FusionNetwork(form, train, JOINS[form.fusion_block], name="fusion")(levels)
        block = form.block(FusionBlock, train, JOINS[form.synthesis_block], nn.relu)
        target = SynthesisNetwork(form, train, block, name="synthesis")(fused, levels)
        return jnp.concatenate([target, *images], axis=-1)


class Early(nn.Module):
    """One encoder for the sources, stacked, and no reconstruction; a U-Net in all but name."""

    form: HiNetForm
    sources: tuple[str, ...]

    @nn.compact
    def __call__(self, image: Sources, *, train: bool = False) -> Images:
        check_image(image, self.sources)
        maps = Encoder(self.form, train, name="encoder")(image)
        block = self.form.block(SkipBlock, train)
        synthesis = SynthesisNetwork(self.form, train, block, name="synthesis")
        return synthesis(maps[-1], tuple((one,) for one in maps))


class Late(nn.Module):
    """The sources' deepest maps are concatenated and those above joined in the synthesis network alone."""

    form: HiNetForm
    sources: tuple[str, ...]

    @nn.compact
    def __call__(self, image: Sources, *, train: bool = False) -> Images:
        check_image(image, self.sources)
        levels, images = autoencode(self.form, train, self.sources, image)
        block = self.form.block(SkipBlock, train)
        synthesis = SynthesisNetwork(self.form, train, block, name="synthesis")
        target = synthesis(jnp.concatenate(levels[-1], axis=-1), levels)
        return jnp.concatenate([target, *images], axis=-1)


GENERATORS: dict[str, Callable[..., nn.Module]] = dict(zip(KINDS, (Hybrid, Early, Late), strict=True))


def check_image(image: Array, sources: Sequence[str]) -> None:
    """Refuses, when traced, an image that a generator cannot take."""
    if image.ndim != 4 or any(side % DIVISOR for side in image.shape[1:3]):
        raise UserError(
            f"Hi-Net takes slices (b h w m) whose sides are multiples of {DIVISOR}, got shape {image.shape}; "
            "pad or crop them"
        )
    if image.shape[-1] != len(sources):
        raise UserError(
            f"Hi-Net was made for the sources {', '.join(sources)}, got slices of {image.shape[-1]} channels"
        )
