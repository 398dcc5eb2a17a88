"""The fusion module of Fuse4Seg (2024): two to four gray images of one slice become one.

An encoder that all modalities share splits an image into a low and a high band; each band attends to the same band of
the other modalities (Eq. 8); the bands are summed over modalities, pass a fusion layer each, and a decoder makes the
image. Layers and sizes are those of the public code of CDDFuse (Zhao et al., 2023), on which the paper builds.

Departs from both: the sum over modalities is twice the mean over those present, which is the plain sum for two and
keeps the scale for one, three or four, so that one set of weights serves every combination; slots without an image
are set to zero before anything reads them. The decoder adds no image inside its sigmoid unless asked to, or losses
could be met by the shortcut. "Without decoder" keeps its first 1x1 convolution, which joins both bands in one
embedding.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp

from jaxfuse.arrays import Array, Float, Image
from jaxfuse.errors import UserError
from jaxfuse.losses.fusion import in_gray
from jaxfuse.nn.conv import Conv
from jaxfuse.nn.cross_attention import DIRECTIONS, CrossAttention
from jaxfuse.nn.forms import check_choices
from jaxfuse.nn.initializers import KernelInit, fan_in_uniform
from jaxfuse.nn.invertible import CouplingStack
from jaxfuse.nn.precision import DTYPES, layer_dtype
from jaxfuse.nn.restormer import LOW_BLOCKS, LowBlock, RestormerBlock

CROSS_ATTENTION = ("tokens", "channel", "none")
RESIDUALS = (None, "max")
COMBINE = ("all", "fold")
# Gray; red and cyan; red, green and blue.
IMAGE_CHANNELS = (1, 2, 3)
MOST_SLOTS = 4

Sources = Float[Array, "b h w m"]
Features = Float[Array, "b h w c"]


@dataclass(frozen=True)
class FusionForm:
    """The form of the fusion module; the defaults are the paper's size.

    Attributes:
        dim: channels of a band.
        front, decoder_blocks: Restormer blocks of the encoder and of the decoder.
        heads: of every attention; `dim` is a multiple of it (of twice as many for the low block "lsra").
        high_nodes: coupling nodes of the encoder's high band.
        expansion: of the Restormer blocks' feed-forward layers.
        low_block: "cddfuse" or "lsra" (see `LowBlock`).
        clamp: soft bound of the coupling nodes' log-scale; None has no bound.
        cross_attention: "tokens" (means of square cells), "channel" or "none" (row w/o cross-attention).
        cell: side in pixels of a token's cell; both sides of an image are multiples of it. 8 makes 28 x 28 tokens of
            a patch of 224 x 224 pixels, and 30 x 30 of a picture of 240 x 240.
        direction: "both", or "12" for queries from a slot to later slots only.
        residual: None, or "max" to add the maximum over sources inside the decoder's sigmoid.
        combine: more than two sources at once ("all"), or one after the other, F(F(a, b), c) ("fold").
        image_channels: of the fused image: 1 is gray, 2 are red and cyan, 3 red, green and blue. What losses and
            critics compare with the sources is its luminance, so that hues are left to the task.
        decoder: False is the row w/o decoder: only bands and embedding are made.
        dtype: arithmetic, "float32" or "bfloat16"; weights, norms, softmax and exponentials are float32.
        remat: every block is computed again in the backward pass.
        kernel_init: the default is PyTorch's, with which the public code starts.
    """

    dim: int = 64
    front: int = 4
    decoder_blocks: int = 4
    heads: int = 8
    high_nodes: int = 3
    expansion: float = 2.0
    low_block: str = "cddfuse"
    clamp: float | None = None
    cross_attention: str = "tokens"
    cell: int = 8
    direction: str = "both"
    residual: str | None = None
    combine: str = "all"
    image_channels: int = 1
    decoder: bool = True
    dtype: str = "float32"
    remat: bool = False
    kernel_init: KernelInit = fan_in_uniform()

    def network(self) -> FusionNet:
        """The network of this form.

        Raises:
            UserError: an option has none of its values.
        """
        choices = {
            "low_block": LOW_BLOCKS,
            "cross_attention": CROSS_ATTENTION,
            "direction": DIRECTIONS,
            "residual": RESIDUALS,
            "combine": COMBINE,
            "image_channels": IMAGE_CHANNELS,
            "dtype": DTYPES,
        }
        check_choices(self, choices)
        return FusionNet(self)

    @property
    def divisor(self) -> int:
        """Sides of an image are multiples of it."""
        return self.cell if self.cross_attention == "tokens" else 1

    def attends_to_places(self, slots: int) -> bool:
        """Whether fusing so many slots makes attention maps that say something about places."""
        return self.cross_attention == "tokens" and (self.combine == "all" or slots == 2)

    def block(self, module: type[nn.Module]) -> type[nn.Module]:
        """A block, to be computed again in the backward pass where the form says so."""
        return nn.remat(module) if self.remat else module

    @property
    def common(self) -> dict[str, Any]:
        """Options of every layer."""
        return {"kernel_init": self.kernel_init, "dtype": layer_dtype(self.dtype)}

    def low(self, name: str | None = None) -> nn.Module:
        """The layer of a low band."""
        return self.block(LowBlock)(self.heads, self.low_block, **self.common, name=name)

    def high(self, nodes: int, name: str | None = None) -> nn.Module:
        """The layers of a high band."""
        return CouplingStack(self.dim, nodes, self.clamp, self.remat, **self.common, name=name)


class Encoder(nn.Module):
    """Image -> (low band, high band); all modalities share it."""

    form: FusionForm

    @nn.compact
    def __call__(self, image: Float[Array, "b h w 1"]) -> tuple[Features, Features]:
        form = self.form
        x = Conv(form.dim, 3, use_bias=False, **form.common, name="embed")(image)
        for number in range(1, form.front + 1):
            block = form.block(RestormerBlock)(form.heads, form.expansion, **form.common, name=f"front_{number}")
            x = block(x)
        return form.low("low")(x), form.high(form.high_nodes, "high")(x)


class FusionLayers(nn.Module):
    """Bands summed over modalities -> fused bands."""

    form: FusionForm

    @nn.compact
    def __call__(self, low: Features, high: Features) -> tuple[Features, Features]:
        return self.form.low("low")(low), self.form.high(1, "high")(high)


class Decoder(nn.Module):
    """Both bands -> embedding (`join`) -> image in (0, 1), float32."""

    form: FusionForm

    def setup(self) -> None:
        form = self.form
        self.merge = Conv(form.dim, 1, use_bias=False, **form.common)
        block = form.block(RestormerBlock)
        self.block = [block(form.heads, form.expansion, **form.common) for _ in range(form.decoder_blocks)]
        self.narrow = Conv(form.dim // 2, 3, use_bias=False, **form.common)
        self.image = Conv(form.image_channels, 3, use_bias=False, **form.common)

    def join(self, low: Features, high: Features) -> Features:
        """The two bands in one map of as many channels as either."""
        return self.merge(jnp.concatenate([low, high], axis=-1))

    def __call__(self, embedding: Features, added: Float[Array, "b h w 1"] | None = None) -> Float[Array, "b h w k"]:
        x = embedding
        for block in self.block:
            x = block(x)
        x = self.image(nn.leaky_relu(self.narrow(x), 0.01))
        x = x.astype(jnp.promote_types(x.dtype, jnp.float32))
        return jax.nn.sigmoid(x if added is None else x + added)


class BandAttention(nn.Module):
    """Cross-attention within the low bands and within the high bands, with weights of their own."""

    form: FusionForm

    @nn.compact
    def __call__(
        self, low: Array, high: Array, presence: Float[Array, "b m"]
    ) -> tuple[tuple[Array, Array], dict[str, Array]]:
        form = self.form
        cell = form.cell if form.cross_attention == "tokens" else None
        results = {
            name: form.block(CrossAttention)(form.heads, cell, form.direction, **form.common, name=name)(band, presence)
            for name, band in (("low", low), ("high", high))
        }
        return (results["low"][0], results["high"][0]), {name: maps for name, (_, maps) in results.items()}


class FusionNet(nn.Module):
    """Sources (b h w m) in [0, 1], one modality per slot, m from 2 to 4 -> one fused image.

    `presence`, (b m) or (m), is 1 where a slot holds an image, else 0; None means all do. What an empty slot holds has
    no influence on anything. An example without any source gives an image of no meaning.
    Parameters lie under "encoder", "cross_attention", "fusion" and "decoder".
    """

    form: FusionForm

    def setup(self) -> None:
        self.encoder = Encoder(self.form)
        self.fusion = FusionLayers(self.form)
        self.decoder = Decoder(self.form)
        if self.form.cross_attention != "none":
            self.cross_attention = BandAttention(self.form)

    def __call__(self, sources: Image, presence: Array | None = None, *, attention: bool = False) -> dict[str, Any]:
        return self.fuse(sources, presence, attention=attention)

    def fuse(self, sources: Image, presence: Array | None = None, *, attention: bool = False) -> dict[str, Any]:
        """The fused image and what it is made of.

        Returns:
            "fused" (b h w k), float32 (absent without decoder); "embedding" (b h w c), the fused bands in one map;
            "bands", {"low": m arrays (b h w c), "high": the same}, of the encoder, one per slot; with `attention`
            also "attn", {"low": (b m_query m_key heads q k), "high": the same}, without gradient.

        Raises:
            UserError: sources, presence or the combination of options cannot be.
        """
        if sources.ndim != 4 or not 2 <= sources.shape[-1] <= MOST_SLOTS:
            raise UserError(f"fusion takes 2 to {MOST_SLOTS} sources (b h w m), got shape {sources.shape}")
        present = _present(presence, sources)
        # Chosen, not multiplied: whatever an empty slot holds, it reaches neither result nor gradient.
        sources = jnp.where(present[:, None, None, :] > 0, sources, 0.0)
        if self.form.combine == "fold" and sources.shape[-1] > 2:
            return self._fold(sources, present, attention)
        if attention and self.form.cross_attention == "none":
            raise UserError("there are no attention maps without cross-attention; ask for none or change the form")
        return self._combine(sources, present, attention)

    def reconstruct(self, sources: Sources) -> dict[str, Any]:
        """Each source encoded and decoded alone, for pre-training.

        Returns:
            "reconstruction" (b h w m), float32, the luminance of "channels" (b h w m k); "low" and "high", m arrays
            (b h w c) each.
        """
        if not self.form.decoder:
            raise UserError("there is no reconstruction without decoder; pre-train with a form that has one")
        slots = sources.shape[-1]
        low, high = self._encode(sources)
        embedding = self.decoder.join(_merge_slots(low), _merge_slots(high))
        added = None if self.form.residual is None else _merge_slots(jnp.moveaxis(sources, -1, 1)[..., None])
        image = self.decoder(embedding, added)
        gray = jnp.moveaxis(in_gray(image).reshape(-1, slots, *image.shape[1:3]), 1, -1)
        channels = jnp.moveaxis(image.reshape(-1, slots, *image.shape[1:]), 1, -2)
        return {"reconstruction": gray, "channels": channels, "low": _by_slot(low), "high": _by_slot(high)}

    def _encode(self, sources: Sources) -> tuple[Array, Array]:
        """Both bands (b m h w c) of every slot, the slots as further examples of one batch."""
        images = _merge_slots(jnp.moveaxis(sources, -1, 1)[..., None])
        low, high = self.encoder(images)
        split = (sources.shape[0], sources.shape[-1], *low.shape[1:])
        return low.reshape(split), high.reshape(split)

    def _combine(self, sources: Sources, present: Float[Array, "b m"], attention: bool) -> dict[str, Any]:
        low, high = self._encode(sources)
        result: dict[str, Any] = {"bands": {"low": _by_slot(low), "high": _by_slot(high)}}
        if self.form.cross_attention != "none":
            (low, high), maps = self.cross_attention(low, high, present)
            if attention:
                result["attn"] = maps
        fused = self.fusion(_sum_of_bands(low, present), _sum_of_bands(high, present))
        result["embedding"] = self.decoder.join(*fused)
        if self.form.decoder:
            added = None if self.form.residual is None else _maximum(sources)
            result["fused"] = self.decoder(result["embedding"], added)
        return result

    def _fold(self, sources: Sources, present: Float[Array, "b m"], attention: bool) -> dict[str, Any]:
        """F(F(a, b), c) over the slots that are present, in their order."""
        if attention or not self.form.decoder or self.form.image_channels > 1:
            raise UserError(
                "combine='fold' with more than 2 sources gives no maps and needs the decoder and gray images; use 'all'"
            )
        slots = sources.shape[-1]
        low, high = (_by_slot(band) for band in self._encode(sources))
        carry, carried = sources[..., :1], present[:, 0]
        result: dict[str, Any] = {}
        for slot in range(1, slots):
            source, given = sources[..., slot : slot + 1], present[:, slot]
            both = jnp.stack([carried, given], axis=-1)
            step = self._combine(jnp.concatenate([carry, source], axis=-1), both, False)
            new = {name: step[name] for name in ("fused", "embedding")}
            # A missing source leaves the result of the sources before it as it is.
            result = _select(given, new, result) if result else new
            carry = _select(carried * given, step["fused"], _select(given, source, carry))
            carried = jnp.maximum(carried, given)
        return {**result, "bands": {"low": low, "high": high}}


def _present(presence: Array | None, sources: Sources) -> Float[Array, "b m"]:
    shape = (sources.shape[0], sources.shape[-1])
    if presence is None:
        return jnp.ones(shape, jnp.float32)
    if presence.shape not in (shape, shape[1:]):
        raise UserError(f"presence must be {shape} or {shape[1:]} for sources {sources.shape}, got {presence.shape}")
    return jnp.broadcast_to(presence > 0, shape).astype(jnp.float32)


def _merge_slots(x: Float[Array, "b m h w c"]) -> Float[Array, "bm h w c"]:
    # Slots vary fastest, so that a batch sharded over devices stays where it is.
    return x.reshape(-1, *x.shape[2:])


def _by_slot(bands: Float[Array, "b m h w c"]) -> tuple[Array, ...]:
    return tuple(bands[:, slot] for slot in range(bands.shape[1]))


def _sum_of_bands(bands: Float[Array, "b m h w c"], present: Float[Array, "b m"]) -> Features:
    """Twice the mean over the slots that are present: the plain sum for two."""
    weights = 2.0 * present / jnp.maximum(present.sum(-1, keepdims=True), 1.0)
    return jnp.einsum("bm,bmhwc->bhwc", weights.astype(bands.dtype), bands)


def _maximum(sources: Sources) -> Float[Array, "b h w 1"]:
    # Images are not negative, so an empty slot's zeros, and the start at zero, change no maximum.
    return jnp.max(sources, axis=-1, keepdims=True, initial=0.0)


def _select(condition: Float[Array, b], chosen: Any, otherwise: Any) -> Any:
    """Per example of the batch, one of two trees of equal shapes."""

    def pick(a: Array, b: Array) -> Array:
        return jnp.where(condition.reshape(-1, *(1,) * (a.ndim - 1)) > 0, a, b)

    return jax.tree.map(pick, chosen, otherwise)
