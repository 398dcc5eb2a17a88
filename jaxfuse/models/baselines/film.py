"""A fusion network in the manner of FILM ("Image Fusion via Vision-Language Model", Zhao et al., ICML 2024).

A Restormer encoder turns each image into features. Text then looks at them in three rounds: tokens of the image are
keys and values, text is the query, and what it finds weighs the tokens; the weighed features join the plain ones, and
between rounds further Restormer blocks follow. A Restormer decoder makes one image of the features of all sources.
Sizes are those of the public code. Its loss is L1 to the maximum over the sources and, 20 times that, L1 to the larger
Sobel magnitude: `jaxfuse.losses.fusion.fusion_content` with gradient=20.

Departs from it: there are no captions, so the text is one learned vector, the same for all images. All sources share
one set of weights, and their features meet as mean and maximum over the sources present, from which two sources can be
told apart but for their order: two to four sources, in any order, are fused by the same weights. A token is a square of
pixels of one channel, where the code resizes each map to 288 x 384 pixels and cuts it into runs of 256 pixels: nothing
is resized, and a token is a place. The image encoder may be another network, as Fuse4Seg's variant "-P" asks for; its
maps are joined by a 1x1 convolution.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp

from jaxfuse.arrays import Array, Float, Image
from jaxfuse.errors import UserError
from jaxfuse.nn.channel_weights import PReLU
from jaxfuse.nn.conv import Conv
from jaxfuse.nn.cross_attention import token_attention
from jaxfuse.nn.forms import check_choices
from jaxfuse.nn.initializers import KernelInit, fan_in_uniform, normal
from jaxfuse.nn.maximum import largest
from jaxfuse.nn.precision import DTYPES, layer_dtype
from jaxfuse.nn.restormer import RestormerBlock, check_heads

MOST_SLOTS = 4
# With which the PReLU of PyTorch begins.
SLOPE = 0.25

Features = Float[Array, "b h w c"]


@dataclass(frozen=True)
class FilmForm:
    """The form of the network; the defaults are the released size.

    Attributes:
        dim: channels of the features of an image.
        heads: of every attention; `dim` and `hidden` are multiples of it.
        expansion: of the Restormer blocks' feed-forward layers.
        rounds: in which text looks at the image.
        hidden: numbers in a token, a square; sides of an image are multiples of its root.
        text_dim: channels that are cut into tokens.
        decoder_blocks: Restormer blocks of the decoder behind the one that joins the sources.
        dtype: arithmetic, "float32" or "bfloat16"; weights, norms and softmax are float32.
        remat: every block is computed again in the backward pass.
    """

    dim: int = 32
    heads: int = 8
    expansion: float = 4.0
    rounds: int = 3
    hidden: int = 256
    text_dim: int = 32
    decoder_blocks: int = 2
    dtype: str = "float32"
    remat: bool = False
    kernel_init: KernelInit = fan_in_uniform()

    def network(self, encoder: nn.Module | None = None) -> FilmNet:
        """The network of this form, with FILM's image encoder unless another one is given (see `FilmNet`).

        Raises:
            UserError: an option has none of its values.
        """
        check_choices(self, {"dtype": DTYPES})
        if self.hidden < 1 or math.isqrt(self.hidden) ** 2 != self.hidden:
            raise UserError(f"hidden is {self.hidden}; a token is a square of pixels: give a square such as 64 or 256")
        if self.rounds < 1:
            raise UserError(f"rounds is {self.rounds}; text looks at the image at least once")
        return FilmNet(self, ImageEncoder(self) if encoder is None else encoder)

    @property
    def window(self) -> int:
        """Side of a token in pixels."""
        return math.isqrt(self.hidden)

    @property
    def common(self) -> dict[str, Any]:
        """Options of every layer."""
        return {"kernel_init": self.kernel_init, "dtype": layer_dtype(self.dtype)}

    def block(self, module: type[nn.Module]) -> type[nn.Module]:
        """A block, to be computed again in the backward pass where the form says so."""
        return nn.remat(module) if self.remat else module


class FilmNet(nn.Module):
    """Sources (b h w m) in [0, 1], one per slot, m from 2 to 4 -> one fused image.

    `presence`, (b m), is 1 where a slot holds an image, else 0; None means all do. What an empty slot holds has no
    influence on anything. An example without any source gives an image of no meaning.
    Parameters lie under "encoder", "guidance" and "decoder".

    Attributes:
        encoder: image (b h w 1) -> maps (b h w c), as many as it likes, which the other layers read side by side.
    """

    form: FilmForm
    encoder: nn.Module

    def setup(self) -> None:
        self.guidance = Guidance(self.form)
        self.decoder = Decoder(self.form)

    def __call__(self, sources: Image, presence: Array | None = None) -> dict[str, Any]:
        """Fuses.

        Returns:
            "fused", (b h w 1) float32; "maps", what the encoder made of each source: arrays (b h w c m).

        Raises:
            UserError: sources or presence cannot be.
        """
        present = self._check(sources, presence)
        # Chosen, not multiplied: whatever an empty slot holds, it reaches neither result nor gradient.
        sources = jnp.where(present[:, None, None, :], sources, 0.0)
        slots = sources.shape[-1]
        # Slots vary fastest, so that a batch sharded over devices stays where it is.
        images = jnp.moveaxis(sources, -1, 1).reshape(-1, *sources.shape[1:3], 1)
        maps = self.encoder(images)
        features = _by_slot(self.guidance(maps), slots)
        return {"fused": self.decoder(merged(features, present)), "maps": tuple(_by_slot(x, slots) for x in maps)}

    def _check(self, sources: Image, presence: Array | None) -> Array:
        """Presence as booleans."""
        if sources.ndim != 4 or not 2 <= sources.shape[-1] <= MOST_SLOTS:
            raise UserError(f"fusion takes 2 to {MOST_SLOTS} sources (b h w m), got shape {sources.shape}")
        side = self.form.window
        if any(pixels % side for pixels in sources.shape[1:3]):
            raise UserError(
                f"tokens are squares of {side} x {side} pixels, which do not divide images of shape {sources.shape}; "
                "crop them, or choose another hidden"
            )
        shape = (sources.shape[0], sources.shape[-1])
        if presence is None:
            return jnp.ones(shape, bool)
        if presence.shape != shape:
            raise UserError(f"presence must be {shape} for sources {sources.shape}, got {presence.shape}")
        return presence > 0


class ImageEncoder(nn.Module):
    """3x3 convolution, PReLU, Restormer block: one map of `dim` channels."""

    form: FilmForm

    @nn.compact
    def __call__(self, image: Float[Array, "b h w m"]) -> tuple[Features]:
        form = self.form
        x = Conv(form.dim, 3, use_bias=False, **form.common, name="embed")(image)
        x = PReLU(name="bend")(x)
        return (form.block(RestormerBlock)(form.heads, form.expansion, **form.common, name="block")(x),)


class Guidance(nn.Module):
    """Maps of an encoder -> features (b h w dim) at which text has looked, `rounds` times.

    The text is the parameter "text", one learned vector. Maps that are not one of `dim` channels are joined first.
    """

    form: FilmForm

    @nn.compact
    def __call__(self, maps: tuple[Array, ...]) -> Features:
        form = self.form
        x = jnp.concatenate(maps, axis=-1)
        if len(maps) > 1 or x.shape[-1] != form.dim:
            x = Conv(form.dim, 1, use_bias=False, **form.common, name="join")(x)
        text = self.param("text", normal(1.0), (form.hidden,), jnp.float32)
        for number in range(1, form.rounds + 1):
            if number > 1:
                (x,) = ImageEncoder(form, name=f"encoder_{number}")(x)
            x = form.block(TextRound)(form, name=f"round_{number}")(x, text)
        return x


class TextRound(nn.Module):
    """x and x + what text makes of it, side by side, in `dim` channels again."""

    form: FilmForm

    @nn.compact
    def __call__(self, x: Features, text: Float[Array, hidden]) -> Features:
        form = self.form
        seen = TextWeights(form, name="weights")(Conv(form.text_dim, 1, **form.common, name="to_text")(x), text)
        seen = PReLU(name="bend_text")(Conv(form.dim, 1, **form.common, name="from_text")(seen))
        both = jnp.concatenate([x, seen + x], axis=-1)
        return PReLU(name="bend")(Conv(form.dim, 1, **form.common, name="join")(both))


class TextWeights(nn.Module):
    """The tokens of x, each multiplied by what text finds when it attends to them all.

    That is one vector an image, whose absolute values sum to one.
    """

    form: FilmForm

    @nn.compact
    def __call__(self, x: Features, text: Float[Array, hidden]) -> Features:
        form = self.form
        check_heads(form.hidden, form.heads)
        batch, height, width, channels = x.shape
        tokens = windows(x, form.window)
        asked = jnp.broadcast_to(text, (batch, 1, form.hidden))
        query = nn.Dense(form.hidden, **form.common, name="query")(asked)
        key, value = (nn.Dense(form.hidden, **form.common, name=name)(tokens) for name in ("key", "value"))
        found, _ = token_attention(query, key, value, form.heads)
        found = nn.Dense(form.hidden, **form.common, name="project")(found)
        weights = found.astype(jnp.promote_types(found.dtype, jnp.float32))
        # Not less than 1e-6, so that an empty image, at which text finds nothing, has a finite gradient.
        weights = weights / jnp.maximum(jnp.abs(weights).sum(-1, keepdims=True), 1e-6)
        return from_windows(tokens * weights.astype(tokens.dtype), form.window, (height, width, channels))


class Decoder(nn.Module):
    """Merged features (b h w 2 dim) -> image in (0, 1), float32."""

    form: FilmForm

    @nn.compact
    def __call__(self, x: Features) -> Float[Array, "b h w 1"]:
        form = self.form
        block = form.block(RestormerBlock)
        x = block(form.heads, form.expansion, **form.common, name="block_1")(x)
        x = Conv(form.dim, 1, **form.common, name="narrow")(x)
        for number in range(2, form.decoder_blocks + 2):
            x = block(form.heads, form.expansion, **form.common, name=f"block_{number}")(x)
        x = Conv(1, 1, **form.common, name="image")(x)
        return jax.nn.sigmoid(x.astype(jnp.promote_types(x.dtype, jnp.float32)))


def windows(x: Features, side: int) -> Float[Array, "b tokens pixels"]:
    """Every channel cut into squares of side x side pixels, each a token of as many numbers."""
    batch, height, width, channels = x.shape
    cut = x.reshape(batch, height // side, side, width // side, side, channels)
    return cut.transpose(0, 1, 3, 5, 2, 4).reshape(batch, -1, side**2)


def from_windows(tokens: Float[Array, "b tokens pixels"], side: int, shape: tuple[int, int, int]) -> Features:
    """The map of `shape`, (h w c), whose `windows` these are."""
    height, width, channels = shape
    apart = tokens.reshape(tokens.shape[0], height // side, width // side, channels, side, side)
    return apart.transpose(0, 1, 4, 2, 5, 3).reshape(tokens.shape[0], height, width, channels)


def merged(features: Float[Array, "b h w c m"], present: Array) -> Float[Array, "b h w both"]:
    """Mean and maximum over the slots that are present, (b h w 2c); zeros where there is none."""
    shown = present[:, None, None, None, :]
    count = jnp.maximum(shown.sum(-1), 1).astype(features.dtype)
    mean = jnp.where(shown, features, 0).sum(-1) / count
    maximum = largest(jnp.where(shown, features, -jnp.inf), -1)
    return jnp.concatenate([mean, jnp.where(shown.any(-1), maximum, 0)], axis=-1)


def _by_slot(x: Float[Array, "bm h w c"], slots: int) -> Float[Array, "b h w c m"]:
    return jnp.moveaxis(x.reshape(-1, slots, *x.shape[1:]), 1, -1)
