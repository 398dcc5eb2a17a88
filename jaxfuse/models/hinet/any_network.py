"""Hi-Net's networks from any sources to any target: what joins those that are there, and what is told of the target."""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

import flax.linen as nn
import jax.numpy as jnp

from jaxfuse.arrays import Array, Bool, Float
from jaxfuse.models.hinet.any_task import Ask
from jaxfuse.models.hinet.autoencoder import autoencode
from jaxfuse.models.hinet.critic import Critic
from jaxfuse.models.hinet.form import HiNetForm, Map
from jaxfuse.models.hinet.fusion import FusionBlock, FusionNetwork, mixed_over
from jaxfuse.models.hinet.layers import Layer, ToImage
from jaxfuse.models.hinet.networks import check_image
from jaxfuse.nn.presence import Modulation, modulated
from jaxfuse.nn.unet import upsample_nearest

BACKGROUND = -1.0


class Question(NamedTuple):
    """The input of the generator.

    Attributes:
        image: the sources, in (-1, 1).
        presence: those that encoders read; a source that is asked for is among them.
        asked: images that are made of the same maps.
    """

    image: Float[Array, "b h w s"]
    presence: Bool[Array, "b s"]
    asked: tuple[Ask, ...]


class Answer(NamedTuple):
    """made: each image that was asked for; given_back: the sources by their autoencoders. All in (-1, 1)."""

    made: tuple[Array, ...]
    given_back: Float[Array, "b h w s"]


class TargetNetwork(nn.Module):
    """The synthesis network of all targets: the maps after each of its layers and blocks are scaled and shifted.

    By how much is told by the target and by which sources are there; it begins as nothing.
    """

    form: HiNetForm
    train: bool

    @nn.compact
    def __call__(self, bottom: Map, levels: Sequence[Sequence[Array]], ask: Ask) -> Float[Array, "b h8 w8 1"]:
        form, n = self.form, self.form.width
        widths = (8 * n, 4 * n, 2 * n, n, n)
        first, second, *others = Modulation(widths, name="target")(jnp.concatenate([ask.target, ask.sources], axis=-1))
        x = modulated(Layer(form, self.train, 8 * n, form.fusion_activation, name="layer_1")(bottom), first)
        x = modulated(Layer(form, self.train, 4 * n, nn.relu, name="layer_2")(x), second)
        block = form.block(FusionBlock, self.train, mixed_over, nn.relu)
        for number, (maps, width, film) in enumerate(zip(levels[::-1], widths[2:], others, strict=True), start=1):
            x = block(width, name=f"block_{number}")(maps, x, ask.sources)
            x = upsample_nearest(modulated(x, film))
        return form.block(ToImage, self.train)(name="image")(x)


class AnyToAny(nn.Module):
    """Every source through its own autoencoder; whatever is asked for is made of the maps of its own sources.

    Raises (when traced):
        UserError: the image has another number of channels, or cannot be halved so often.
    """

    form: HiNetForm
    sources: tuple[str, ...]

    @nn.compact
    def __call__(self, question: Question, *, train: bool = False) -> Answer:
        image, presence, asked = question
        check_image(image, self.sources)
        shown = jnp.where(presence[:, None, None], image, jnp.asarray(BACKGROUND, image.dtype))
        levels, images = autoencode(self.form, train, self.sources, shown, presence)
        fusion = FusionNetwork(self.form, train, mixed_over, name="fusion")
        synthesis = TargetNetwork(self.form, train, name="synthesis")
        made = tuple(synthesis(fusion(levels, ask.sources), levels, ask) for ask in asked)
        return Answer(made, jnp.concatenate(images, axis=-1))


class Judged(NamedTuple):
    """The input of the critic: an image, further channels that it sees, which target it is, and which examples count.

    Those that do not count move no statistics.
    """

    image: Float[Array, "b h w c"]
    target: Bool[Array, "b t"]
    there: Bool[Array, " b"]


class TargetCritic(nn.Module):
    """Hi-Net's critic, which is told the target by one channel for each that is 1 throughout or 0."""

    form: HiNetForm

    @nn.compact
    def __call__(self, judged: Judged, *, train: bool = False) -> Float[Array, "b scores_h scores_w 1"]:
        image, target, there = judged
        code = jnp.broadcast_to(target[:, None, None], (*image.shape[:3], target.shape[-1])).astype(image.dtype)
        seen = jnp.concatenate([image, code], axis=-1)
        return Critic(self.form, name="critic")(seen, there, train=train)
