"""Fuse4Seg's fusion without segmentation: its terms alone, on images without labels.

The phase follows pre-training in place of cooperative training: L^f = adversarial_weight * L_adv + correlation_weight *
L_corr + (1 - correlation_weight) * content, as in `jaxfuse.models.fuse4seg.cooperative`. A step is that of its scheme
`detached` without the segmentation network. The paper trains no such phase; its fusion tables need one.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import jax

from jaxfuse.arrays import Array, Key, Metrics, Params
from jaxfuse.learning.combinations import Choice
from jaxfuse.learning.fusing import Fused, Fusion, FusionPart, Made, Seen, fusion_system
from jaxfuse.learning.state import Optimizers
from jaxfuse.models.fuse4seg.cooperative import FusionLoss, fakes_of
from jaxfuse.models.fuse4seg.fusion import FusionForm
from jaxfuse.models.fuse4seg.judging import CriticForm, Critics
from jaxfuse.models.fuse4seg.make import LossForm, fusion_loss
from jaxfuse.models.fuse4seg.parts import FusionModule


@dataclass(frozen=True)
class FusedImage:
    """The lesson of a fusion loss: the fused image of a batch, judged by its sources."""

    network: FusionPart
    judged: FusionLoss

    def make(self, params: Params, seen: Seen) -> Made:
        return Made(self.network.fuse(params, seen.sources, seen.presence, seen.key))

    def loss(self, made: Fused, critics: Params | None, seen: Seen) -> tuple[Array, Metrics]:
        return self.judged(made, critics, seen.choice, seen.sources, seen.presence)

    def fakes(self, made: Fused, seen: Seen) -> Array | None:
        return None if self.judged.critics is None else fakes_of(made, seen.sources)


@dataclass(frozen=True)
class SourceCritics:
    """A critic of each modality, as the critics of a lesson."""

    critics: Critics

    def init(self, rng: Key[Array, ""], image: Any) -> Params:
        return self.critics.init(rng, image)

    def loss(self, params: Params, seen: Seen, fakes: Array, key: Key[Array, ""]) -> tuple[Array, Metrics]:
        return self.critics.critic_loss(params, seen.sources, fakes, seen.choice, seen.presence, key)

    def moves(self, choice: Choice) -> dict[str, jax.Array]:
        return self.critics.moves(choice)

    def networks(self, params: Params) -> dict[str, Params]:
        return self.critics.networks(params)


def make_fusion(
    *,
    optimizers: Optimizers,
    modalities: Sequence[str],
    combos: str | Sequence[str] = "pairs",
    pairs: Sequence[str] = (),
    fusion: FusionForm = FusionForm(),
    critics: CriticForm = CriticForm(),
    losses: LossForm = LossForm(),
) -> Fusion:
    """The phase with the paper's network; the first of `pairs` is evaluated, or all modalities together."""
    fusion.network()
    network, judged = FusionModule(fusion), fusion_loss(critics, losses, modalities)
    judges = None if judged.critics is None else SourceCritics(judged.critics)
    return fusion_system(
        network,
        FusedImage(network, judged),
        judges,
        optimizers=optimizers,
        modalities=modalities,
        combos=combos,
        pairs=pairs,
    )
