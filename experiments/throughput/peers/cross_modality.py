"""CMFT and CMFF in PyTorch: a 3D cycle GAN, and the fusion of two segmentation branches.

Written from the papers and from `jaxfuse.models.cmft` and `cmff`; modules bear the names of their counterparts.
"""

from __future__ import annotations

import random
from collections.abc import Mapping
from typing import NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from experiments.throughput.peers.learning import Batch, Peer, Rule
from experiments.throughput.peers.losses import dice_loss


class ConvNormAct(nn.Module):
    """Convolution without bias, instance normalization, LeakyReLU."""

    def __init__(
        self, inputs: int, features: int, kernel: int, strides: int = 1, *, padding: int | None = None, slope=0.01
    ) -> None:
        super().__init__()
        padding = kernel // 2 if padding is None else padding
        self.conv = nn.Conv3d(inputs, features, kernel, strides, padding, bias=False)
        self.slope = slope

    def forward(self, x: Tensor) -> Tensor:
        return F.leaky_relu(F.instance_norm(self.conv(x)), self.slope, inplace=True)


class EncoderLevel(nn.Module):
    """Three convolutions of kernel 3, the first strided; its result is added to that of the third."""

    def __init__(self, inputs: int, features: int, strides: int) -> None:
        super().__init__()
        self.entry = ConvNormAct(inputs, features, 3, strides)
        self.context_1 = ConvNormAct(features, features, 3)
        self.context_2 = ConvNormAct(features, features, 3)

    def forward(self, x: Tensor) -> Tensor:
        entry = self.entry(x)
        return entry + self.context_2(self.context_1(entry))


class Features(NamedTuple):
    """The last two feature maps of a trunk."""

    penultimate: Tensor
    last: Tensor


class DecoderLevel(nn.Module):
    """Doubles the resolution, joins the skip connection."""

    def __init__(self, inputs: int, features: int) -> None:
        super().__init__()
        self.up = ConvNormAct(inputs, features, 3)
        self.localize_1 = ConvNormAct(2 * features, features, 3)
        self.localize_2 = ConvNormAct(features, features, 1)

    def forward(self, coarse: Tensor, skip: Tensor) -> Features:
        x = self.up(F.interpolate(coarse, scale_factor=2, mode="nearest"))
        penultimate = self.localize_1(torch.cat([skip, x], 1))
        return Features(penultimate, self.localize_2(penultimate))


class UNet(nn.Module):
    """The trunk, residual form."""

    def __init__(self, inputs: int, base: int, levels: int) -> None:
        super().__init__()
        self.levels = levels
        for level in range(1, levels + 1):
            width = base * 2 ** (level - 1)
            self.add_module(f"encoder_{level}", EncoderLevel(inputs, width, 1 if level == 1 else 2))
            inputs = width
        for level in range(levels - 1, 0, -1):
            width = base * 2 ** (level - 1)
            self.add_module(f"decoder_{level}", DecoderLevel(2 * width, width))

    def forward(self, x: Tensor) -> Features:
        skips = []
        for level in range(1, self.levels + 1):
            x = self.get_submodule(f"encoder_{level}")(x)
            skips.append(x)
        features = Features(x, skips.pop())
        for level in range(self.levels - 1, 0, -1):
            features = self.get_submodule(f"decoder_{level}")(features.last, skips.pop())
        return features


class Network(nn.Module):
    """A trunk and an output convolution."""

    def __init__(self, inputs: int, outputs: int, base: int, levels: int) -> None:
        super().__init__()
        self.trunk = UNet(inputs, base, levels)
        self.head = nn.ModuleDict({"conv": nn.Conv3d(base, outputs, 1)})

    def read_out(self, features: Features) -> Tensor:
        return self.head["conv"](features.last).float()

    def forward(self, image: Tensor) -> Tensor:
        return self.read_out(self.trunk(image))


