"""Hi-Net in PyTorch, by the names of its public code: written from `docs/reference/papers.md` and those names."""

from __future__ import annotations

import torch
from torch import nn


def layers(inputs, features, activation):
    """Convolution, normalization and activation in a row, for each two widths that follow each other."""
    parts = []
    for before, after in zip((inputs, *features), features, strict=False):
        parts += [nn.Conv2d(before, after, 3, padding=1), nn.BatchNorm2d(after), activation]
    return nn.Sequential(*parts)


class Block(nn.Module):
    """Sum, product and maximum, a layer, what comes from before, a layer."""

    def __init__(self, width, previous, features, activation):
        super().__init__()
        self.layer1 = layers(3 * width, (width,), activation)
        self.layer2 = layers(width + previous, (features,), activation)

    def forward(self, a, b, *previous):
        mixed = self.layer1(torch.cat([a + b, a * b, torch.maximum(a, b)], 1))
        return self.layer2(torch.cat([mixed, *previous], 1))


class Generator(nn.Module):
    """Two images -> a third, and both given back, all by one last convolution; `apart`: by one each."""

    def __init__(self, n, apart=False):
        super().__init__()
        leaky, relu = nn.LeakyReLU(0.2), nn.ReLU()
        self.apart = apart
        for source in (0, 1):
            for level, (inputs, width) in enumerate(((1, n), (n, 2 * n), (2 * n, 4 * n)), start=1):
                self.add_module(f"down_{level}_{source}", layers(inputs, (width, width), leaky))
        self.down_fu_1 = Block(n, 0, 2 * n, leaky)
        self.down_fu_2 = Block(2 * n, 2 * n, 4 * n, leaky)
        self.down_fu_3 = Block(4 * n, 4 * n, 4 * n, leaky)
        self.down_fu_4, self.deconv_1_0 = layers(4 * n, (8 * n,), leaky), layers(8 * n, (4 * n,), relu)
        self.deconv_2_0 = Block(4 * n, 4 * n, 2 * n, relu)
        self.deconv_3_0, self.deconv_4_0 = Block(2 * n, 2 * n, n, relu), Block(n, n, n, relu)
        self.deconv_5_0 = layers(n, (n,), relu)
        for source in (1, 2):
            for place, (inputs, width) in enumerate(((4, 4), (4, 4), (4, 2), (2, 2), (2, 1), (1, 1)), start=1):
                self.add_module(f"deconv_{place}_{source}", layers(inputs * n, (width * n,), relu))
        for name in ("out", "out1", "out2"):
            self.add_module(name, nn.Sequential(nn.Conv2d(n, 1, 3, padding=1), nn.Tanh()))

    def forward(self, image):
        pool = nn.functional.max_pool2d
        levels, given_back = [], []
        for source in (0, 1):
            x, maps = image[:, source : source + 1], []
            for level in (1, 2, 3):
                x = pool(self.get_submodule(f"down_{level}_{source}")(x), 2)
                maps.append(x)
            levels.append(maps)
            for place in range(1, 7):
                x = self.get_submodule(f"deconv_{place}_{source + 1}")(x)
                x = double(x) if place in (1, 3, 5) else x
            given_back.append((self.get_submodule(f"out{source + 1}") if self.apart else self.out)(x))
        (a1, a2, a3), (b1, b2, b3) = levels
        fused = self.down_fu_2(a2, b2, pool(self.down_fu_1(a1, b1), 2))
        fused = self.down_fu_3(a3, b3, pool(fused, 2))
        x = self.deconv_2_0(a3, b3, self.deconv_1_0(self.down_fu_4(fused)))
        x = self.deconv_3_0(a2, b2, double(x))
        x = self.deconv_4_0(a1, b1, double(x))
        return torch.cat([self.out(self.deconv_5_0(double(x))), *given_back], 1)


def double(x):
    return nn.functional.interpolate(x, scale_factor=2)


class Critic(nn.Module):
    """Four convolutions that halve, and one that scores."""

    def __init__(self, n):
        super().__init__()
        parts = [nn.Conv2d(1, n, 3, 2, 1), nn.LeakyReLU(0.2)]
        for width in (n, 2 * n, 4 * n):
            parts += [nn.Conv2d(width, 2 * width, 3, 2, 1), nn.BatchNorm2d(2 * width, 0.8), nn.LeakyReLU(0.2)]
        self.model = nn.Sequential(*parts, nn.Conv2d(8 * n, 1, 3))

    def forward(self, image):
        return self.model(image)
