"""Networks as pure functions of their parameters and running statistics (those of batch normalization)."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any, NamedTuple, Protocol, runtime_checkable

import flax.linen as nn
import jax

from jaxfuse.arrays import Array, Key, Params, Shown
from jaxfuse.learning.state import Optimizers, State, create_state, initializer_key


@runtime_checkable
class Network(Protocol):
    """A pure function of parameters and running statistics.

    `image` is an array, or a tree of arrays for a network that is told more than an image.
    """

    def init(self, rng: Key[Array, ""], image: Any) -> tuple[Params, Params]:
        """Fresh (parameters, statistics)."""
        ...

    def apply(self, params: Params, stats: Params, image: Any, *, train: bool) -> tuple[Any, Params]:
        """The output, and the statistics after this batch.

        `train` normalizes by the statistics of the batch; else the running ones are used, and returned as given.
        """
        ...


@dataclass(frozen=True)
class LinenNetwork:
    """A Flax module `(image, *, train) -> output` whose running statistics are the collection "batch_stats"."""

    module: nn.Module

    def init(self, rng: Key[Array, ""], image: Any) -> tuple[Params, Params]:
        # Lazily: no forward pass is computed, nor compiled, to draw weights.
        shape = jax.tree.map(lambda leaf: jax.ShapeDtypeStruct(leaf.shape, leaf.dtype), image)
        variables = self.module.lazy_init(rng, shape, train=False)
        return variables["params"], variables.get("batch_stats", {})

    def apply(self, params: Params, stats: Params, image: Any, *, train: bool) -> tuple[Any, Params]:
        variables = {"params": params, "batch_stats": stats}
        if not train:
            return self.module.apply(variables, image, train=False), stats
        output, changed = self.module.apply(variables, image, train=True, mutable=["batch_stats"])
        return output, changed.get("batch_stats", {})


class Functions(NamedTuple):
    """A network as two functions.

    Attributes:
        init: (key, *inputs) -> parameters; inputs may be shapes (`jax.ShapeDtypeStruct`).
        apply: (parameters, *inputs) -> output.
    """

    init: Callable[..., Params]
    apply: Callable[..., Any]


@runtime_checkable
class Function(Protocol):
    """A pure function of parameters alone, as a pair: draw them, apply them.

    `image` is an array, or `Shown` for a network that is told what lacks.
    """

    def init(self, rng: Key[Array, ""], image: Any) -> Params: ...

    def __call__(self, params: Params, image: Any) -> Any: ...


@dataclass(frozen=True)
class Stateless:
    """A `Function` as a network, with empty statistics."""

    function: Function

    def init(self, rng: Key[Array, ""], image: Array | Shown) -> tuple[Params, Params]:
        return self.function.init(rng, image), {}

    def apply(self, params: Params, stats: Params, image: Array | Shown, *, train: bool) -> tuple[Any, Params]:
        del train
        return self.function(params, image), stats


def create_state_of(rng: Key[Array, ""], networks: Mapping[str, tuple[Network, Any]], optimizers: Optimizers) -> State:
    """Draws a state at step 0 of players with one network each, given beside an image such as it will see."""
    keys = jax.random.split(initializer_key(rng), len(networks))
    drawn = {
        player: network.init(key, image) for key, (player, (network, image)) in zip(keys, networks.items(), strict=True)
    }
    params = {player: pair[0] for player, pair in drawn.items()}
    return create_state(rng, params, optimizers, stats={player: pair[1] for player, pair in drawn.items()})
