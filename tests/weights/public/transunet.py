"""The encoder and transformer of TransUNet in PyTorch, by the names of its public code.

The shortcuts' norms have as many groups as the others, as here; the public code has one for each channel.
"""

from __future__ import annotations

import math
from collections import OrderedDict

import torch
import torch.nn.functional as F
from torch import nn


def group_norm(channels):
    """Returns as many groups, up to 32, as leave two channels in each."""
    groups = max((g for g in range(1, min(32, channels // 2) + 1) if channels % g == 0), default=1)
    return nn.GroupNorm(groups, channels, eps=1e-6)


class Standardized(nn.Conv2d):
    """A convolution whose kernel has mean 0 and variance 1 for each output."""

    def forward(self, x):
        variance, mean = torch.var_mean(self.weight, (1, 2, 3), keepdim=True, unbiased=False)
        return F.conv2d(x, (self.weight - mean) / (variance + 1e-5).sqrt(), None, self.stride, self.padding)


def kernel(inputs, outputs, side, stride=1):
    return Standardized(inputs, outputs, side, stride, side // 2, bias=False)


class Unit(nn.Module):
    """A bottleneck."""

    def __init__(self, inputs, outputs, stride):
        super().__init__()
        middle = outputs // 4
        self.conv1, self.gn1 = kernel(inputs, middle, 1), group_norm(middle)
        self.conv2, self.gn2 = kernel(middle, middle, 3, stride), group_norm(middle)
        self.conv3, self.gn3 = kernel(middle, outputs, 1), group_norm(outputs)
        if stride > 1 or inputs != outputs:
            self.downsample, self.gn_proj = kernel(inputs, outputs, 1, stride), group_norm(outputs)

    def forward(self, x):
        y = F.relu(self.gn1(self.conv1(x)))
        y = self.gn3(self.conv3(F.relu(self.gn2(self.conv2(y)))))
        return F.relu(y + (self.gn_proj(self.downsample(x)) if hasattr(self, "downsample") else x))


class ResNet(nn.Module):
    """Image -> its map at a sixteenth."""

    def __init__(self, stem, widths, units):
        super().__init__()
        self.root = nn.Sequential(OrderedDict(conv=kernel(3, stem, 7, 2), gn=group_norm(stem), relu=nn.ReLU()))
        blocks, before = OrderedDict(), stem
        for stage, (width, count) in enumerate(zip(widths, units, strict=True), start=1):
            made = OrderedDict()
            for number in range(1, count + 1):
                made[f"unit{number}"] = Unit(before, width, 2 if stage > 1 and number == 1 else 1)
                before = width
            blocks[f"block{stage}"] = nn.Sequential(made)
        self.body = nn.Sequential(blocks)

    def forward(self, image):
        return self.body(F.max_pool2d(self.root(image), 3, 2))


class Attention(nn.Module):
    """Attention between tokens."""

    def __init__(self, width, heads):
        super().__init__()
        self.query, self.key, self.value, self.out = (nn.Linear(width, width) for _ in range(4))
        self.heads = heads

    def forward(self, x):
        q, k, v = (
            layer(x).unflatten(-1, (self.heads, -1)).transpose(1, 2) for layer in (self.query, self.key, self.value)
        )
        weights = (q @ k.transpose(-2, -1) / math.sqrt(q.shape[-1])).softmax(-1)
        return self.out((weights @ v).transpose(1, 2).flatten(2))


class Mlp(nn.Module):
    """Two linear maps."""

    def __init__(self, width, hidden):
        super().__init__()
        self.fc1, self.fc2 = nn.Linear(width, hidden), nn.Linear(hidden, width)

    def forward(self, x):
        return self.fc2(F.gelu(self.fc1(x)))


class Layer(nn.Module):
    """A block of the transformer."""

    def __init__(self, width, heads, hidden):
        super().__init__()
        self.attention_norm, self.ffn_norm = (nn.LayerNorm(width, eps=1e-6) for _ in range(2))
        self.attn, self.ffn = Attention(width, heads), Mlp(width, hidden)

    def forward(self, x):
        x = x + self.attn(self.attention_norm(x))
        return x + self.ffn(self.ffn_norm(x))


class TransUNet(nn.Module):
    """Gray image, three times over -> tokens behind the transformer; the decoder is named and not run."""

    def __init__(self, stem, widths, units, width, depth, heads, hidden, side, decoder_widths, classes):
        super().__init__()
        embeddings = nn.Module()
        embeddings.hybrid_model = ResNet(stem, widths, units)
        embeddings.patch_embeddings = nn.Conv2d(widths[-1], width, 1)
        embeddings.position_embeddings = nn.Parameter(torch.zeros(1, (side // 16) ** 2, width))
        encoder = nn.Module()
        encoder.layer = nn.ModuleList([Layer(width, heads, hidden) for _ in range(depth)])
        encoder.encoder_norm = nn.LayerNorm(width, eps=1e-6)
        self.transformer = nn.Module()
        self.transformer.embeddings, self.transformer.encoder = embeddings, encoder
        self.decoder, self.segmentation_head = decoder(stem, widths, width, decoder_widths), nn.Sequential()
        self.segmentation_head.append(nn.Conv2d(decoder_widths[-1], classes, 3, padding=1))

    def forward(self, image):
        parts = self.transformer.embeddings
        x = parts.patch_embeddings(parts.hybrid_model(image))
        tokens = x.flatten(2).transpose(1, 2) + parts.position_embeddings
        for layer in self.transformer.encoder.layer:
            tokens = layer(tokens)
        tokens = self.transformer.encoder.encoder_norm(tokens)
        return tokens.transpose(1, 2).unflatten(2, x.shape[2:])


def decoder(stem, widths, width, decoder_widths):
    """Names the layers of the decoder."""

    def layer(inputs, outputs):
        return nn.Sequential(nn.Conv2d(inputs, outputs, 3, padding=1, bias=False), nn.BatchNorm2d(outputs), nn.ReLU())

    made = nn.Module()
    made.conv_more, made.blocks = layer(width, 2 * decoder_widths[0]), nn.ModuleList()
    before = 2 * decoder_widths[0]
    for outputs, skip in zip(decoder_widths, (widths[1], widths[0], stem, 0), strict=True):
        block = nn.Module()
        block.conv1, block.conv2 = layer(before + skip, outputs), layer(outputs, outputs)
        made.blocks.append(block)
        before = outputs
    return made
