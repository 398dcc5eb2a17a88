"""Fuse4Seg's two phases in PyTorch: pre-training, and the cooperative step follower -> leader."""

from __future__ import annotations

import random
from collections.abc import Mapping, Sequence
from itertools import combinations
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from experiments.throughput.peers.fusing import FusionNet
from experiments.throughput.peers.learning import Batch, Peer, Rule
from experiments.throughput.peers.losses import transunet_loss
from experiments.throughput.peers.segmenting import SegNet

MODALITIES = ("t1", "t1ce", "t2", "flair")


class SourceCritic(nn.Module):
    """Three 3x3 convolutions of stride 2, then a logit per eighth of a side."""

    def __init__(self, base: int) -> None:
        super().__init__()
        widths = (1, base, 2 * base, 4 * base)
        for layer in range(3):
            self.add_module(f"down_{layer + 1}", nn.Conv2d(widths[layer], widths[layer + 1], 3, 2, 1))
        self.score = nn.Conv2d(widths[-1], 1, 1)

    def forward(self, x: Tensor) -> Tensor:
        for layer in range(3):
            x = F.leaky_relu(self.get_submodule(f"down_{layer + 1}")(x), 0.2, inplace=True)
        return self.score(x).float()


class Fusing(Peer):
    """The parts that both phases share: a fusion network, a critic of each modality, and a drawn pair of modalities."""

    def __init__(
        self,
        rules: Mapping[str, Rule],
        networks: Mapping[str, nn.Module],
        critic_base: int,
        pairs: Sequence[Sequence[str]] = tuple(combinations(MODALITIES, 2)),
    ) -> None:
        critics = nn.ModuleDict({name: SourceCritic(critic_base) for name in MODALITIES})
        super().__init__({**networks, "critics": critics}, rules)
        self.pairs = pairs
        # Each critic has an optimizer of its own, and one that is not shown anything rests.
        self.apart = {name: rules["critics"].torch(list(critic.parameters())) for name, critic in critics.items()}

    def draw(self, image: Tensor) -> tuple[Sequence[str], Tensor]:
        """Returns the names of two modalities and their channels (b 2 h w)."""
        pair = random.choice(self.pairs)
        return pair, torch.stack([image[:, MODALITIES.index(name)] for name in pair], 1)

    def maker_loss(self, pair: Sequence[str], fakes: Tensor) -> Tensor:
        """How far the fake of each slot (b 2 h w) is from what its critic takes for real, their mean."""
        critics: Any = self.players["critics"]
        return sum(-F.logsigmoid(critics[name](fakes[:, i : i + 1])).mean() for i, name in enumerate(pair)) / 2

    def judge(self, pair: Sequence[str], real: Tensor, fakes: Tensor) -> dict[str, Tensor]:
        """Moves the critics of the pair, each on real and fake in one call."""
        critics: Any = self.players["critics"]
        terms: dict[str, Any] = {"real": 0.0, "fake": 0.0}
        for i, name in enumerate(pair):
            both = critics[name](torch.cat([real[:, i : i + 1], fakes[:, i : i + 1]]))
            of_real, of_fake = both.chunk(2)
            own = {"real": -F.logsigmoid(of_real).mean() / 2, "fake": -F.logsigmoid(-of_fake).mean() / 2}
            self._descend(
                self.apart[name], list(critics[name].parameters()), own["real"] + own["fake"], self.rules["critics"]
            )
            terms = {term: terms[term] + value.detach() for term, value in own.items()}
        return {f"critics/{term}": value for term, value in {"loss": terms["real"] + terms["fake"], **terms}.items()}


class Pretraining(Fusing):
    """Sources are encoded and decoded, each alone; then the critics tell them from their reconstructions."""

    def __init__(self, rules: Mapping[str, Rule], form: Mapping[str, Any], critic_base: int, **pairs: Any) -> None:
        super().__init__(rules, {"fusion": FusionNet(**form, fuses=False)}, critic_base, **pairs)

    def step(self, batch: Batch) -> dict[str, Tensor]:
        pair, sources = self.draw(batch["image"])
        made, low, high = self.players["fusion"].reconstruct(sources)
        content = (sources - made).square().mean((2, 3)) + 1 - ssim(sources, made)
        terms = {"content": content.mean(), "correlation": band_correlation(low, high)}
        terms["adversarial"] = self.maker_loss(pair, made)
        loss = 0.25 * terms["correlation"] + 0.75 * terms["content"] + 0.1 * terms["adversarial"]
        self.descend("fusion", loss)
        metrics = {f"fusion/{name}": value for name, value in {"loss": loss, **terms}.items()}
        return metrics | self.judge(pair, sources, made.detach())

    def predict(self, image: Tensor) -> dict[str, Tensor]:
        return {"reconstruction": self.players["fusion"].reconstruct(image)[0]}


