"""The contract of everything that can be trained, and the one System that is not a paper's own: segmentation."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any, ClassVar, Protocol, runtime_checkable

import jax
import jax.numpy as jnp

from jaxfuse.arrays import Array, Batch, Key, Label, Logits, Metrics, Params, channels_of, shown, shown_of
from jaxfuse.learning.networks import Network
from jaxfuse.learning.state import Aux, Optimizers, State, create_state, descend, initializer_key

SegmentationLoss = Callable[[Logits, Label], Array]

# Names of outputs of `System.predict` that others look for: a modality (b *space 1) in [0, 1] made from others; a fused
# image (b h w c) in [0, 1], and the network's own output where another image is made of it; the attention that each
# pixel of each source receives (b h w m).
SYNTHESIZED, FUSED, ATTENTION = "synthesized", "fused", "attention"
# All modalities (b *space t) in [0, 1], each made from the others that are there.
COMPLETED = "completed"
FUSED_BY_NETWORK = "fused_by_network"


def synthesized(modality: str) -> str:
    """Names the output of one modality (b *space 1) alone, of a System that makes several."""
    return f"{SYNTHESIZED}_{modality}"


@dataclass(frozen=True)
class Geometry:
    """Requirements of a network on its patches.

    Attributes:
        ndim: 2 or 3 spatial axes.
        divisor: every patch side is a multiple of it.
        margin: voxels lost on each side to valid convolutions (0 where the output has the input's size).
        judged: shortest patch side of which critics give more than one score; 0 without such critics.
    """

    ndim: int
    divisor: int
    margin: int = 0
    judged: int = 0


@runtime_checkable
class System(Protocol):
    """Networks, losses and optimizers with a learning rule; no config, no path, no device."""

    @property
    def players(self) -> tuple[str, ...]: ...

    @property
    def geometry(self) -> Geometry: ...

    @property
    def primary(self) -> str:
        """The name, among those of `predict`, of the output that is the result."""
        ...

    @property
    def probabilities(self) -> tuple[str, ...]:
        """The names, among those of `predict`, of the outputs that are probabilities of the data's classes."""
        ...

    @property
    def accepts_unpaired(self) -> bool:
        """Whether a batch may hold the streams `a` and `b` of two different cases."""
        ...

    @property
    def accepts_unlabeled(self) -> bool:
        """Whether it learns from images of examples without a label, too, all of whose voxels are labeled `IGNORED`.

        Then no term that compares with labels has a gradient from them.
        """
        ...

    @property
    def holds_out(self) -> bool:
        """Whether the examples at odd places of a batch and the others must be of different subjects."""
        ...

    @property
    def reads_presence(self) -> bool:
        """Whether examples may lack modalities, of which `presence` (b m) beside `image` tells.

        Then neither a step nor a prediction depends on what stands in the channels that an example lacks.
        """
        ...

    def init(self, rng: Key[Array, ""], batch: Batch) -> State: ...

    def train_step(self, state: State, batch: Batch) -> tuple[State, Metrics]:
        """One update of every player. Pure: the loop compiles it and donates the state."""
        ...

    def eval_step(self, state: State, batch: Batch) -> Metrics: ...

    def predict(self, state: State, inputs: Mapping[str, Array]) -> dict[str, Array]:
        """Named outputs for one batch of patches, `inputs["image"]` being (b *space m)."""
        ...

    def networks(self, params: Mapping[str, Params]) -> dict[str, Params]:
        """The parameters by the names that the paper gives its networks, for `describe`."""
        ...


@runtime_checkable
class FusingSystem(System, Protocol):
    """A System that fuses pictures of any size, apart from what else it makes of them."""

    @property
    def fusing_divisor(self) -> int:
        """Sides of a picture to be fused are multiples of it; `geometry.divisor` may ask for more."""
        ...

    @property
    def trained_combos(self) -> tuple[tuple[str, ...], ...]:
        """The combinations of modalities that it is trained to fuse."""
        ...

    def fuse(self, state: State, inputs: Mapping[str, Array]) -> dict[str, Array]:
        """The outputs `FUSED`, `FUSED_BY_NETWORK` and `ATTENTION` of `predict`, where there are such.

        `inputs["presence"]`, (m) or (b m), is 1 for the channels of `inputs["image"]` (b h w m) that are fused.
        """
        ...


def fuses_alone(system: System) -> bool:
    """Whether a System fuses pictures and does nothing else with them."""
    return isinstance(system, FusingSystem) and system.primary == FUSED


class Defaults:
    """Values that most Systems declare; one that inherits them states what differs. There is no behavior here."""

    players: ClassVar[tuple[str, ...]] = ("net",)
    probabilities: ClassVar[tuple[str, ...]] = ()
    accepts_unpaired: ClassVar[bool] = False
    accepts_unlabeled: ClassVar[bool] = False
    reads_presence: ClassVar[bool] = False
    holds_out: ClassVar[bool] = False


class Labeling(Defaults):
    """Values of a System whose one output is class probabilities (b *space k).

    Attributes:
        name: of that output.
    """

    name: str

    @property
    def primary(self) -> str:
        return self.name

    @property
    def probabilities(self) -> tuple[str, ...]:
        return (self.name,)


@dataclass(frozen=True)
class Segmentation(Labeling):
    """A network trained alone, by one player `net`, to label every voxel.

    A network with running statistics normalizes by its own batch in a training step, which moves them. Evaluation and
    prediction read the running ones, so that the answer for a patch does not depend on the patches beside it.

    Attributes:
        network: image -> logits; where it loses `geometry.margin` voxels on each side, so do the batch's labels.
        channels: the input channels of the batch's image that it reads.
        loss: (logits, label) -> scalar.
        name: the name of its output, class probabilities (b *space k).
        parts: subtrees of the parameters that `describe` counts apart; () counts all of them under `name`.
        tells_presence: whether the network is given a `jaxfuse.arrays.Shown` in place of an image.
    """

    reads_presence = True

    network: Network
    channels: tuple[int, ...]
    loss: SegmentationLoss
    optimizers: Optimizers
    geometry: Geometry
    name: str
    parts: tuple[str, ...] = ()
    tells_presence: bool = False

    def init(self, rng: Key[Array, ""], batch: Batch) -> State:
        params, stats = self.network.init(initializer_key(rng), self._inputs(batch))
        return create_state(rng, {"net": params}, self.optimizers, stats={"net": stats})

    def _inputs(self, batch: Batch | Mapping[str, Array]) -> Any:
        return shown_of(batch, self.channels) if self.tells_presence else channels_of(shown(batch), self.channels)

    def _answer(self, state: State, inputs: Batch | Mapping[str, Array]) -> Logits:
        """Logits by the running statistics."""
        return self.network.apply(state.params["net"], state.stats["net"], self._inputs(inputs), train=False)[0]

    def train_step(self, state: State, batch: Batch) -> tuple[State, Metrics]:
        running = state.stats["net"]

        def objective(params: Params) -> tuple[Array, Aux]:
            logits, stats = self.network.apply(params, running, self._inputs(batch), train=True)
            return self.loss(logits, batch["label"]), Aux({}, stats={"net": stats})

        state, aux = descend(state, "net", self.optimizers["net"], objective)
        return state.advance(), dict(aux.metrics)

    def eval_step(self, state: State, batch: Batch) -> Metrics:
        return {"net/loss": self.loss(self._answer(state, batch), batch["label"])}

    def predict(self, state: State, inputs: Mapping[str, Array]) -> dict[str, Array]:
        return {self.name: jax.nn.softmax(self._answer(state, inputs).astype(jnp.float32))}

    def networks(self, params: Mapping[str, Params]) -> dict[str, Params]:
        net: Any = params["net"]
        return {part: net[part] for part in self.parts} if self.parts else {self.name: net}
