"""Fuse4Seg's fusion network in PyTorch, written from the paper's sources and from `jaxfuse.models.fuse4seg.fusion`."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor, nn


def conv(inputs: int, outputs: int, kernel: int = 1, groups: int = 1) -> nn.Conv2d:
    return nn.Conv2d(inputs, outputs, kernel, padding=kernel // 2, groups=groups, bias=False)


class ChannelNorm(nn.Module):
    """LayerNorm over the channels of each pixel."""

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.norm = nn.LayerNorm(channels, eps=1e-5)

    def forward(self, x: Tensor) -> Tensor:
        return self.norm(x.movedim(1, -1)).movedim(-1, 1)


class ChannelAttention(nn.Module):
    """Attention between the channels of each head over all pixels (Restormer)."""

    def __init__(self, channels: int, heads: int, *, dense: bool) -> None:
        super().__init__()
        wide = 3 * channels
        self.qkv, self.qkv_spatial = conv(channels, wide), conv(wide, wide, 3, 1 if dense else wide)
        self.temperature = nn.Parameter(torch.ones(heads))
        self.project = conv(channels, channels)

    def forward(self, x: Tensor) -> Tensor:
        batch, _, height, width = x.shape
        flat = self.qkv_spatial(self.qkv(x)).reshape(batch, 3, len(self.temperature), -1, height * width)
        q, k, v = flat.unbind(1)
        cosines = F.normalize(q, dim=-1, eps=1e-6) @ F.normalize(k, dim=-1, eps=1e-6).transpose(-2, -1)
        out = (cosines * self.temperature[:, None, None]).softmax(-1) @ v
        return self.project(out.reshape(x.shape))


class GatedFeedForward(nn.Module):
    """1x1, 3x3 in groups, gelu(first half) * second half, 1x1."""

    def __init__(self, channels: int, expansion: float, group: int) -> None:
        super().__init__()
        hidden = 2 * int(expansion * channels)
        self.expand, self.spatial = conv(channels, hidden), conv(hidden, hidden, 3, hidden // group)
        self.project = conv(hidden // 2, channels)

    def forward(self, x: Tensor) -> Tensor:
        gate, signal = self.spatial(self.expand(x)).chunk(2, 1)
        return self.project(F.gelu(gate) * signal)


class Block(nn.Module):
    """A Restormer block, or the block of a low band: a dense 3x3 in its attention, groups of two in what follows."""

    def __init__(self, channels: int, heads: int, *, low: bool = False) -> None:
        super().__init__()
        self.norm_1, self.norm_2 = ChannelNorm(channels), ChannelNorm(channels)
        self.attention = ChannelAttention(channels, heads, dense=low)
        self.feed_forward = GatedFeedForward(channels, 1.0 if low else 2.0, 2 if low else 1)

    def forward(self, x: Tensor) -> Tensor:
        x = x + self.attention(self.norm_1(x))
        return x + self.feed_forward(self.norm_2(x))


class Bottleneck(nn.Module):
    """1x1, ReLU6, depthwise 3x3 on the image continued by reflection, ReLU6, 1x1."""

    def __init__(self, channels: int) -> None:
        super().__init__()
        wide = 2 * channels
        self.expand, self.project = conv(channels, wide), conv(wide, channels)
        self.spatial = nn.Conv2d(wide, wide, 3, groups=wide, bias=False)

    def forward(self, x: Tensor) -> Tensor:
        padded = F.pad(F.relu6(self.expand(x)), (1, 1, 1, 1), mode="reflect")
        return self.project(F.relu6(self.spatial(padded)))


class CouplingNode(nn.Module):
    """Mixes all channels, then changes each half by a function of the other."""

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.mix = nn.Parameter(nn.init.orthogonal_(torch.empty(channels, channels))[..., None, None])
        self.bias = nn.Parameter(torch.zeros(channels))
        self.shift_2, self.scale_1, self.shift_1 = (Bottleneck(channels // 2) for _ in range(3))

    def forward(self, x: Tensor) -> Tensor:
        z1, z2 = F.conv2d(x, self.mix, self.bias).chunk(2, 1)
        z2 = z2 + self.shift_2(z1)
        z1 = z1 * self.scale_1(z2).float().exp().to(z1.dtype) + self.shift_1(z2)
        return torch.cat([z1, z2], 1)


def nodes(channels: int, count: int) -> nn.Module:
    stack = nn.Sequential()
    for number in range(count):
        stack.add_module(f"node_{number}", CouplingNode(channels))
    return stack


class Encoder(nn.Module):
    """Image -> (low band, high band)."""

    def __init__(self, dim: int, heads: int, front: int, high_nodes: int) -> None:
        super().__init__()
        self.front = front
        self.embed = conv(1, dim, 3)
        for number in range(1, front + 1):
            self.add_module(f"front_{number}", Block(dim, heads))
        self.low, self.high = Block(dim, heads, low=True), nodes(dim, high_nodes)

    def forward(self, image: Tensor) -> tuple[Tensor, Tensor]:
        x = self.embed(image)
        for number in range(1, self.front + 1):
            x = self.get_submodule(f"front_{number}")(x)
        return self.low(x), self.high(x)


class CrossAttention(nn.Module):
    """A band of two slots: each slot's features plus what its tokens attend to in the other slot."""

    def __init__(self, dim: int, heads: int, cell: int) -> None:
        super().__init__()
        self.heads, self.cell = heads, cell
        self.query, self.key, self.value, self.output = (conv(dim, dim) for _ in range(4))

    def forward(self, band: Tensor) -> Tensor:
        batch, slots, channels, height, width = band.shape
        tokens = F.avg_pool2d(band.flatten(0, 1), self.cell)
        grid = tokens.shape[2:]

        def by_head(x: Tensor) -> Tensor:
            return x.reshape(batch, slots, self.heads, channels // self.heads, -1).transpose(-2, -1)

        query, key, value = (by_head(layer(tokens)) for layer in (self.query, self.key, self.value))
        out = F.scaled_dot_product_attention(query, key.flip(1), value.flip(1))
        received = self.output(out.transpose(-2, -1).reshape(batch * slots, channels, *grid))
        received = F.interpolate(received, size=(height, width), mode="bilinear", align_corners=False)
        return band + received.reshape(band.shape)


class Decoder(nn.Module):
    """Both bands -> image in (0, 1)."""

    def __init__(self, dim: int, heads: int, blocks: int) -> None:
        super().__init__()
        self.blocks = blocks
        self.merge, self.narrow, self.image = conv(2 * dim, dim), conv(dim, dim // 2, 3), conv(dim // 2, 1, 3)
        for number in range(blocks):
            self.add_module(f"block_{number}", Block(dim, heads))

    def forward(self, low: Tensor, high: Tensor) -> Tensor:
        x = self.merge(torch.cat([low, high], 1))
        for number in range(self.blocks):
            x = self.get_submodule(f"block_{number}")(x)
        return torch.sigmoid(self.image(F.leaky_relu(self.narrow(x), 0.01)).float())


class FusionNet(nn.Module):
    """Two sources (b 2 h w) in [0, 1] -> one fused image, or each one reconstructed.

    Without `fuses` it has encoder and decoder alone, as pre-training draws them.
    """

    def __init__(
        self, *, dim: int, heads: int, front: int, decoder_blocks: int, high_nodes: int, cell: int, fuses: bool
    ) -> None:
        super().__init__()
        self.encoder = Encoder(dim, heads, front, high_nodes)
        if fuses:
            bands = {name: CrossAttention(dim, heads, cell) for name in ("low", "high")}
            self.cross_attention = nn.ModuleDict(bands)
            self.fusion = nn.ModuleDict({"low": Block(dim, heads, low=True), "high": nodes(dim, 1)})
        self.decoder = Decoder(dim, heads, decoder_blocks)

    def _encode(self, sources: Tensor) -> tuple[Tensor, Tensor]:
        low, high = self.encoder(sources.flatten(0, 1)[:, None])
        return low.unflatten(0, sources.shape[:2]), high.unflatten(0, sources.shape[:2])

    def fuse(self, sources: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """Returns the fused image (b 1 h w), and low and high bands (b m c h w)."""
        low, high = self._encode(sources)
        fused = {}
        for name, band in (("low", low), ("high", high)):
            fused[name] = self.fusion[name](self.cross_attention[name](band).sum(1))
        return self.decoder(fused["low"], fused["high"]), low, high

    def reconstruct(self, sources: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """Returns every source (b m h w) encoded and decoded alone, and the bands."""
        low, high = self._encode(sources)
        image = self.decoder(low.flatten(0, 1), high.flatten(0, 1))
        return image.reshape(sources.shape), low, high
