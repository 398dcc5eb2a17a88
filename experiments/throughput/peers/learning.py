"""The form of every PyTorch peer: networks by player, an optimizer for each, and one step."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Mapping
from typing import Protocol

import torch
from torch import Tensor, nn

Batch = Mapping[str, Tensor]


class Rule(Protocol):
    """How a player descends, on either side; see `experiments.throughput.rules`."""

    clip_norm: float | None

    def torch(self, parameters: list[nn.Parameter]) -> torch.optim.Optimizer: ...


class Peer(ABC):
    """A System in PyTorch.

    A batch has "image" (b m *space), channels first, and "label" (b *space) where the System learns from labels.

    Attributes:
        players: networks by the names that the System's state gives them.
        optimizers: one for each player.
    """

    def __init__(self, players: Mapping[str, nn.Module], rules: Mapping[str, Rule]) -> None:
        self.players = dict(players)
        self.rules = dict(rules)
        self.optimizers = {name: rules[name].torch(list(net.parameters())) for name, net in players.items()}

    @abstractmethod
    def step(self, batch: Batch) -> dict[str, Tensor]:
        """Updates every player once, and returns the metrics of the System's step by their names."""

    @abstractmethod
    def predict(self, image: Tensor) -> dict[str, Tensor]:
        """Named outputs as of the System's `predict`, channels first."""

    def descend(self, player: str, loss: Tensor) -> None:
        """Moves a player along its gradient alone; no other player's gradients are computed."""
        self._descend(self.optimizers[player], list(self.players[player].parameters()), loss, self.rules[player])

    def _descend(
        self, optimizer: torch.optim.Optimizer, parameters: list[nn.Parameter], loss: Tensor, rule: Rule
    ) -> None:
        optimizer.zero_grad(set_to_none=True)
        loss.backward(inputs=parameters)
        if rule.clip_norm is not None:
            nn.utils.clip_grad_norm_(parameters, rule.clip_norm)
        optimizer.step()

    def to(self, device: str, layout: str) -> Peer:
        """Moves all networks to a device and into a layout of memory, "contiguous" or "channels_last"."""
        for net in self.players.values():
            net.to(device)
            for parameter in net.parameters():
                parameter.data = laid_out(parameter.data, layout)
        return self


def laid_out(x: Tensor, layout: str) -> Tensor:
    """Returns a tensor in this layout; of fewer than four axes there is one alone."""
    if layout == "channels_last" and x.ndim in (4, 5):
        return x.contiguous(memory_format=torch.channels_last if x.ndim == 4 else torch.channels_last_3d)
    return x.contiguous()