class PatchCritic(nn.Module):
    """Image -> one unbounded score per patch."""

    def __init__(self, inputs: int, base: int, layers: int) -> None:
        super().__init__()
        self.layers = layers
        self.down_1 = nn.Conv3d(inputs, base, 4, 2, 1)
        for layer in range(2, layers + 1):
            width = base * 2 ** (layer - 1)
            self.add_module(f"down_{layer}", ConvNormAct(width // 2, width, 4, 2, padding=1, slope=0.2))
        self.score = nn.Conv3d(base * 2 ** (layers - 1), 1, 4, 1, 1)

    def forward(self, image: Tensor) -> Tensor:
        x = F.leaky_relu(self.down_1(image), 0.2, inplace=True)
        for layer in range(2, self.layers + 1):
            x = self.get_submodule(f"down_{layer}")(x)
        return self.score(x).float()


class FakePool:
    """The image pool of the public CycleGAN code; past fakes are kept in bfloat16."""

    def __init__(self, size: int) -> None:
        self.size, self.images = size, []

    def exchange(self, fakes: Tensor) -> Tensor:
        shown = []
        for fake in fakes:
            if len(self.images) < self.size:
                self.images.append(fake.to(torch.bfloat16))
            elif self.size and random.random() < 0.5:
                place = random.randrange(self.size)
                fake, self.images[place] = self.images[place].to(fake.dtype), fake.to(torch.bfloat16)
            shown.append(fake)
        return torch.stack(shown)


class Transition(Peer):
    """CMFT: generators by one optimizer, then critics by one, each on real and pooled fakes in one call."""

    def __init__(
        self, rules: Mapping[str, Rule], *, base: int, levels: int, critic_base: int, critic_layers: int, pool: int
    ) -> None:
        generators = nn.ModuleDict({side: Network(2, 2, base, levels) for side in ("ab", "ba")})
        critics = nn.ModuleDict({side: PatchCritic(2, critic_base, critic_layers) for side in ("a", "b")})
        super().__init__({"generators": generators, "discriminators": critics}, rules)
        self.pools = {side: FakePool(pool) for side in ("a", "b")}

    def step(self, batch: Batch) -> dict[str, Tensor]:
        real = {"a": batch["image"][:, :2], "b": batch["image"][:, 2:]}
        made, critics = self._translate(real), self.players["discriminators"]
        terms = {}
        for side in ("a", "b"):
            terms[f"adversarial_{side}"] = (critics[side](made[f"fake_{side}"]) - 1).square().mean()
            terms[f"cycle_{side}"] = F.l1_loss(made[f"cycle_{side}"], real[side])
        adversarial = terms["adversarial_a"] + terms["adversarial_b"]
        loss = adversarial + 10.0 * (terms["cycle_a"] + terms["cycle_b"])
        metrics = {f"generators/{name}": value for name, value in {"loss": loss, **terms}.items()}
        self.descend("generators", loss)
        judged = {}
        for side in ("a", "b"):
            shown = self.pools[side].exchange(made[f"fake_{side}"].detach())
            of_real, of_fake = critics[side](torch.cat([real[side], shown])).chunk(2)
            judged[f"critic_{side}"] = 0.5 * ((of_real - 1).square().mean() + of_fake.square().mean())
        loss = judged["critic_a"] + judged["critic_b"]
        self.descend("discriminators", loss)
        return metrics | {f"discriminators/{name}": value for name, value in {"loss": loss, **judged}.items()}

    def _translate(self, real: Mapping[str, Tensor]) -> dict[str, Tensor]:
        generators = self.players["generators"]
        fake_b, fake_a = generators["ab"](real["a"]), generators["ba"](real["b"])
        cycles = {"cycle_a": generators["ba"](fake_b), "cycle_b": generators["ab"](fake_a)}
        return {"fake_a": fake_a, "fake_b": fake_b, **cycles}

    def predict(self, image: Tensor) -> dict[str, Tensor]:
        return self._translate({"a": image[:, :2], "b": image[:, 2:]})


class FusionBranch(nn.Module):
    """S_F: features and masks of both branches -> logits."""

    def __init__(self, base: int, width: int, classes: int) -> None:
        super().__init__()
        self.fuse_penultimate = ConvNormAct(2 * base, width, 3)
        self.fuse_last = ConvNormAct(width + 2 * base, width, 3)
        self.mix = ConvNormAct(width, width, 3)
        self.guided = ConvNormAct(2 * width, width, 3)
        self.head = nn.Conv3d(width, classes, 1)

    def forward(self, a: Features, b: Features, probs_a: Tensor, probs_b: Tensor) -> Tensor:
        x = self.fuse_penultimate(torch.cat([a.penultimate, b.penultimate], 1))
        x = self.mix(self.fuse_last(torch.cat([x, a.last, b.last], 1)))
        x = self.guided(torch.cat([x * (2 - probs[:, :1]).to(x.dtype) for probs in (probs_a, probs_b)], 1))
        return self.head(x).float()


class Fusion(Peer):
    """CMFF: both branches and S_F learn together from three losses of equal weight."""

    def __init__(self, rules: Mapping[str, Rule], *, base: int, levels: int, width: int, classes: int) -> None:
        parts = {f"branch_{side}": Network(2, classes, base, levels) for side in ("a", "b")}
        parts["fusion"] = FusionBranch(base, width, classes)
        super().__init__({"net": nn.ModuleDict(parts)}, rules)

    def _logits(self, image: Tensor) -> dict[str, Tensor]:
        net = self.players["net"]
        a, b = net["branch_a"].trunk(image[:, :2]), net["branch_b"].trunk(image[:, 2:])
        logits_a, logits_b = net["branch_a"].read_out(a), net["branch_b"].read_out(b)
        fused = net["fusion"](a, b, logits_a.softmax(1), logits_b.softmax(1))
        return {"S_A": logits_a, "S_B": logits_b, "S_F": fused}

    def step(self, batch: Batch) -> dict[str, Tensor]:
        logits = self._logits(batch["image"])
        terms = {name: dice_loss(value, batch["label"]) for name, value in logits.items()}
        loss = terms["S_A"] + terms["S_B"] + terms["S_F"]
        self.descend("net", loss)
        return {f"net/{name}": value for name, value in {"loss": loss, **terms}.items()}

    def predict(self, image: Tensor) -> dict[str, Tensor]:
        return {name: value.softmax(1) for name, value in self._logits(image).items()}