class Cooperation(Fusing):
    """Critics, then segmentation on the fused image, then fusion through the moved segmentation."""

    def __init__(
        self,
        rules: Mapping[str, Rule],
        form: Mapping[str, Any],
        critic_base: int,
        segmentation: Mapping[str, Any],
        **pairs: Any,
    ) -> None:
        networks = {"fusion": FusionNet(**form, fuses=True), "segmentation": SegNet(4, **segmentation)}
        super().__init__(rules, networks, critic_base, **pairs)

    def step(self, batch: Batch) -> dict[str, Tensor]:
        pair, sources = self.draw(batch["image"])
        segmentation = self.players["segmentation"]
        # One pass serves all three; the graph is kept for the leader.
        fused, low, high = self.players["fusion"].fuse(sources)
        metrics = self.judge(pair, sources, fused.detach().expand(sources.shape))
        follower = transunet_loss(segmentation(fused.detach()), batch["label"])
        self.descend("segmentation", follower)
        content, terms = fusion_content(fused, sources)
        terms |= {"correlation": band_correlation(low, high), "content": content}
        terms["adversarial"] = self.maker_loss(pair, fused.expand(sources.shape))
        fusion_loss = 0.25 * terms["correlation"] + 0.75 * content + 0.1 * terms["adversarial"]
        task = transunet_loss(segmentation(fused), batch["label"])
        leader = task + fusion_loss
        self.descend("fusion", leader)
        terms |= {"loss": leader, "fusion_loss": fusion_loss, "task_loss": task}
        metrics |= {f"fusion/{name}": value for name, value in terms.items()}
        return {**metrics, "segmentation/loss": follower}

    def predict(self, image: Tensor) -> dict[str, Tensor]:
        _, sources = self.draw(image)
        fused = self.players["fusion"].fuse(sources)[0]
        return {"fused": fused, "S": self.players["segmentation"](fused).softmax(1)}


def band_correlation(low: Tensor, high: Tensor) -> Tensor:
    """CC(high)^2 / (CC(low) + 1.01) of both slots of bands (b 2 c h w), CC by sample and channel over pixels."""

    def correlation(band: Tensor) -> Tensor:
        flat = band.float().flatten(3)
        a, b = (flat - flat.mean(-1, keepdim=True)).unbind(1)
        norms = torch.sqrt(a.square().sum(-1) * b.square().sum(-1) + 1e-12)
        return ((a * b).sum(-1) / norms).clamp(-1, 1).mean(-1)

    return (correlation(high).square() / (correlation(low) + 1.01)).mean()


def sobel_magnitude(images: Tensor) -> Tensor:
    """|Sobel_x| + |Sobel_y| of every channel, edges repeated at the border."""
    taps = torch.tensor([[-1.0, 0, 1], [-2, 0, 2], [-1, 0, 1]], device=images.device)
    kernels = torch.stack([taps, taps.T])[:, None]
    padded = F.pad(images.reshape(-1, 1, *images.shape[2:]), (1, 1, 1, 1), mode="replicate")
    return F.conv2d(padded, kernels).abs().sum(1).reshape(images.shape)


def fusion_content(fused: Tensor, sources: Tensor) -> tuple[Tensor, dict[str, Tensor]]:
    """The fused image against the maxima of sources: intensities, and ten times Sobel magnitudes."""
    brightest, steepest = sources.amax(1, keepdim=True), sobel_magnitude(sources).amax(1, keepdim=True)
    terms = {"intensity": F.l1_loss(fused, brightest), "gradient": F.l1_loss(sobel_magnitude(fused), steepest)}
    return terms["intensity"] + 10 * terms["gradient"], terms


def ssim(a: Tensor, b: Tensor) -> Tensor:
    """Structural similarity (b m) of images in [0, 1]: 11x11 Gaussian window of sd 1.5, valid windows."""
    offsets = torch.arange(11, device=a.device) - 5
    window = torch.exp(-(offsets**2) / 4.5)
    window = window / window.sum()

    def smooth(images: Tensor) -> Tensor:
        flat = images.reshape(-1, 1, *images.shape[2:])
        flat = F.conv2d(F.conv2d(flat, window[None, None, :, None]), window[None, None, None, :])
        return flat.reshape(*images.shape[:2], *flat.shape[2:])

    mean_a, mean_b = smooth(a), smooth(b)
    var_a, var_b = smooth(a * a) - mean_a**2, smooth(b * b) - mean_b**2
    covariance = smooth(a * b) - mean_a * mean_b
    c1, c2 = 0.01**2, 0.03**2
    luminance = (2 * mean_a * mean_b + c1) / (mean_a**2 + mean_b**2 + c1)
    return (luminance * (2 * covariance + c2) / (var_a + var_b + c2)).mean((2, 3))
