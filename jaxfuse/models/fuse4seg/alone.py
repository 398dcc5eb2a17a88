"""Fuse4Seg's segmentation network alone: on one modality, on a fusion that needs no training, or on all as channels.

The fused image has to be compared with it: the same network, loss and optimizer on the images before fusion. With a
channel for each modality nothing is lost before the network reads it; its first convolution alone has more weights.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

import jax
import jax.numpy as jnp

from jaxfuse.arrays import Array, Batch, Key, Metrics, Params
from jaxfuse.errors import UserError
from jaxfuse.learning.state import Aux, Optimizers, State, create_state, descend, initializer_key
from jaxfuse.learning.system import Defaults, Geometry, SegmentationLoss
from jaxfuse.models.fuse4seg.parts import SegmentationModule, SegmentationPart
from jaxfuse.models.fuse4seg.segmentation import SegmentationForm


def _reduced(reduce: Callable[..., Array]) -> Callable[[Array], Array]:
    return lambda chosen: reduce(chosen, axis=-1, keepdims=True)


# What the network reads of the modalities (b h w m).
FUSIONS: Mapping[str, Callable[[Array], Array]] = {
    "mean": _reduced(jnp.mean),
    "maximum": _reduced(jnp.max),
    "channels": lambda chosen: chosen,
}


@dataclass(frozen=True)
class Alone(Defaults):
    """One player, "segmentation".

    Attributes:
        channels: of the batch's image, those that are read.
        fusion: name in FUSIONS by which several of them become what the network reads.
    """

    segmentation: SegmentationPart
    channels: tuple[int, ...]
    fusion: str
    optimizers: Optimizers
    geometry: Geometry

    players = ("segmentation",)
    primary = "S"
    probabilities = ("S",)

    def init(self, rng: Key[Array, ""], batch: Batch) -> State:
        params = self.segmentation.init(initializer_key(rng), self._theta(batch))
        return create_state(rng, {"segmentation": params}, self.optimizers)

    def train_step(self, state: State, batch: Batch) -> tuple[State, Metrics]:
        theta, key = self._theta(batch), state.key()

        def objective(params: Params) -> tuple[Array, Aux]:
            return self.segmentation.loss(params, theta, batch["label"], key), Aux({})

        state, aux = descend(state, "segmentation", self.optimizers["segmentation"], objective)
        return state.advance(), dict(aux.metrics)

    def eval_step(self, state: State, batch: Batch) -> Metrics:
        loss = self.segmentation.loss(state.params["segmentation"], self._theta(batch), batch["label"], None)
        return {"segmentation/loss": loss}

    def predict(self, state: State, inputs: Mapping[str, Array]) -> dict[str, Array]:
        """Class probabilities "S" (b h w k)."""
        logits = self.segmentation.segment(state.params["segmentation"], self._theta(inputs), None)
        return {"S": jax.nn.softmax(logits.astype(jnp.float32))}

    def networks(self, params: Mapping[str, Params]) -> dict[str, Params]:
        return self.segmentation.networks(params["segmentation"])

    def _theta(self, inputs: Batch | Mapping[str, Array]) -> Array:
        chosen = jnp.stack([inputs["image"][..., channel] for channel in self.channels], axis=-1)
        return FUSIONS[self.fusion](chosen)


def make_system(
    *,
    optimizers: Optimizers,
    modalities: Sequence[str],
    classes: int,
    loss: SegmentationLoss,
    reads: Sequence[str],
    fusion: str = "mean",
    segmentation: SegmentationForm = SegmentationForm(),
) -> Alone:
    """`reads`: the modalities; of several, `fusion` makes one image ("mean", "maximum") or as many "channels"."""
    segmentation.network(classes)
    part = SegmentationModule(segmentation, classes, loss)
    return alone_on(part, optimizers=optimizers, modalities=modalities, reads=reads, fusion=fusion)


def alone_on(
    part: SegmentationPart, *, optimizers: Optimizers, modalities: Sequence[str], reads: Sequence[str], fusion: str
) -> Alone:
    """Any segmentation network alone; `reads` and `fusion` as in `make_system`.

    Raises:
        UserError: a modality or the fusion is not known.
    """
    if not reads or not set(reads) <= set(modalities):
        raise UserError(f"reads is {tuple(reads)}; at least one of {', '.join(modalities)} was expected")
    if fusion not in FUSIONS:
        raise UserError(f"fusion is {fusion!r}; choose one of {', '.join(FUSIONS)}")
    channels = tuple(list(modalities).index(name) for name in reads)
    return Alone(part, channels, fusion, optimizers, Geometry(2, part.divisor))
