"""Segmentation networks that Fuse4Seg is compared with in its Table 1, each alone, on modalities as channels.

Loss, data and steps are those of the recipe's other rows. Departs from their papers: a network with several heads is
trained by the mean of its heads' losses where public codes take the sum, so that a rate means the same for all.
"""

from __future__ import annotations

import itertools
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import flax.linen as nn
import jax.numpy as jnp

from jaxfuse.arrays import Array, Key, Label, Logits, Params
from jaxfuse.learning.state import Optimizers
from jaxfuse.learning.system import SegmentationLoss
from jaxfuse.models.baselines.attention_unet import AttentionUNetForm
from jaxfuse.models.baselines.cascade import CascadeForm
from jaxfuse.models.baselines.emcad import EmcadForm
from jaxfuse.models.baselines.pvt import LEVELS
from jaxfuse.models.baselines.swin_unet import SwinUNetForm
from jaxfuse.models.baselines.unet_3plus import UNet3PlusForm
from jaxfuse.models.fuse4seg.alone import Alone, alone_on
from jaxfuse.models.fuse4seg.parts import MaybeKey, Theta

FINEST = (0,)
ATTENTION_UNET, UNET_3PLUS, SWIN_UNET = AttentionUNetForm(), UNet3PlusForm(), SwinUNetForm()
CASCADE, EMCAD = CascadeForm(), EmcadForm()


@dataclass(frozen=True)
class Headed:
    """A Flax network whose call gives the logits of its heads, all at the sides of the image, from the finest on.

    Attributes:
        divisor: sides of an image are multiples of it.
        read: the heads whose sum are the logits.
        judged: choices of heads, the sum of each of which is judged by the loss; theirs is the mean.
    """

    network: nn.Module
    divisor: int
    loss_of_logits: Callable[[Logits, Label], Array]
    read: tuple[int, ...] = FINEST
    judged: tuple[tuple[int, ...], ...] = (FINEST,)

    def init(self, rng: Key[Array, ""], theta: Any) -> Params:
        return self.network.lazy_init(rng, theta)["params"]

    def segment(self, params: Params, theta: Theta, rng: MaybeKey) -> Logits:
        return _sum_of(self._heads(params, theta, rng), self.read)

    def loss(self, params: Params, theta: Theta, label: Label, rng: MaybeKey) -> Array:
        heads = self._heads(params, theta, rng)
        return jnp.stack([self.loss_of_logits(_sum_of(heads, chosen), label) for chosen in self.judged]).mean()

    def networks(self, params: Params) -> dict[str, Params]:
        return {"segmentation": params}

    def _heads(self, params: Params, theta: Theta, rng: MaybeKey) -> Any:
        rngs = {} if rng is None else {"dropout": rng}
        return self.network.apply({"params": params}, theta, rngs=rngs)


def _sum_of(heads: Sequence[Logits], chosen: Sequence[int]) -> Logits:
    first, *further = (heads[number] for number in chosen)
    return sum(further, first)


def each(heads: int) -> tuple[tuple[int, ...], ...]:
    """Every head by itself."""
    return tuple((number,) for number in range(heads))


def every_choice(heads: int) -> tuple[tuple[int, ...], ...]:
    """Every choice of at least one head: 2**heads - 1 of them."""
    sizes = range(1, heads + 1)
    return tuple(chosen for size in sizes for chosen in itertools.combinations(range(heads), size))


def make_attention_unet(
    *,
    optimizers: Optimizers,
    modalities: Sequence[str],
    classes: int,
    loss: SegmentationLoss,
    reads: Sequence[str],
    segmentation: AttentionUNetForm = ATTENTION_UNET,
) -> Alone:
    """Attention U-Net on the modalities `reads`, each a channel."""
    part = Headed(segmentation.network(classes), segmentation.divisor, loss)
    return alone_on(part, optimizers=optimizers, modalities=modalities, reads=reads, fusion="channels")


def make_unet_3plus(
    *,
    optimizers: Optimizers,
    modalities: Sequence[str],
    classes: int,
    loss: SegmentationLoss,
    reads: Sequence[str],
    segmentation: UNet3PlusForm = UNET_3PLUS,
) -> Alone:
    """UNet 3+ on the modalities `reads`, each a channel; each of its levels is judged, the finest is read."""
    network = segmentation.network(classes)
    part = Headed(network, segmentation.divisor, loss, judged=each(segmentation.levels))
    return alone_on(part, optimizers=optimizers, modalities=modalities, reads=reads, fusion="channels")


def make_swin_unet(
    *,
    optimizers: Optimizers,
    modalities: Sequence[str],
    classes: int,
    loss: SegmentationLoss,
    reads: Sequence[str],
    segmentation: SwinUNetForm = SWIN_UNET,
) -> Alone:
    """Swin-Unet on the modalities `reads`, each a channel."""
    part = Headed(segmentation.network(classes), segmentation.divisor, loss)
    return alone_on(part, optimizers=optimizers, modalities=modalities, reads=reads, fusion="channels")


def make_cascade(
    *,
    optimizers: Optimizers,
    modalities: Sequence[str],
    classes: int,
    loss: SegmentationLoss,
    reads: Sequence[str],
    segmentation: CascadeForm = CASCADE,
) -> Alone:
    """PVT-CASCADE on the modalities `reads`, each a channel; each of its levels is judged, their sum is read."""
    network, read = segmentation.network(classes), tuple(range(LEVELS))
    part = Headed(network, segmentation.divisor, loss, read, each(LEVELS))
    return alone_on(part, optimizers=optimizers, modalities=modalities, reads=reads, fusion="channels")


def make_emcad(
    *,
    optimizers: Optimizers,
    modalities: Sequence[str],
    classes: int,
    loss: SegmentationLoss,
    reads: Sequence[str],
    segmentation: EmcadForm = EMCAD,
) -> Alone:
    """EMCAD on the modalities `reads`, each a channel; every choice of its levels is judged, the finest is read."""
    network = segmentation.network(classes)
    part = Headed(network, segmentation.divisor, loss, judged=every_choice(LEVELS))
    return alone_on(part, optimizers=optimizers, modalities=modalities, reads=reads, fusion="channels")
