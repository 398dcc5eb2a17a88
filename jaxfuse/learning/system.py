"""What a paper must offer to be trained, and the one System that is not a paper's own: segmentation."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any, Protocol, runtime_checkable

import jax
import jax.numpy as jnp
import numpy as np

from jaxfuse.arrays import Array, Batch, Key, Label, Logits, Metrics, Params
from jaxfuse.learning.state import Aux, Optimizers, State, create_state, descend, initializer_key

SegmentationLoss = Callable[[Logits, Label], Array]


@dataclass(frozen=True)
class Geometry:
    """What a network asks of its patches.

    Attributes:
        ndim: 2 or 3 spatial axes.
        divisor: every patch side is a multiple of it.
        margin: voxels lost on each side to valid convolutions (0 where the output has the input's size).
    """

    ndim: int
    divisor: int
    margin: int = 0


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
class Network(Protocol):
    """A pure function of parameters, as a pair: draw them, apply them."""

    def init(self, rng: Key[Array, ""], image: Array) -> Params: ...

    def __call__(self, params: Params, image: Array) -> Any: ...


@dataclass(frozen=True)
class Segmentation:
    """A network trained alone, by one player `net`, to label every voxel.

    Attributes:
        network: image -> logits.
        channels: the input channels of the batch's image that it reads.
        loss: (logits, label) -> scalar.
        name: the name of its output, class probabilities (b *space k).
    """

    network: Network
    channels: tuple[int, ...]
    loss: SegmentationLoss
    optimizers: Optimizers
    geometry: Geometry
    name: str

    players = ("net",)
    accepts_unpaired = False

    @property
    def primary(self) -> str:
        return self.name

    @property
    def probabilities(self) -> tuple[str, ...]:
        return (self.name,)

    def init(self, rng: Key[Array, ""], batch: Batch) -> State:
        params = self.network.init(initializer_key(rng), self._inputs(batch))
        return create_state(rng, {"net": params}, self.optimizers)

    def _inputs(self, batch: Batch | Mapping[str, Array]) -> Array:
        return batch["image"][..., np.array(self.channels)]

    def train_step(self, state: State, batch: Batch) -> tuple[State, Metrics]:
        def objective(params: Params) -> tuple[Array, Aux]:
            return self.loss(self.network(params, self._inputs(batch)), batch["label"]), Aux({})

        state, aux = descend(state, "net", self.optimizers["net"], objective)
        return state.advance(), dict(aux.metrics)

    def eval_step(self, state: State, batch: Batch) -> Metrics:
        return {"net/loss": self.loss(self.network(state.params["net"], self._inputs(batch)), batch["label"])}

    def predict(self, state: State, inputs: Mapping[str, Array]) -> dict[str, Array]:
        logits = self.network(state.params["net"], self._inputs(inputs))
        return {self.name: jax.nn.softmax(logits.astype(jnp.float32))}

    def networks(self, params: Mapping[str, Params]) -> dict[str, Params]:
        return {self.name: params["net"]}
