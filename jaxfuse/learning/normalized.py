"""Segmentation by a network with running statistics (batch normalization)."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Protocol, runtime_checkable

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np

from jaxfuse.arrays import Array, Batch, Key, Logits, Metrics, Params
from jaxfuse.learning.state import Aux, Optimizers, State, create_state, descend, initializer_key
from jaxfuse.learning.system import Geometry, SegmentationLoss


@runtime_checkable
class NormalizedNetwork(Protocol):
    """A pure function of parameters and running statistics."""

    def init(self, rng: Key[Array, ""], image: Array) -> tuple[Params, Params]:
        """Fresh (parameters, statistics)."""
        ...

    def apply(self, params: Params, stats: Params, image: Array, *, train: bool) -> tuple[Logits, Params]:
        """Logits, and the statistics after this batch.

        `train` normalizes by the statistics of the batch; else the running ones are used, and returned as given.
        """
        ...


@dataclass(frozen=True)
class LinenNormalized:
    """A Flax module `(image, *, train) -> logits` whose running statistics are the collection "batch_stats"."""

    module: nn.Module

    def init(self, rng: Key[Array, ""], image: Array) -> tuple[Params, Params]:
        # Lazily: no forward pass is computed, nor compiled, to draw weights.
        shape = jax.ShapeDtypeStruct(image.shape, image.dtype)
        variables = self.module.lazy_init(rng, shape, train=False)
        return variables["params"], variables.get("batch_stats", {})

    def apply(self, params: Params, stats: Params, image: Array, *, train: bool) -> tuple[Logits, Params]:
        variables = {"params": params, "batch_stats": stats}
        if not train:
            return self.module.apply(variables, image, train=False), stats  # pyright: ignore[reportReturnType]
        logits, changed = self.module.apply(variables, image, train=True, mutable=["batch_stats"])
        return logits, changed.get("batch_stats", {})


def create_normalized_state(
    rng: Key[Array, ""], networks: Mapping[str, tuple[NormalizedNetwork, Array]], optimizers: Optimizers
) -> State:
    """A state at step 0 of players that have a network each; with it comes an image such as it will see."""
    keys = jax.random.split(initializer_key(rng), len(networks))
    drawn = {
        player: network.init(key, image) for key, (player, (network, image)) in zip(keys, networks.items(), strict=True)
    }
    params = {player: pair[0] for player, pair in drawn.items()}
    return create_state(rng, params, optimizers, stats={player: pair[1] for player, pair in drawn.items()})


@dataclass(frozen=True)
class NormalizedSegmentation:
    """A network with running statistics, trained alone by one player `net` to label every voxel.

    A training step normalizes by its own batch and moves the running statistics; evaluation and prediction read
    these, so that the answer for a patch does not depend on the patches beside it.

    Attributes:
        network: image -> logits; where it loses `geometry.margin` voxels on each side, so do the batch's labels.
        channels: the input channels of the batch's image that it reads.
        loss: (logits, label) -> scalar.
        name: the name of its output, class probabilities (b *space k).
        parts: subtrees of the parameters that `describe` counts apart; () counts all of them under `name`.
    """

    network: NormalizedNetwork
    channels: tuple[int, ...]
    loss: SegmentationLoss
    optimizers: Optimizers
    geometry: Geometry
    name: str
    parts: tuple[str, ...] = ()

    players = ("net",)
    accepts_unpaired = False

    @property
    def primary(self) -> str:
        return self.name

    @property
    def probabilities(self) -> tuple[str, ...]:
        return (self.name,)

    def init(self, rng: Key[Array, ""], batch: Batch) -> State:
        params, stats = self.network.init(initializer_key(rng), self._inputs(batch))
        return create_state(rng, {"net": params}, self.optimizers, stats={"net": stats})

    def _inputs(self, batch: Batch | Mapping[str, Array]) -> Array:
        return batch["image"][..., np.array(self.channels)]

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
