"""Fuse4Seg as a recipe builds it: pre-training of encoder and decoder, then cooperative training.

The rows of the paper's ablation are options: `decoder=False`, `adversarial_weight=0` in either phase,
`cross_attention="none"`; `bilevel="detached"` is the control that it lacks, fusion without the task.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from jaxfuse.errors import UserError
from jaxfuse.learning.bilevel import scheme_of
from jaxfuse.learning.combinations import combinations, named, number_of
from jaxfuse.learning.fusing import FusionPart
from jaxfuse.learning.game import Scheme
from jaxfuse.learning.state import Optimizers
from jaxfuse.learning.system import Geometry, SegmentationLoss
from jaxfuse.models.fuse4seg.cooperative import Cooperation, FusionLoss
from jaxfuse.models.fuse4seg.fusion import FusionForm
from jaxfuse.models.fuse4seg.judging import CriticForm, apart
from jaxfuse.models.fuse4seg.parts import FusionModule, SegmentationModule, SegmentationPart
from jaxfuse.models.fuse4seg.pretraining import Pretraining
from jaxfuse.models.fuse4seg.segmentation import SegmentationForm
from jaxfuse.models.fuse4seg.turns import Pace


@dataclass(frozen=True)
class LossForm:
    """Weights of the fusion loss of cooperative training (see `cooperative.FusionLoss`)."""

    correlation_weight: float = 0.25
    intensity_weight: float = 1.0
    gradient_weight: float = 10.0


@dataclass(frozen=True)
class BilevelForm:
    """The bi-level scheme and its options.

    Attributes:
        bilevel: name of a scheme of `jaxfuse.learning.bilevel`, or a scheme of one's own, "module:function" in a
            recipe.
        fusion_weight: of `Cooperation`.
        warmup_steps, follower_steps, leader_every, share_every: of `turns.Pace`.
        options: those of the scheme, by name; what is not named has the scheme's own default.
    """

    bilevel: str | Callable[..., Any] = "joint"
    fusion_weight: float = 1.0
    warmup_steps: int = 0
    follower_steps: int = 1
    leader_every: int = 1
    share_every: int = 0
    options: Mapping[str, Any] = field(default_factory=dict)

    def pace(self) -> Pace:
        return Pace(self.warmup_steps, self.follower_steps, self.leader_every, self.share_every)

    def scheme(self) -> Scheme:
        """Returns the scheme with the options given."""
        return scheme_of(self.bilevel, self.options)


def make_pretraining(
    *,
    optimizers: Optimizers,
    modalities: Sequence[str],
    combos: str | Sequence[str] = "pairs",
    shown: str = "",
    pairs: Sequence[str] = (),
    correlation_weight: float = 0.25,
    fusion: FusionForm = FusionForm(),
    critics: CriticForm = CriticForm(),
) -> Pretraining:
    """The first phase. `shown` is the combination that is evaluated ("t1+t2", say); the first of `combos` if empty.

    A recipe names it as the first of its `pairs` instead, where the assessment of results finds it too.
    """
    fusion.network()
    if not fusion.decoder:
        raise UserError("pre-training reconstructs by the decoder; leave decoder=False to cooperative training")
    trained = combinations(combos, modalities)
    return Pretraining(
        form=fusion,
        critics=critics.critics(trained.modalities),
        combinations=trained,
        shown=number_of(named(shown, pairs), trained),
        adversarial_weight=critics.adversarial_weight,
        correlation_weight=share(correlation_weight),
        optimizers=apart(optimizers),
        geometry=Geometry(2, fusion.divisor),
    )


def make_system(
    *,
    optimizers: Optimizers,
    modalities: Sequence[str],
    classes: int,
    loss: SegmentationLoss,
    combos: str | Sequence[str] = "pairs",
    shown: str = "",
    pairs: Sequence[str] = (),
    fusion: FusionForm = FusionForm(),
    segmentation: SegmentationForm = SegmentationForm(),
    critics: CriticForm = CriticForm(),
    losses: LossForm = LossForm(),
    scheme: BilevelForm = BilevelForm(),
) -> Cooperation:
    """The second phase with the paper's networks; `loss` is Eq. 14. `shown` and `pairs` as in `make_pretraining`."""
    fusion.network()
    segmentation.network(classes)
    if not fusion.decoder and critics.adversarial_weight:
        raise UserError("without decoder there is no fused image for critics to judge; set adversarial_weight to 0")
    return cooperate(
        FusionModule(fusion),
        SegmentationModule(segmentation, classes, loss),
        optimizers=optimizers,
        modalities=modalities,
        combos=combos,
        shown=named(shown, pairs),
        critics=critics,
        losses=losses,
        scheme=scheme,
    )


def cooperate(
    fusion: FusionPart,
    segmentation: SegmentationPart,
    *,
    optimizers: Optimizers,
    modalities: Sequence[str],
    combos: str | Sequence[str] = "pairs",
    shown: str = "",
    critics: CriticForm = CriticForm(),
    losses: LossForm = LossForm(),
    scheme: BilevelForm = BilevelForm(),
) -> Cooperation:
    """The second phase with any pair of networks."""
    if scheme.warmup_steps < 0 or scheme.fusion_weight < 0:
        raise UserError(
            f"warmup_steps is {scheme.warmup_steps} and fusion_weight {scheme.fusion_weight}; neither may be negative"
        )
    trained = combinations(combos, modalities)
    made, pace = scheme.scheme(), scheme.pace()
    pace.check(made)
    return Cooperation(
        fusion=fusion,
        segmentation=segmentation,
        fusion_loss=fusion_loss(critics, losses, modalities),
        combinations=trained,
        shown=number_of(shown, trained),
        scheme=made,
        fusion_weight=scheme.fusion_weight,
        pace=pace,
        optimizers=pace.optimizers(apart(optimizers), made),
        geometry=Geometry(2, math.lcm(fusion.divisor, segmentation.divisor)),
    )


def fusion_loss(critics: CriticForm, losses: LossForm, modalities: Sequence[str]) -> FusionLoss:
    """The loss L^f with these weights, and critics of these modalities."""
    return FusionLoss(
        critics=critics.critics(tuple(modalities)),
        adversarial_weight=critics.adversarial_weight,
        correlation_weight=share(losses.correlation_weight),
        intensity_weight=losses.intensity_weight,
        gradient_weight=losses.gradient_weight,
    )


def share(correlation_weight: float) -> float:
    if not 0 <= correlation_weight <= 1:
        raise UserError(f"correlation_weight is {correlation_weight}; it shares with the content, so lies in [0, 1]")
    return correlation_weight
