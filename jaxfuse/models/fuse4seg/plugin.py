"""Rows of Fuse4Seg in which networks of others stand in for its own: FILM fuses, a 2D nnU-Net segments.

Both are trained by the paper's cooperative step, with FILM's fusion loss (intensity + 20 gradient, no critics) and
nnU-Net's deep supervision. In the variant "-P" Fuse4Seg's pre-trained encoder takes the place of FILM's image encoder;
nothing else differs, so that the two rows say what it is worth. Departs from the paper, which gives neither losses nor
lengths of these rows and no control: the fusion loss of "-P" has no correlation term unless it is asked for.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import jax

from jaxfuse.arrays import Key, Params
from jaxfuse.learning.combinations import named
from jaxfuse.learning.fusing import Fused, MaybeKey, Presence, Sources
from jaxfuse.learning.state import Optimizers
from jaxfuse.learning.system import SegmentationLoss
from jaxfuse.models.baselines.film import FilmForm, FilmNet
from jaxfuse.models.baselines.nnunet2d import NNUNet2D
from jaxfuse.models.fuse4seg.cooperative import Cooperation
from jaxfuse.models.fuse4seg.fusion import Encoder, FusionForm
from jaxfuse.models.fuse4seg.judging import CriticForm
from jaxfuse.models.fuse4seg.make import BilevelForm, LossForm, cooperate
from jaxfuse.models.fuse4seg.parts import DeeplySupervised
from jaxfuse.nn.forms import check_choices
from jaxfuse.nn.precision import DTYPES, layer_dtype


@dataclass(frozen=True)
class NNUNetForm:
    """The form of the 2D nnU-Net (see `NNUNet2D`); the defaults are what it plans for 224 x 224 pixels."""

    stages: int = 6
    base: int = 32
    most: int = 512
    dtype: str = "float32"
    remat: bool = False

    def part(self, classes: int, loss: SegmentationLoss) -> DeeplySupervised:
        """The network with its loss, `loss` being that of one resolution."""
        check_choices(self, {"dtype": DTYPES})
        network = NNUNet2D(classes, self.stages, self.base, self.most, self.remat, dtype=layer_dtype(self.dtype))
        return DeeplySupervised(network, 2 ** (self.stages - 1), loss)


FILM, NNUNET = FilmForm(), NNUNetForm()
NO_CRITICS = CriticForm(adversarial_weight=0.0)
FILM_LOSS = LossForm(correlation_weight=0.0, intensity_weight=1.0, gradient_weight=20.0)


@dataclass(frozen=True)
class FilmModule:
    """FILM as a fusion network. There are bands where its encoder makes two maps, a low and a high one."""

    network: FilmNet

    @property
    def divisor(self) -> int:
        return self.network.form.window

    def init(self, rng: Key[jax.Array, ""], sources: Any) -> Params:
        return self.network.lazy_init(rng, sources)["params"]

    def fuse(self, params: Params, sources: Sources, presence: Presence, rng: MaybeKey) -> Fused:
        made: Any = self.network.apply({"params": params}, sources, presence)
        bands = made["maps"] if len(made["maps"]) == 2 else None
        return Fused(made["fused"], made["fused"], bands)

    def networks(self, params: Params) -> dict[str, Params]:
        return dict(params)


def make_film(
    *,
    optimizers: Optimizers,
    modalities: Sequence[str],
    classes: int,
    loss: SegmentationLoss,
    combos: str | Sequence[str] = "pairs",
    shown: str = "",
    pairs: Sequence[str] = (),
    film: FilmForm = FILM,
    segmentation: NNUNetForm = NNUNET,
    critics: CriticForm = NO_CRITICS,
    losses: LossForm = FILM_LOSS,
    scheme: BilevelForm = BilevelForm(),
) -> Cooperation:
    """FILM+nnUNet: cooperative training from the start; `loss` is that of one resolution of the nnU-Net.

    FILM has no bands, so `losses.correlation_weight` must be 0. `shown` and `pairs` as in `make_pretraining`.
    """
    return cooperate(
        FilmModule(film.network()),
        segmentation.part(classes, loss),
        optimizers=optimizers,
        modalities=modalities,
        combos=combos,
        shown=named(shown, pairs),
        critics=critics,
        losses=losses,
        scheme=scheme,
    )


def make_film_p(
    *,
    optimizers: Optimizers,
    modalities: Sequence[str],
    classes: int,
    loss: SegmentationLoss,
    combos: str | Sequence[str] = "pairs",
    shown: str = "",
    pairs: Sequence[str] = (),
    film: FilmForm = FILM,
    fusion: FusionForm = FusionForm(),
    segmentation: NNUNetForm = NNUNET,
    critics: CriticForm = NO_CRITICS,
    losses: LossForm = FILM_LOSS,
    scheme: BilevelForm = BilevelForm(),
) -> Cooperation:
    """FILM+nnUNet-P: the same with the encoder of a Fuse4Seg fusion module, of which nothing else is drawn.

    Its parameters are "fusion/encoder", as they are after pre-training of a module of the same form.
    """
    fusion.network()
    return cooperate(
        FilmModule(film.network(Encoder(fusion))),
        segmentation.part(classes, loss),
        optimizers=optimizers,
        modalities=modalities,
        combos=combos,
        shown=named(shown, pairs),
        critics=critics,
        losses=losses,
        scheme=scheme,
    )
