"""CDDFuse in PyTorch, by the names of its public code: four networks, whose state dicts lie in one file."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import nn


def conv(inputs, outputs, kernel=1, groups=1):
    return nn.Conv2d(inputs, outputs, kernel, padding=kernel // 2, groups=groups, bias=False)


class Norm(nn.Module):
    """Normalization over the channels of each pixel."""

    def __init__(self, channels):
        super().__init__()
        self.body = nn.LayerNorm(channels, eps=1e-5)

    def forward(self, x):
        return self.body(x.movedim(1, -1)).movedim(-1, 1)


def attend(qkv, scale):
    """Attention between the channels of each head, by the cosines of their maps."""
    batch, channels, height, width = qkv.shape
    q, k, v = qkv.reshape(batch, 3, len(scale), channels // 3 // len(scale), height * width).unbind(1)
    weights = (F.normalize(q, dim=-1) @ F.normalize(k, dim=-1).transpose(-2, -1) * scale).softmax(-1)
    return (weights @ v).reshape(batch, channels // 3, height, width)


class Attention(nn.Module):
    """Attention behind a depthwise convolution."""

    def __init__(self, channels, heads):
        super().__init__()
        self.temperature = nn.Parameter(torch.ones(heads, 1, 1))
        self.qkv, self.qkv_dwconv = conv(channels, 3 * channels), conv(3 * channels, 3 * channels, 3, 3 * channels)
        self.project_out = conv(channels, channels)

    def forward(self, x):
        return self.project_out(attend(self.qkv_dwconv(self.qkv(x)), self.temperature))


class DenseAttention(nn.Module):
    """Attention behind a dense convolution."""

    def __init__(self, channels, heads):
        super().__init__()
        self.scale = nn.Parameter(torch.ones(heads, 1, 1))
        self.qkv1, self.qkv2 = conv(channels, 3 * channels), conv(3 * channels, 3 * channels, 3)
        self.proj = conv(channels, channels)

    def forward(self, x):
        return self.proj(attend(self.qkv2(self.qkv1(x)), self.scale))


class FeedForward(nn.Module):
    """A gated layer behind a convolution in groups of `group` channels."""

    def __init__(self, channels, factor, group):
        super().__init__()
        hidden = int(channels * factor)
        self.project_in, self.dwconv = conv(channels, 2 * hidden), conv(2 * hidden, 2 * hidden, 3, 2 * hidden // group)
        self.project_out = conv(hidden, channels)

    def forward(self, x):
        gate, signal = self.dwconv(self.project_in(x)).chunk(2, 1)
        return self.project_out(F.gelu(gate) * signal)


class Block(nn.Module):
    """A Restormer block."""

    def __init__(self, channels, heads, factor=2):
        super().__init__()
        self.norm1, self.norm2 = Norm(channels), Norm(channels)
        self.attn, self.ffn = Attention(channels, heads), FeedForward(channels, factor, 1)

    def forward(self, x):
        x = x + self.attn(self.norm1(x))
        return x + self.ffn(self.norm2(x))


class Base(nn.Module):
    """The block of a low band."""

    def __init__(self, channels, heads):
        super().__init__()
        self.norm1, self.norm2 = Norm(channels), Norm(channels)
        self.attn, self.mlp = DenseAttention(channels, heads), FeedForward(channels, 1, 2)

    def forward(self, x):
        x = x + self.attn(self.norm1(x))
        return x + self.mlp(self.norm2(x))


class Bottleneck(nn.Module):
    """The function of one half in a coupling node."""

    def __init__(self, channels):
        super().__init__()
        wide = 2 * channels
        middle = [nn.ReLU6(), nn.ReflectionPad2d(1), nn.Conv2d(wide, wide, 3, groups=wide, bias=False), nn.ReLU6()]
        self.bottleneckBlock = nn.Sequential(conv(channels, wide), *middle, conv(wide, channels))

    def forward(self, x):
        return self.bottleneckBlock(x)


class Node(nn.Module):
    """A coupling node."""

    def __init__(self, channels):
        super().__init__()
        self.theta_phi, self.theta_rho, self.theta_eta = (Bottleneck(channels // 2) for _ in range(3))
        self.shffleconv = nn.Conv2d(channels, channels, 1)

    def forward(self, x):
        z1, z2 = self.shffleconv(x).chunk(2, 1)
        z2 = z2 + self.theta_phi(z1)
        return torch.cat([z1 * self.theta_rho(z2).exp() + self.theta_eta(z2), z2], 1)


class Detail(nn.Module):
    """The coupling nodes of a high band."""

    def __init__(self, channels, nodes):
        super().__init__()
        self.net = nn.Sequential(*[Node(channels) for _ in range(nodes)])

    def forward(self, x):
        return self.net(x)


class Encoder(nn.Module):
    """Image -> both bands."""

    def __init__(self, channels, heads, blocks, nodes):
        super().__init__()
        self.patch_embed = nn.ModuleDict({"proj": conv(1, channels, 3)})
        self.encoder_level1 = nn.Sequential(*[Block(channels, heads) for _ in range(blocks)])
        self.baseFeature, self.detailFeature = Base(channels, heads), Detail(channels, nodes)

    def forward(self, image):
        x = self.encoder_level1(self.patch_embed["proj"](image))
        return self.baseFeature(x), self.detailFeature(x)


class Decoder(nn.Module):
    """Both bands -> image."""

    def __init__(self, channels, heads, blocks):
        super().__init__()
        self.reduce_channel = conv(2 * channels, channels)
        self.encoder_level2 = nn.Sequential(*[Block(channels, heads) for _ in range(blocks)])
        half = channels // 2
        self.output = nn.Sequential(conv(channels, half, 3), nn.LeakyReLU(), conv(half, 1, 3))

    def forward(self, low, high):
        return torch.sigmoid(self.output(self.encoder_level2(self.reduce_channel(torch.cat([low, high], 1)))))


class Networks(nn.Module):
    """The four networks by the names of the dictionaries that a file has; two images -> the fused one."""

    def __init__(self, channels, heads, blocks, nodes):
        super().__init__()
        self.DIDF_Encoder, self.DIDF_Decoder = Encoder(channels, heads, blocks, nodes), Decoder(channels, heads, blocks)
        self.BaseFuseLayer, self.DetailFuseLayer = Base(channels, heads), Detail(channels, 1)

    def forward(self, image):
        bands = [self.DIDF_Encoder(one) for one in image.split(1, 1)]
        low, high = (sum(band) for band in zip(*bands, strict=True))
        return self.DIDF_Decoder(self.BaseFuseLayer(low), self.DetailFuseLayer(high))
