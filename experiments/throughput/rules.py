"""How a player descends, said once for both sides."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import jax
import jax.numpy as jnp
import optax

from jaxfuse.learning import optim

# Long enough that no schedule has begun to fall.
STEPS = 1_000_000


@dataclass(frozen=True)
class Adam:
    """Adam at a constant rate; PyTorch's in its fused form, the fastest."""

    rate: float
    b1: float = 0.9
    clip_norm: float | None = None

    def optax(self) -> optax.GradientTransformation:
        return optim.adam(learning_rate=self.rate, total_steps=STEPS, b1=self.b1, clip_norm=self.clip_norm)

    def torch(self, parameters: Sequence[Any]) -> Any:
        import torch

        return torch.optim.Adam(parameters, lr=self.rate, betas=(self.b1, 0.999), fused=True)


@dataclass(frozen=True)
class Sgd:
    """Gradient descent with momentum at a constant rate."""

    rate: float
    momentum: float = 0.0
    clip_norm: float | None = None

    def optax(self) -> optax.GradientTransformation:
        return optim.sgd(learning_rate=self.rate, total_steps=STEPS, momentum=self.momentum, clip_norm=self.clip_norm)

    def torch(self, parameters: Sequence[Any]) -> Any:
        import torch

        return torch.optim.SGD(parameters, lr=self.rate, momentum=self.momentum, fused=True)


@dataclass(frozen=True)
class Recorded:
    """Plain descent whose last gradient can be read: here it is the optimizer's state, there the parameters' `grad`."""

    rate: float
    clip_norm: float | None = None

    def optax(self) -> optax.GradientTransformation:
        def init(params: Any) -> Any:
            return jax.tree.map(jnp.zeros_like, params)

        def update(gradient: Any, state: Any, params: Any = None) -> tuple[Any, Any]:
            del state, params
            return jax.tree.map(lambda g: -self.rate * g, gradient), gradient

        return optax.GradientTransformation(init, update)  # pyright: ignore[reportArgumentType]

    def torch(self, parameters: Sequence[Any]) -> Any:
        import torch

        return torch.optim.SGD(parameters, lr=self.rate)


Rule = Adam | Sgd | Recorded
