"""Segmentation by a loss of several terms, with a network that knows which modalities are there."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp

from jaxfuse.arrays import Array, Batch, Key, Label, Logits, Metrics, Params, Shown, shown_of
from jaxfuse.learning.state import Aux, Optimizers, State, create_state, descend, initializer_key, player_metrics
from jaxfuse.learning.system import Geometry, Labeling

# (what the network made in training, what it was shown, the label map) -> the terms of the loss by their names.
Terms = Callable[[Any, Shown, Label], Metrics]


@dataclass(frozen=True)
class SegmentationByTerms(Labeling):
    """A network trained alone, by one player `net`, to label every voxel; its loss is a weighted sum of terms.

    Attributes:
        module: (`Shown`, train=False) -> logits (b *space k), and with train=True what `terms` reads. Without random
            numbers it makes the mean of what it would draw.
        draws: the name by which the module asks for random numbers, which a training step alone gives it.
        terms: the terms of the loss.
        weights: of each term.
        channels: the input channels of the batch's image that it reads.
        name: the name of its output, class probabilities (b *space k).
        parts: subtrees of the parameters that `describe` counts apart.
    """

    reads_presence = True

    module: nn.Module
    draws: str
    terms: Terms
    weights: Mapping[str, float]
    channels: tuple[int, ...]
    optimizers: Optimizers
    geometry: Geometry
    name: str
    parts: tuple[str, ...]

    def init(self, rng: Key[Array, ""], batch: Batch) -> State:
        shapes = jax.tree.map(lambda x: jax.ShapeDtypeStruct(x.shape, x.dtype), shown_of(batch, self.channels))
        # Lazily: no forward pass is computed, nor compiled, to draw weights.
        params = self.module.lazy_init(initializer_key(rng), shapes, train=True)["params"]
        return create_state(rng, {"net": params}, self.optimizers)

    def objective(self, params: Params, batch: Batch, key: Key[Array, ""] | None = None) -> tuple[Array, Metrics]:
        """The loss and its terms, which are not weighted; without a key nothing is drawn."""
        shown = shown_of(batch, self.channels)
        made = self.module.apply({"params": params}, shown, train=True, rngs=None if key is None else {self.draws: key})
        terms = self.terms(made, shown, batch["label"])
        return sum((self.weights[name] * value for name, value in terms.items()), jnp.float32(0)), terms

    def train_step(self, state: State, batch: Batch) -> tuple[State, Metrics]:
        def objective(params: Params) -> tuple[Array, Aux]:
            loss, terms = self.objective(params, batch, state.key())
            return loss, Aux(terms)

        state, aux = descend(state, "net", self.optimizers["net"], objective)
        return state.advance(), dict(aux.metrics)

    def eval_step(self, state: State, batch: Batch) -> Metrics:
        return player_metrics("net", *self.objective(state.params["net"], batch))

    def answer(self, state: State, inputs: Mapping[str, Array]) -> Logits:
        """Logits of one batch of patches."""
        shown = shown_of(inputs, self.channels)
        return self.module.apply({"params": state.params["net"]}, shown, train=False)  # pyright: ignore[reportReturnType]

    def predict(self, state: State, inputs: Mapping[str, Array]) -> dict[str, Array]:
        return {self.name: jax.nn.softmax(self.answer(state, inputs))}

    def networks(self, params: Mapping[str, Params]) -> dict[str, Params]:
        net: Any = params["net"]
        return {part: net[part] for part in self.parts}
