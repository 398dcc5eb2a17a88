"""Hi-Net's modality-specific networks: an encoder for each source and the decoder that gives the source back.

No connection skips from encoder to decoder, so that whatever the decoder needs is in the deepest maps.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

import flax.linen as nn

from jaxfuse.arrays import Array, Bool, Float
from jaxfuse.models.hinet.form import HiNetForm, Map
from jaxfuse.models.hinet.layers import DecoderStage, EncoderStage, There, ToImage

LEVELS = 3


class Encoder(nn.Module):
    """Image -> the maps of each level after its pooling, at 1/2, 1/4 and 1/8 of the sides, finest first."""

    form: HiNetForm
    train: bool

    @nn.compact
    def __call__(self, image: Float[Array, "b h w m"], there: There = None) -> tuple[Array, ...]:
        stage = self.form.block(EncoderStage, self.train)
        x, maps = image, []
        for level in range(LEVELS):
            x = stage(self.form.width * 2**level, name=f"stage_{level + 1}")(x, there)
            maps.append(x)
        return tuple(maps)


class Decoder(nn.Module):
    """The deepest maps -> the image that they came from, in (-1, 1)."""

    form: HiNetForm
    train: bool

    @nn.compact
    def __call__(self, x: Map, there: There = None) -> Float[Array, "b h8 w8 1"]:
        n = self.form.width
        stage = self.form.block(DecoderStage, self.train)
        for number, widths in enumerate(((4 * n,), (4 * n, 2 * n), (2 * n, n)), start=1):
            x = stage(widths, name=f"stage_{number}")(x, there)
        return self.form.block(ToImage, self.train)(name="image")(x, there)


class Autoencoded(NamedTuple):
    """levels: by level, finest first, the map of every source; images: the sources as they are given back."""

    levels: tuple[tuple[Array, ...], ...]
    images: tuple[Array, ...]


def autoencode(
    form: HiNetForm,
    train: bool,
    sources: Sequence[str],
    image: Float[Array, "b h w m"],
    presence: Bool[Array, "b m"] | None = None,
) -> Autoencoded:
    """Every source through an encoder and a decoder of its own; called within the module that shall hold them.

    Where a presence is told, an encoder and its decoder learn from the examples alone that have their source.
    """
    pyramids, images = [], []
    for channel, name in enumerate(sources):
        there = None if presence is None else presence[:, channel]
        pyramids.append(Encoder(form, train, name=f"encoder_{name}")(image[..., channel : channel + 1], there))
        images.append(Decoder(form, train, name=f"decoder_{name}")(pyramids[-1][-1], there))
    return Autoencoded(tuple(zip(*pyramids, strict=True)), tuple(images))
