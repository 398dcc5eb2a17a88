"""CDDFuse (Zhao et al., CVPR 2023): fusion by bands that are correlated and bands that are not, in two stages.

The network is the fusion module that Fuse4Seg builds on it, without cross-attention. First encoder and decoder learn to
give each image back: 2 (squared error + 5 (1 - SSIM) / 2) + 5 gradient difference + 2 decomposition, means over the
images. Then all of it learns to fuse: |fused - max| + 10 | |grad fused| - max |grad| | + 2 decomposition.

Departs from the paper's code: its sums over two images are twice the means over those present; its gradient difference
is that of the visible image alone, here the mean over the images; correlations are squared by example, not after their
mean over the batch; its decoder adds the visible image inside its sigmoid, here nothing is added unless
`fusion.residual` asks for it; one optimizer takes the place of four, so that gradients are clipped together, and the
layers that fuse bands, which there begin the second stage at the first rate, have the rate of all others.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import jax.numpy as jnp

from jaxfuse.arrays import Array, Metrics, Params
from jaxfuse.errors import UserError
from jaxfuse.learning.fusing import Fusion, FusionPart, Made, Seen, fusion_system
from jaxfuse.learning.state import Optimizers
from jaxfuse.losses.fusion import band_correlation, fusion_content, present_mean
from jaxfuse.losses.image import gradient_difference, ssim
from jaxfuse.models.fuse4seg.fusion import FusionForm
from jaxfuse.models.fuse4seg.parts import FusionModule, Parted, RestoringPart

FORM = FusionForm(cross_attention="none")


@dataclass(frozen=True)
class Weights:
    """Weights of the terms of both stages; the defaults are those of the paper's code.

    Attributes:
        ssim_weight: of (1 - SSIM) / 2 beside the squared error, in the first stage.
        difference_weight: of the difference of gradients from the sources', in the first stage.
        decomposition_weight: of the bands' decorrelation.
        intensity_weight: of the difference of intensities from the sources' maximum, in the second stage.
        gradient_weight: of the difference of gradients from the sources' maximum, in the second stage.
    """

    ssim_weight: float = 5.0
    difference_weight: float = 5.0
    decomposition_weight: float = 2.0
    intensity_weight: float = 1.0
    gradient_weight: float = 10.0


@dataclass(frozen=True)
class GivingBack:
    """The first stage; the layers that fuse bands have no part in it."""

    network: RestoringPart
    weights: Weights

    def make(self, params: Params, seen: Seen) -> Made:
        return Made(self.network.reconstruct(params, seen.sources))

    def loss(self, made: Parted, critics: Params | None, seen: Seen) -> tuple[Array, Metrics]:
        del critics
        sources, images, presence = seen.sources, made.images, seen.presence
        terms = {
            "squared": present_mean(jnp.square(sources - images).mean((1, 2)), presence),
            "structure": present_mean((1 - ssim(sources, images)) / 2, presence),
            "difference": present_mean(gradient_difference(sources, images), presence),
            "decomposition": band_correlation(made.low, made.high, presence),
        }
        weights = self.weights
        content = 2 * (terms["squared"] + weights.ssim_weight * terms["structure"])
        loss = content + weights.difference_weight * terms["difference"]
        return loss + weights.decomposition_weight * terms["decomposition"], terms

    def fakes(self, made: Parted, seen: Seen) -> None:
        del made, seen


@dataclass(frozen=True)
class Fusing:
    """The second stage."""

    network: FusionPart
    weights: Weights

    def make(self, params: Params, seen: Seen) -> Made:
        made: Any = self.network.fuse(params, seen.sources, seen.presence, seen.key)
        return Made(Parted(made.image, *made.bands))

    def loss(self, made: Parted, critics: Params | None, seen: Seen) -> tuple[Array, Metrics]:
        del critics
        weights = self.weights
        content, terms = fusion_content(
            made.images,
            seen.sources,
            seen.presence,
            intensity=weights.intensity_weight,
            gradient=weights.gradient_weight,
        )
        terms["decomposition"] = band_correlation(made.low, made.high, seen.presence)
        return content + weights.decomposition_weight * terms["decomposition"], terms

    def fakes(self, made: Parted, seen: Seen) -> None:
        del made, seen


def make_reconstruction(
    *,
    optimizers: Optimizers,
    modalities: Sequence[str],
    combos: str | Sequence[str] = "pairs",
    pairs: Sequence[str] = (),
    fusion: FusionForm = FORM,
    losses: Weights = Weights(),
) -> Fusion:
    """The first stage; the first of `pairs` is evaluated, or all modalities together."""
    network = _network(fusion)
    return fusion_system(
        network, GivingBack(network, losses), optimizers=optimizers, modalities=modalities, combos=combos, pairs=pairs
    )


def make_fusion(
    *,
    optimizers: Optimizers,
    modalities: Sequence[str],
    combos: str | Sequence[str] = "pairs",
    pairs: Sequence[str] = (),
    fusion: FusionForm = FORM,
    losses: Weights = Weights(),
) -> Fusion:
    """The second stage, with the weights of the first."""
    network = _network(fusion)
    return fusion_system(
        network, Fusing(network, losses), optimizers=optimizers, modalities=modalities, combos=combos, pairs=pairs
    )


def _network(fusion: FusionForm) -> FusionModule:
    fusion.network()
    if fusion.cross_attention != "none" or not fusion.decoder:
        raise UserError(
            f"CDDFuse has a decoder and no cross-attention, and cross_attention is {fusion.cross_attention!r} and "
            f"decoder {fusion.decoder}; set them to none and True"
        )
    return FusionModule(fusion)
