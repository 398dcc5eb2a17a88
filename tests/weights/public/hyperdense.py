"""HyperDense-Net in PyTorch, by the names of its public code: each stream puts its own features first."""

from __future__ import annotations

import torch
from torch import nn

STREAMS = {2: ("Top", "Bottom"), 3: ("Top", "Middle", "Bottom")}


class HyperDense(nn.Module):
    """Image, a stream per channel -> scores, by convolutions without padding."""

    def __init__(self, streams, classes, filters, head):
        super().__init__()
        self.names, self.layers, width = STREAMS[streams], len(filters), 0
        for layer, features in enumerate(filters, start=1):
            for name in self.names:
                first = [] if layer == 1 else [nn.BatchNorm3d(width)]
                conv = nn.Conv3d(width or 1, features, 3)
                self.add_module(f"conv{layer}_{name}", nn.Sequential(*first, nn.PReLU(), nn.Dropout(0.0), conv))
            width += streams * features
        inputs = streams * width
        for number, features in enumerate(head, start=1):
            self.add_module(f"fully_{number}", nn.Conv3d(inputs, features, 1))
            inputs = features
        self.final, self.hidden = nn.Conv3d(inputs, classes, 1), len(head)

    def forward(self, image):
        read = list(image.split(1, 1))
        for layer in range(1, self.layers + 1):
            made = [self.get_submodule(f"conv{layer}_{name}")(x) for name, x in zip(self.names, read, strict=True)]
            kept = [] if layer == 1 else [[inner(x, made[0].shape[-1])] for x in read]
            read = []
            for stream, own in enumerate(made):
                others = [x for other, x in enumerate(made) if other != stream]
                read.append(torch.cat([*(kept[stream] if kept else ()), own, *others], 1))
        x = torch.cat(read, 1)
        for number in range(1, self.hidden + 1):
            x = self.get_submodule(f"fully_{number}")(x)
        return self.final(x)


def inner(x, side):
    first = (x.shape[-1] - side) // 2
    window = slice(first, first + side)
    return x[:, :, window, window, window]
