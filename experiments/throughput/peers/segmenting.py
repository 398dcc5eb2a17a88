"""Fuse4Seg's segmentation network in PyTorch, written from its sources and `jaxfuse.models.fuse4seg.segmentation`."""

from __future__ import annotations

from collections.abc import Sequence

import torch
import torch.nn.functional as F
from torch import Tensor, nn


def group_norm(channels: int) -> nn.GroupNorm:
    groups = max((g for g in range(1, min(32, channels // 2) + 1) if channels % g == 0), default=1)
    return nn.GroupNorm(groups, channels, eps=1e-6)


class StandardizedConv(nn.Conv2d):
    """Convolution with a kernel of mean 0 and variance 1 over the inputs of each output channel, without bias."""

    def __init__(self, inputs: int, outputs: int, kernel: int, strides: int = 1) -> None:
        super().__init__(inputs, outputs, kernel, strides, kernel // 2, bias=False)

    def forward(self, x: Tensor) -> Tensor:
        variance, mean = torch.var_mean(self.weight, (1, 2, 3), correction=0, keepdim=True)
        return self._conv_forward(x, (self.weight - mean) * torch.rsqrt(variance + 1e-5), None)


class Unit(nn.Module):
    """A bottleneck of three convolutions with GroupNorm beside its shortcut."""

    def __init__(self, inputs: int, width: int, strides: int) -> None:
        super().__init__()
        inner = width // 4
        self.reduce, self.reduce_norm = StandardizedConv(inputs, inner, 1), group_norm(inner)
        self.spatial, self.spatial_norm = StandardizedConv(inner, inner, 3, strides), group_norm(inner)
        self.expand, self.expand_norm = StandardizedConv(inner, width, 1), group_norm(width)
        self.shortened = strides > 1 or inputs != width
        if self.shortened:
            self.shortcut, self.shortcut_norm = StandardizedConv(inputs, width, 1, strides), group_norm(width)

    def forward(self, x: Tensor) -> Tensor:
        y = F.relu(self.reduce_norm(self.reduce(x)), inplace=True)
        y = F.relu(self.spatial_norm(self.spatial(y)), inplace=True)
        y = self.expand_norm(self.expand(y))
        return F.relu(y + (self.shortcut_norm(self.shortcut(x)) if self.shortened else x), inplace=True)


class Encoder(nn.Module):
    """Image -> (map at a sixteenth of its sides, maps at a half, a quarter and an eighth)."""

    def __init__(self, stem: int, widths: Sequence[int], units: Sequence[int]) -> None:
        super().__init__()
        self.units = units
        self.stem, self.stem_norm = StandardizedConv(1, stem, 7, 2), group_norm(stem)
        inputs = stem
        for stage, (width, count) in enumerate(zip(widths, units, strict=True), start=1):
            for number in range(1, count + 1):
                unit = Unit(inputs, width, 2 if stage > 1 and number == 1 else 1)
                self.add_module(f"stage_{stage}_unit_{number}", unit)
                inputs = width

    def forward(self, image: Tensor) -> tuple[Tensor, list[Tensor]]:
        x = F.relu(self.stem_norm(self.stem(image)), inplace=True)
        skips = [x]
        x = F.max_pool2d(x, 3, 2)
        for stage, count in enumerate(self.units, start=1):
            for number in range(1, count + 1):
                x = self.get_submodule(f"stage_{stage}_unit_{number}")(x)
            if stage < len(self.units):
                height, width = (side // 2 ** (stage + 1) for side in image.shape[2:])
                skips.append(F.pad(x, (0, width - x.shape[3], 0, height - x.shape[2])))
        return x, skips


class Adapter(nn.Module):
    """LayerNorm(x + branch(x * gate(x))), with convolutions within channels."""

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.squeeze = nn.Conv2d(channels, channels // 4, 1, bias=False)
        self.excite = nn.Conv2d(channels // 4, channels, 1, bias=False)
        self.down_spatial = nn.Conv2d(channels, channels, 3, 2, 1, groups=channels, bias=False)
        self.down = nn.Conv2d(channels, channels, 1, bias=False)
        # Taps as of the convolution of a map with zeros between its pixels.
        self.up_spatial = nn.Conv2d(channels, channels, 4, groups=channels, bias=False)
        self.up = nn.Conv2d(channels, channels, 1, bias=False)
        self.norm = nn.LayerNorm(channels, eps=1e-5)

    def forward(self, x: Tensor) -> Tensor:
        gate = torch.sigmoid(self.excite(F.relu(self.squeeze(x.mean((2, 3), keepdim=True)))))
        y = F.relu(self.down(self.down_spatial(x * gate)))
        taps = self.up_spatial.weight.flip((-2, -1))
        y = F.relu(self.up(F.conv_transpose2d(y, taps, stride=2, padding=1, groups=x.shape[1])))
        return self.norm((x + y[:, :, : x.shape[2], : x.shape[3]]).movedim(1, -1)).movedim(-1, 1)


class TransformerBlock(nn.Module):
    """h = x + attention(norm x), u = norm h: h + MLP(u) + adapter(u)."""

    def __init__(self, width: int, heads: int, hidden: int, dropout: float) -> None:
        super().__init__()
        self.heads, self.dropout = heads, dropout
        self.norm_1, self.norm_2 = nn.LayerNorm(width, eps=1e-6), nn.LayerNorm(width, eps=1e-6)
        self.attention = nn.ModuleDict({"qkv": nn.Conv2d(width, 3 * width, 1), "project": nn.Conv2d(width, width, 1)})
        self.mlp = nn.ModuleDict({"expand": nn.Conv2d(width, hidden, 1), "project": nn.Conv2d(hidden, width, 1)})
        self.adapter = Adapter(width)

    def forward(self, x: Tensor) -> Tensor:
        batch, _, height, width = x.shape
        qkv = self.attention["qkv"](_normalized(x, self.norm_1)).reshape(batch, 3, self.heads, -1, height * width)
        query, key, value = (one.transpose(-2, -1) for one in qkv.unbind(1))
        out = F.scaled_dot_product_attention(query, key, value).transpose(-2, -1)
        h = x + self.attention["project"](out.reshape(x.shape))
        u = _normalized(h, self.norm_2)
        y = F.dropout(F.gelu(self.mlp["expand"](u)), self.dropout, self.training)
        return h + F.dropout(self.mlp["project"](y), self.dropout, self.training) + self.adapter(u)


def _normalized(x: Tensor, norm: nn.LayerNorm) -> Tensor:
    return norm(x.movedim(1, -1)).movedim(-1, 1)


class VisionTransformer(nn.Module):
    """1x1 embedding, positions, dropout, blocks, LayerNorm, on maps of tokens."""

    def __init__(self, inputs: int, width: int, depth: int, heads: int, hidden: int, grid: int, dropout: float) -> None:
        super().__init__()
        self.depth, self.dropout = depth, dropout
        self.embed = nn.Conv2d(inputs, width, 1)
        self.positions = nn.ParameterDict({"table": nn.Parameter(0.02 * torch.randn(grid, grid, width))})
        for number in range(1, depth + 1):
            self.add_module(f"block_{number}", TransformerBlock(width, heads, hidden, dropout))
        self.norm = nn.LayerNorm(width, eps=1e-6)

    def forward(self, x: Tensor) -> Tensor:
        x = self.embed(x) + self.positions["table"].movedim(-1, 0)
        x = F.dropout(x, self.dropout, self.training)
        for number in range(1, self.depth + 1):
            x = self.get_submodule(f"block_{number}")(x)
        return _normalized(x, self.norm)


class ConvGroupNormAct(nn.Module):
    """3x3 convolution without bias, GroupNorm, ReLU."""

    def __init__(self, inputs: int, features: int) -> None:
        super().__init__()
        self.conv, self.norm = nn.Conv2d(inputs, features, 3, padding=1, bias=False), group_norm(features)

    def forward(self, x: Tensor) -> Tensor:
        return F.relu(self.norm(self.conv(x)), inplace=True)


class Decoder(nn.Module):
    """3x3 convolution, then four steps that double the map, the first three of which join a skip."""

    def __init__(self, inputs: int, widths: Sequence[int], skips: Sequence[int]) -> None:
        super().__init__()
        self.steps = len(widths)
        self.bridge = ConvGroupNormAct(inputs, 2 * widths[0])
        inputs = 2 * widths[0]
        for number, (width, skip) in enumerate(zip(widths, (*skips, 0), strict=True), start=1):
            convs = {"conv_1": ConvGroupNormAct(inputs + skip, width), "conv_2": ConvGroupNormAct(width, width)}
            self.add_module(f"step_{number}", nn.ModuleDict(convs))
            inputs = width

    def forward(self, x: Tensor, skips: Sequence[Tensor]) -> Tensor:
        x = self.bridge(x)
        for number in range(1, self.steps + 1):
            x = F.interpolate(x, scale_factor=2, mode="bilinear", align_corners=False)
            x = torch.cat([x, skips[-number]], 1) if number <= len(skips) else x
            step = self.get_submodule(f"step_{number}")
            x = step["conv_2"](step["conv_1"](x))
        return x


class SegNet(nn.Module):
    """Image (b 1 h w) -> logits."""

    def __init__(
        self,
        classes: int,
        *,
        side: int,
        stem: int,
        widths: Sequence[int],
        units: Sequence[int],
        vit: tuple[int, int, int, int],
        decoder_widths: Sequence[int],
        dropout: float,
    ) -> None:
        super().__init__()
        self.encoder = Encoder(stem, widths, units)
        self.transformer = VisionTransformer(widths[-1], *vit, side // 16, dropout)
        self.decoder = Decoder(vit[0], decoder_widths, (widths[1], widths[0], stem))
        self.head = nn.Conv2d(decoder_widths[-1], classes, 3, padding=1)

    def forward(self, image: Tensor) -> Tensor:
        x, skips = self.encoder(image)
        return self.head(self.decoder(self.transformer(x), skips)).float()
