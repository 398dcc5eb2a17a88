"""Hi-Net and its critic in PyTorch, written from the paper and from `jaxfuse.models.hinet`: the hybrid form."""

from __future__ import annotations

import functools
import itertools
import operator
from collections.abc import Callable, Mapping, Sequence

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from experiments.throughput.peers.learning import Batch, Peer, Rule

Activation = Callable[[Tensor], Tensor]


def leaky_relu(x: Tensor) -> Tensor:
    return F.leaky_relu(x, 0.2, inplace=True)


def relu(x: Tensor) -> Tensor:
    return F.relu(x, inplace=True)


class Layer(nn.Module):
    """3x3 convolution, batch normalization, activation."""

    def __init__(self, inputs: int, features: int, activation: Activation) -> None:
        super().__init__()
        self.conv, self.norm = nn.Conv2d(inputs, features, 3, padding=1), nn.BatchNorm2d(features)
        self.activation = activation

    def forward(self, x: Tensor) -> Tensor:
        return self.activation(self.norm(self.conv(x)))


class Stage(nn.Module):
    """Layers one after the other."""

    def __init__(self, widths: Sequence[int], activation: Activation) -> None:
        super().__init__()
        for number, (inputs, features) in enumerate(itertools.pairwise(widths), start=1):
            self.add_module(f"layer_{number}", Layer(inputs, features, activation))

    def forward(self, x: Tensor) -> Tensor:
        for layer in self.children():
            x = layer(x)
        return x


class ToImage(nn.Module):
    """A layer with ReLU, then a convolution to one channel and tanh."""

    def __init__(self, inputs: int, width: int) -> None:
        super().__init__()
        self.layer, self.conv = Layer(inputs, width, relu), nn.Conv2d(width, 1, 3, padding=1)

    def forward(self, x: Tensor) -> Tensor:
        return torch.tanh(self.conv(self.layer(x)).float())


class Encoder(nn.Module):
    """Image -> the pooled maps of three levels, finest first."""

    def __init__(self, n: int) -> None:
        super().__init__()
        for number, widths in enumerate(((1, n, n), (n, 2 * n, 2 * n), (2 * n, 4 * n, 4 * n)), start=1):
            self.add_module(f"stage_{number}", Stage(widths, leaky_relu))

    def forward(self, x: Tensor) -> list[Tensor]:
        maps = []
        for stage in self.children():
            x = F.max_pool2d(stage(x), 2)
            maps.append(x)
        return maps


class Decoder(nn.Module):
    """The deepest maps -> the image that they came from."""

    def __init__(self, n: int) -> None:
        super().__init__()
        self.stage_1 = Stage((4 * n, 4 * n), relu)
        self.stage_2 = Stage((4 * n, 4 * n, 2 * n), relu)
        self.stage_3 = Stage((2 * n, 2 * n, n), relu)
        self.image = ToImage(n, n)

    def forward(self, x: Tensor) -> Tensor:
        for stage in (self.stage_1, self.stage_2, self.stage_3):
            x = F.interpolate(stage(x), scale_factor=2, mode="nearest")
        return self.image(x)


class FusionBlock(nn.Module):
    """Sum, product and maximum of the sources' maps, a layer, the map of the block before, a layer."""

    def __init__(self, width: int, previous: int, features: int, activation: Activation) -> None:
        super().__init__()
        self.mix = Layer(3 * width, width, activation)
        self.fuse = Layer(width + previous, features, activation)

    def forward(self, maps: Sequence[Tensor], previous: Tensor | None = None) -> Tensor:
        joined = [functools.reduce(over, maps) for over in (operator.add, operator.mul, torch.maximum)]
        x = self.mix(torch.cat(joined, 1))
        return self.fuse(x if previous is None else torch.cat([x, previous], 1))


class FusionNetwork(nn.Module):
    """Maps of all sources by level -> the latent map."""

    def __init__(self, n: int) -> None:
        super().__init__()
        self.block_1 = FusionBlock(n, 0, 2 * n, leaky_relu)
        self.block_2 = FusionBlock(2 * n, 2 * n, 4 * n, leaky_relu)
        self.block_3 = FusionBlock(4 * n, 4 * n, 4 * n, leaky_relu)

    def forward(self, levels: Sequence[Sequence[Tensor]]) -> Tensor:
        x = None
        for block, maps in zip(self.children(), levels, strict=True):
            x = block(maps, None if x is None else F.max_pool2d(x, 2))
        return x


