"""InfiNet in PyTorch, written from the paper and from `jaxfuse.models.infinet`: an arm for each of T1 and T2."""

from __future__ import annotations

from collections.abc import Sequence

import torch
import torch.nn.functional as F
from torch import Tensor, nn


def norm(channels: int) -> nn.BatchNorm2d:
    return nn.BatchNorm2d(channels, eps=1e-3, momentum=0.01)


class Layer(nn.Module):
    """Convolution, ReLU, batch normalization."""

    def __init__(self, inputs: int, features: int, kernel: int) -> None:
        super().__init__()
        self.conv = nn.Conv2d(inputs, features, kernel, padding=kernel // 2)
        self.norm = norm(features)

    def forward(self, x: Tensor) -> Tensor:
        return self.norm(F.relu(self.conv(x)))


class Arm(nn.Module):
    """The encoder of one modality: maps before each pooling, places of their maxima, and the last pooled map."""

    def __init__(self, width: int, blocks: int) -> None:
        super().__init__()
        self.blocks, inputs = blocks, 1
        self.input_norm = norm(1)
        for level in range(1, blocks + 1):
            layers = {"layer_1": Layer(inputs, width, 3), "layer_2": Layer(width, width, 3)}
            self.add_module(f"block_{level}", nn.ModuleDict(layers))
            inputs = width

    def forward(self, image: Tensor) -> tuple[list[Tensor], list[Tensor], Tensor]:
        x, maps, places = self.input_norm(image), [], []
        for level in range(1, self.blocks + 1):
            block = self.get_submodule(f"block_{level}")
            maps.append(block["layer_2"](block["layer_1"](x)))
            x, place = F.max_pool2d(maps[-1], 2, return_indices=True)
            places.append(place)
        return maps, places, x


class FusionBlock(nn.Module):
    """Coarse maps, unpooled to the places of each arm, joined with the arms' maps."""

    def __init__(self, width: int) -> None:
        super().__init__()
        self.unpooled_norm, self.mix = norm(2 * width), Layer(2 * width, width, 1)
        self.fused_norm, self.fuse = norm(3 * width), Layer(3 * width, width, 3)

    def forward(self, coarse: Sequence[Tensor], maps: Sequence[Tensor], places: Sequence[Tensor]) -> Tensor:
        unpooled = [F.max_unpool2d(x, place, 2) for x, place in zip(coarse, places, strict=True)]
        x = self.mix(self.unpooled_norm(torch.cat(unpooled, 1)))
        return self.fuse(self.fused_norm(torch.cat([x, *maps], 1)))


class InfiNet(nn.Module):
    """Slices (b 2 h w) -> logits."""

    def __init__(self, width: int, classes: int, blocks: int = 3) -> None:
        super().__init__()
        self.blocks = blocks
        self.t1_arm, self.t2_arm = Arm(width, blocks), Arm(width, blocks)
        for level in range(1, blocks + 1):
            self.add_module(f"fusion_{level}", FusionBlock(width))
        self.head = nn.Conv2d(width, classes, 1)

    def forward(self, image: Tensor) -> Tensor:
        arms = [self.t1_arm(image[:, :1]), self.t2_arm(image[:, 1:])]
        coarse = [bottom for _, _, bottom in arms]
        for level in range(self.blocks - 1, -1, -1):
            maps, places = [maps[level] for maps, _, _ in arms], [places[level] for _, places, _ in arms]
            fused = self.get_submodule(f"fusion_{level + 1}")(coarse, maps, places)
            coarse = [fused, fused]
        return self.head(coarse[0]).float()
