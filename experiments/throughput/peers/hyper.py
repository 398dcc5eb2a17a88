"""HyperDense-Net and HyperFusionNet in PyTorch.

Written from the papers and from `jaxfuse.models.hyperfusion`, with what is kept once there kept once here: all streams
read one concatenation, in the canonical order, and a head that would read it once per stream adds up its kernel over
the copies.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from experiments.throughput.peers.learning import Batch, Peer, Rule


class ConvBlock(nn.Module):
    """Batch normalization (but in the first layer), PReLU, valid convolution of kernel 3."""

    def __init__(self, inputs: int, features: int, normalized: bool) -> None:
        super().__init__()
        self.normalized = normalized
        if normalized:
            self.weight, self.bias = nn.Parameter(torch.ones(inputs)), nn.Parameter(torch.zeros(inputs))
            self.register_buffer("running_mean", torch.zeros(inputs))
            self.register_buffer("running_var", torch.ones(inputs))
        self.prelu = nn.PReLU()
        self.conv = nn.Conv3d(inputs, features, 3)

    def forward(self, x: Tensor) -> Tensor:
        if self.normalized:
            x = F.batch_norm(x, self.running_mean, self.running_var, self.weight, self.bias, self.training)
        return self.conv(self.prelu(x))


class ResFuse(nn.Module):
    """H own + PReLU(dense), H a linear map per voxel."""

    def __init__(self, own: int, dense: int) -> None:
        super().__init__()
        self.lift, self.prelu = nn.Conv3d(own, dense, 1), nn.PReLU()

    def forward(self, own: Tensor, dense: Tensor) -> Tensor:
        return self.lift(own) + self.prelu(dense)


class Pointwise(nn.Module):
    """A linear map per voxel of `copies` of its input side by side."""

    def __init__(self, inputs: int, features: int, copies: int) -> None:
        super().__init__()
        self.copies = copies
        self.weight = nn.Parameter(torch.randn(features, copies * inputs, 1, 1, 1) * inputs**-0.5)
        self.bias = nn.Parameter(torch.zeros(features))

    def forward(self, x: Tensor) -> Tensor:
        kernel = self.weight
        if self.copies > 1:
            kernel = kernel.unflatten(1, (self.copies, -1)).sum(1)
        return F.conv3d(x, kernel, self.bias)


class Head(nn.Module):
    """Linear maps per voxel to class scores; no activation between."""

    def __init__(self, inputs: int, widths: Sequence[int], classes: int, copies: int) -> None:
        super().__init__()
        for number, width in enumerate(widths, start=1):
            self.add_module(f"hidden_{number}", Pointwise(inputs, width, copies))
            inputs, copies = width, 1
        self.scores = Pointwise(inputs, classes, copies)
        self.hidden = len(widths)

    def forward(self, tensors: Sequence[Tensor]) -> Tensor:
        x = torch.cat(list(tensors), 1) if len(tensors) > 1 else tensors[0]
        for number in range(1, self.hidden + 1):
            x = self.get_submodule(f"hidden_{number}")(x)
        return self.scores(x).float()


class HyperDense(nn.Module):
    """Image, a stream per channel -> logits."""

    def __init__(self, streams: int, classes: int, filters: Sequence[int], head: Sequence[int], *, fused: bool) -> None:
        super().__init__()
        self.streams, self.layers, self.fused = streams, len(filters), fused
        self.blocks, self.resfuse = nn.Module(), nn.Module()
        width = 0
        for layer, features in enumerate(filters, start=1):
            inputs = 1 if layer == 1 else width
            self.blocks.add_module(f"layer_{layer}", _per_stream(streams, ConvBlock, inputs, features, layer > 1))
            width += streams * features
            if fused:
                self.resfuse.add_module(f"layer_{layer}", _per_stream(streams, ResFuse, features, width))
        self.head = Head(streams * width if fused else width, head, classes, 1 if fused else streams)

    def forward(self, image: Tensor) -> Tensor:
        tensors: list[Tensor] = []
        inputs: Sequence[Tensor] = image.split(1, 1)
        for layer in range(1, self.layers + 1):
            blocks = self.blocks.get_submodule(f"layer_{layer}")
            newest = [blocks[name](x) for name, x in zip(blocks, self._each(inputs), strict=True)]
            tensors += newest
            dense = torch.cat([_center(x, newest[0].shape[-1]) for x in tensors], 1)
            inputs = [dense]
            if self.fused:
                modules = self.resfuse.get_submodule(f"layer_{layer}")
                inputs = [modules[name](own, dense) for name, own in zip(modules, newest, strict=True)]
        return self.head(inputs)

    def _each(self, inputs: Sequence[Tensor]) -> Sequence[Tensor]:
        return inputs if len(inputs) > 1 else [inputs[0]] * self.streams


def _per_stream(streams: int, module: type[nn.Module], *sizes: int | bool) -> nn.ModuleDict:
    return nn.ModuleDict({f"stream_{number}": module(*sizes) for number in range(1, streams + 1)})


def _center(x: Tensor, side: int) -> Tensor:
    first = (x.shape[-1] - side) // 2
    window = slice(first, first + side)
    return x[:, :, window, window, window]


class Segmentation(Peer):
    """A network trained alone."""

    def __init__(
        self, rules: Mapping[str, Rule], net: nn.Module, loss: Callable[[Tensor, Tensor], Tensor], name: str
    ) -> None:
        super().__init__({"net": net}, rules)
        self.loss, self.name = loss, name

    def step(self, batch: Batch) -> dict[str, Tensor]:
        loss = self.loss(self.players["net"](batch["image"]), batch["label"])
        self.descend("net", loss)
        return {"net/loss": loss}

    def predict(self, image: Tensor) -> dict[str, Tensor]:
        return {self.name: self.players["net"](image).softmax(1)}