class SynthesisNetwork(nn.Module):
    """The latent map and the sources' maps by level -> the target."""

    def __init__(self, n: int) -> None:
        super().__init__()
        self.layer_1, self.layer_2 = Layer(4 * n, 8 * n, leaky_relu), Layer(8 * n, 4 * n, relu)
        self.block_1 = FusionBlock(4 * n, 4 * n, 2 * n, relu)
        self.block_2 = FusionBlock(2 * n, 2 * n, n, relu)
        self.block_3 = FusionBlock(n, n, n, relu)
        self.image = ToImage(n, n)

    def forward(self, bottom: Tensor, levels: Sequence[Sequence[Tensor]]) -> Tensor:
        x = self.layer_2(self.layer_1(bottom))
        for block, maps in zip((self.block_1, self.block_2, self.block_3), levels[::-1], strict=True):
            x = F.interpolate(block(maps, x), scale_factor=2, mode="nearest")
        return self.image(x)


class Generator(nn.Module):
    """Two sources (b 2 h w) in [-1, 1] -> the target, then the sources given back."""

    def __init__(self, n: int, sources: Sequence[str]) -> None:
        super().__init__()
        self.sources = sources
        for name in sources:
            self.add_module(f"encoder_{name}", Encoder(n))
            self.add_module(f"decoder_{name}", Decoder(n))
        self.fusion, self.synthesis = FusionNetwork(n), SynthesisNetwork(n)

    def forward(self, image: Tensor) -> Tensor:
        pyramids = [self.get_submodule(f"encoder_{name}")(image[:, i : i + 1]) for i, name in enumerate(self.sources)]
        images = [
            self.get_submodule(f"decoder_{name}")(maps[-1]) for name, maps in zip(self.sources, pyramids, strict=True)
        ]
        levels = list(zip(*pyramids, strict=True))
        return torch.cat([self.synthesis(self.fusion(levels), levels), *images], 1)


class Critic(nn.Module):
    """Image in [-1, 1] -> one unbounded score per patch."""

    def __init__(self, width: int) -> None:
        super().__init__()
        inputs = 1
        for number in range(1, 5):
            features = width * 2 ** (number - 1)
            self.add_module(f"down_{number}", nn.Conv2d(inputs, features, 3, 2, 1))
            if number > 1:
                self.add_module(f"norm_{number}", nn.BatchNorm2d(features, eps=0.8))
            inputs = features
        self.score = nn.Conv2d(inputs, 1, 3)

    def forward(self, x: Tensor) -> Tensor:
        for number in range(1, 5):
            x = self.get_submodule(f"down_{number}")(x)
            if number > 1:
                x = self.get_submodule(f"norm_{number}")(x)
            x = leaky_relu(x)
        return self.score(x).float()


class Synthesis(Peer):
    """Hi-Net's step: the generator against the critic as it stands, then the critic, real and fake apart."""

    def __init__(self, rules: Mapping[str, Rule], *, width: int, sources: Sequence[str]) -> None:
        players = {"generator": Generator(width, sources), "discriminator": Critic(width)}
        super().__init__(players, rules)
        self.sources = sources

    def step(self, batch: Batch) -> dict[str, Tensor]:
        image = 2 * batch["image"] - 1
        sources, target = image[:, : len(self.sources)], image[:, len(self.sources) :]
        made, critic = self.players["generator"](sources), self.players["discriminator"]
        fake = made[:, :1]
        terms = {"adversarial": (critic(fake) - 1).square().mean(), "target": F.l1_loss(fake, target)}
        loss = terms["adversarial"] + 100 * terms["target"]
        for i, name in enumerate(self.sources):
            terms[f"reconstruction_{name}"] = F.l1_loss(made[:, i + 1], sources[:, i])
            loss = loss + 20 * terms[f"reconstruction_{name}"]
        metrics = {f"generator/{name}": value for name, value in {"loss": loss, **terms}.items()}
        self.descend("generator", loss)
        judged = {"real": (critic(target) - 1).square().mean(), "fake": critic(fake.detach()).square().mean()}
        loss = 0.5 * (judged["real"] + judged["fake"])
        self.descend("discriminator", loss)
        return metrics | {f"discriminator/{name}": value for name, value in {"loss": loss, **judged}.items()}

    def predict(self, image: Tensor) -> dict[str, Tensor]:
        made = 0.5 * (self.players["generator"](2 * image[:, : len(self.sources)] - 1) + 1)
        return {"synthesized": made[:, :1], "reconstructed": made[:, 1:]}
