"""The networks of pix2pix and CycleGAN in PyTorch, by the names of their public code."""

from __future__ import annotations

import itertools

import torch
from torch import nn


class Nested(nn.Module):
    """One level of the U-Net, around the next deeper one."""

    def __init__(self, outside, inside, deeper, outermost=False):
        super().__init__()
        down = nn.Conv2d(1 if outermost else outside, inside, 4, 2, 1, bias=False)
        wide = inside if deeper is None else 2 * inside
        up = nn.ConvTranspose2d(wide, 1 if outermost else outside, 4, 2, 1, bias=outermost)
        inner = [] if deeper is None else [deeper]
        if outermost:
            parts = [down, *inner, nn.ReLU(), up, nn.Tanh()]
        else:
            norm = [] if deeper is None else [nn.BatchNorm2d(inside)]
            parts = [nn.LeakyReLU(0.2), down, *norm, *inner, nn.ReLU(), up, nn.BatchNorm2d(outside)]
        self.model, self.outermost = nn.Sequential(*parts), outermost

    def forward(self, x):
        made = self.model(x)
        return made if self.outermost else torch.cat([x, made], 1)


class UNet(nn.Module):
    """A generator that halves its image `downs` times."""

    def __init__(self, n, downs):
        super().__init__()
        widths = [n * min(2**level, 8) for level in range(downs)]
        nested = None
        for outside, inside in reversed(list(itertools.pairwise(widths))):
            nested = Nested(outside, inside, nested)
        self.model = Nested(1, n, nested, outermost=True)

    def forward(self, image):
        return self.model(image)


class Residual(nn.Module):
    """x + two normalized convolutions."""

    def __init__(self, n):
        super().__init__()
        first, second = ([nn.ReflectionPad2d(1), nn.Conv2d(n, n, 3), nn.InstanceNorm2d(n)] for _ in range(2))
        self.conv_block = nn.Sequential(*first, nn.ReLU(), *second)

    def forward(self, x):
        return x + self.conv_block(x)


class ResNet(nn.Module):
    """A generator of residual blocks."""

    def __init__(self, n, blocks):
        super().__init__()

        def normalized(conv):
            return [conv, nn.InstanceNorm2d(conv.out_channels), nn.ReLU()]

        parts = [nn.ReflectionPad2d(3), *normalized(nn.Conv2d(1, n, 7))]
        parts += normalized(nn.Conv2d(n, 2 * n, 3, 2, 1)) + normalized(nn.Conv2d(2 * n, 4 * n, 3, 2, 1))
        parts += [Residual(4 * n) for _ in range(blocks)]
        parts += normalized(nn.ConvTranspose2d(4 * n, 2 * n, 3, 2, 1, output_padding=1))
        parts += normalized(nn.ConvTranspose2d(2 * n, n, 3, 2, 1, output_padding=1))
        self.model = nn.Sequential(*parts, nn.ReflectionPad2d(3), nn.Conv2d(n, 1, 7), nn.Tanh())

    def forward(self, image):
        return self.model(image)


class Critic(nn.Module):
    """A critic of squares; `norm` is BatchNorm2d, whose layers lack a bias, or InstanceNorm2d."""

    def __init__(self, inputs, n, layers, norm):
        super().__init__()
        bias = norm is nn.InstanceNorm2d
        parts, before = [nn.Conv2d(inputs, n, 4, 2, 1), nn.LeakyReLU(0.2)], n
        for layer in range(1, layers + 1):
            width = n * min(2**layer, 8)
            conv = nn.Conv2d(before, width, 4, 2 if layer < layers else 1, 1, bias=bias)
            parts += [conv, norm(width), nn.LeakyReLU(0.2)]
            before = width
        self.model = nn.Sequential(*parts, nn.Conv2d(before, 1, 4, 1, 1))

    def forward(self, image):
        return self.model(image)
