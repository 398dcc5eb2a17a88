"""The hyper-dense network."""

from __future__ import annotations

from collections.abc import Sequence

import flax.linen as nn
import jax.numpy as jnp
from jax.typing import DTypeLike

from jaxfuse.arrays import Array, Float, Image, Shown
from jaxfuse.errors import UserError
from jaxfuse.models.hyperfusion.layers import Blocks, Fusions, Head, PerStream
from jaxfuse.nn.initializers import KernelInit
from jaxfuse.nn.presence import gains, where_present, with_gains


class HyperDense(nn.Module):
    """Image (b *space m), a stream per channel -> logits (b *inner k), float32; its rank follows the image.

    Attributes:
        filters: features of each layer; each layer takes a voxel from every side.
        fused: ResFuse modules after each layer (HyperFusionNet).
        recursive: the next layers concatenate fused features, not outputs of convolutions.
        remat: makes the tensors between convolutions again in the backward pass.
        masked: it is given which modalities are present. What the streams of absent ones make is 0 and is read by none,
            and sums over the streams are scaled up to those of all.
    """

    streams: int
    classes: int
    filters: tuple[int, ...]
    fused: bool
    recursive: bool
    head_widths: tuple[int, ...]
    head_activation: str
    remat: bool
    dtype: DTypeLike | None
    kernel_init: KernelInit
    head_init: KernelInit
    masked: bool = False

    def setup(self) -> None:
        arithmetic = (self.dtype, self.kernel_init)
        self.blocks = Blocks(self.streams, self.filters, *arithmetic)
        if self.fused:
            self.resfuse = Fusions(*arithmetic)
        sizes = (self.streams, self.head_widths, self.classes)
        self.head = Head(*sizes, self.head_activation, self.dtype, self.head_init)

    def __call__(self, image: Image | Shown, *, train: bool) -> Float[Array, "b *inner k"]:
        present = image.presence if isinstance(image, Shown) else None
        image = image.image if isinstance(image, Shown) else image
        self._check(image)
        step = nn.remat(HyperDense._layer, static_argnums=(1, 3)) if self.remat else HyperDense._layer
        newest, _ = step(self, 1, (tuple(jnp.split(image, self.streams, axis=-1)),), train, present)
        # For each stream the tensors to concatenate, the newest last; one entry where all streams have the same.
        sources = (newest,) * (self.streams if self.recursive else 1)
        for layer in range(2, len(self.filters) + 1):
            newest, read = step(self, layer, sources, train, present)
            older = [(fused,) for fused in read] if self.recursive else sources
            sources = tuple((*tensors, *newest) for tensors in older)
        last = self._read(len(self.filters), sources, present)
        if present is not None and self.fused:
            own = gains(present, (1,) * self.streams)
            last = [with_gains(x, jnp.repeat(own[:, m : m + 1], x.shape[-1], 1)) for m, x in enumerate(last)]
        elif present is not None:
            last = [with_gains(last[0], self._gains(len(self.filters), present))]
        return self.head(last)

    def _layer(
        self, layer: int, sources: tuple[tuple[Array, ...], ...], train: bool, present: Array | None
    ) -> tuple[tuple[Array, ...], PerStream]:
        """The outputs of a layer's convolutions, and what they read where that goes on to the next layers."""
        inputs = sources[0] if layer == 1 else self._read(layer - 1, sources, present)
        gain = None if present is None or layer == 1 or self.fused else self._gains(layer - 1, present)
        made = self.blocks(layer, inputs, train=train, gain=gain)
        if present is not None:
            made = tuple(where_present(present[:, m], x) for m, x in enumerate(made))
        return made, inputs if self.recursive else ()

    def _gains(self, layer: int, present: Array) -> Float[Array, "b c"]:
        """The gains of the channels of all streams up to a layer, as they are concatenated."""
        return jnp.concatenate([gains(present, (width,) * self.streams) for width in self.filters[:layer]], axis=1)

    def _read(self, layer: int, sources: tuple[tuple[Array, ...], ...], present: Array | None) -> PerStream:
        """The features that streams read after a layer: d, or with fusion r."""
        dense = tuple(_concatenated(tensors) for tensors in sources)
        if not self.fused:
            return dense
        if present is not None:
            dense = tuple(with_gains(one, self._gains(layer, present)) for one in dense)
        return self.resfuse(layer, sources[0][-self.streams :], dense)

    def _check(self, image: Array) -> None:
        least = 2 * len(self.filters) + 1
        if image.ndim not in (4, 5) or image.shape[-1] != self.streams or min(image.shape[1:-1]) < least:
            raise UserError(
                f"a network of {len(self.filters)} valid convolutions and {self.streams} modalities takes images "
                f"(b h w {self.streams}) or (b d h w {self.streams}) with sides of at least {least}, "
                f"got shape {image.shape}; use larger patches or the modalities that it was built for"
            )


def _concatenated(tensors: Sequence[Array]) -> Array:
    """All channels, at the center where the last and smallest tensor lies."""
    sides = tensors[-1].shape[1:-1]

    def center(x: Array) -> Array:
        starts = [(have - want) // 2 for have, want in zip(x.shape[1:-1], sides, strict=True)]
        window = (slice(start, start + side) for start, side in zip(starts, sides, strict=True))
        return x[(slice(None), *window)]

    return jnp.concatenate([center(x) for x in tensors], axis=-1)
