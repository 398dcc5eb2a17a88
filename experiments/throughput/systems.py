"""The Systems that are compared, at the sizes of the tables, each beside its peer."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from functools import partial
from typing import Any

import numpy as np

from experiments.throughput.rules import Adam, Rule, Sgd
from jaxfuse.learning.state import Optimizers
from jaxfuse.learning.system import System
from jaxfuse.losses import imbalance, overlap
from jaxfuse.models import cmff, cmft, fuse4seg, hinet, hyperfusion, infinet
from jaxfuse.models.fuse4seg.fusion import FusionForm
from jaxfuse.models.fuse4seg.judging import CriticForm
from jaxfuse.models.fuse4seg.segmentation import SegmentationForm
from jaxfuse.models.hinet.form import HiNetForm
from jaxfuse.models.hyperfusion.make import HyperForm

SIZES = ("cpu", "paper", "tiny")
BRATS = ("t1", "t1ce", "t2", "flair")
PAIRS = ("t1+t1ce", "t2+flair")
FREQUENCIES = (0.7, 0.06, 0.14, 0.1)


@dataclass(frozen=True)
class Case:
    """A System at a size.

    Attributes:
        patch, batch: sides of an example, and examples of a step.
        margin: voxels that labels are smaller by on each side.
        modalities, classes: their number.
        rules: how each player descends.
        ours: (optimizers, dtype) -> the System.
        peer: rules -> its counterpart; called where PyTorch is installed.
        gradient: how far both sides' gradients may be apart at small sizes, in shares of the largest of each weight.
            Those of HyperFusionNet in PyTorch are 3e-3 to 5e-3 from themselves in float64, which rounding comes to in
            nine layers of sums that grow.
    """

    patch: tuple[int, ...]
    batch: int
    modalities: int
    classes: int
    rules: Mapping[str, Rule]
    ours: Callable[[Optimizers, str], System]
    peer: Callable[[Mapping[str, Rule]], Any]
    margin: int = 0
    gradient: float = 1e-3

    def example(self, seed: int = 0) -> dict[str, np.ndarray]:
        """Draws a batch of noise in [0, 1] with labels."""
        rng = np.random.default_rng(seed)
        inner = tuple(side - 2 * self.margin for side in self.patch)
        return {
            "image": rng.random((self.batch, *self.patch, self.modalities), np.float32),
            "label": rng.integers(0, self.classes, (self.batch, *inner), np.int32),
        }

    def optimizers(self, rules: Mapping[str, Rule] | None = None) -> dict[str, Any]:
        return {name: rule.optax() for name, rule in (rules or self.rules).items()}


@dataclass(frozen=True)
class UNetSize:
    """Sizes of CMFT and CMFF."""

    side: int
    batch: int
    base: int = 16
    levels: int = 5
    critic_layers: int = 4
    pool: int = 50
    width: int = 32

    def unet(self, dtype: str) -> cmft.UNetForm:
        return cmft.UNetForm(base=self.base, levels=self.levels, dtype=dtype)


UNET_SIZES = {
    "cpu": UNetSize(32, 2),
    "paper": UNetSize(128, 1),
    "tiny": UNetSize(16, 2, base=4, levels=3, critic_layers=2, pool=4, width=8),
}


def _cmft(at: str) -> Case:
    size = UNET_SIZES[at]

    def ours(optimizers: Optimizers, dtype: str) -> System:
        cycle = cmft.CycleForm(critic_base=size.base, critic_layers=size.critic_layers, pool_size=size.pool)
        return cmft.make_system(
            optimizers=optimizers, modalities=BRATS, pairs=PAIRS, unet=size.unet(dtype), cycle=cycle
        )

    def peer(rules: Mapping[str, Rule]) -> Any:
        from experiments.throughput.peers.cross_modality import Transition

        sizes = {"base": size.base, "levels": size.levels, "critic_base": size.base}
        return Transition(rules, critic_layers=size.critic_layers, pool=size.pool, **sizes)

    rules = {"generators": Adam(1e-4, b1=0.5), "discriminators": Adam(1e-4, b1=0.5)}
    return Case((size.side,) * 3, size.batch, 4, 4, rules, ours, peer)


def _cmff(at: str) -> Case:
    size = UNET_SIZES[at]

    def ours(optimizers: Optimizers, dtype: str) -> System:
        return cmff.make_system(
            optimizers=optimizers,
            modalities=BRATS,
            classes=4,
            pairs=PAIRS,
            loss=overlap.dice_loss_of_logits,
            unet=size.unet(dtype),
            fusion=cmff.FusionForm(fusion_width=size.width),
        )

    def peer(rules: Mapping[str, Rule]) -> Any:
        from experiments.throughput.peers.cross_modality import Fusion

        return Fusion(rules, base=size.base, levels=size.levels, width=size.width, classes=4)

    return Case((size.side,) * 3, size.batch, 4, 4, {"net": Adam(1e-4)}, ours, peer)


@dataclass(frozen=True)
class HyperSize:
    """Sizes of HyperDense-Net and HyperFusionNet; patches are of 27^3."""

    batch: int
    modalities: int = 2
    width: int = 25
    head: tuple[int, ...] = (400, 200, 150)

    def form(self, dtype: str, **changes: Any) -> HyperForm:
        return HyperForm(width=self.width, head=self.head, dtype=dtype, **changes)


def _hyper(size: HyperSize, *, classes: int, filters: str, fused: bool) -> Case:
    loss = imbalance.combo if fused else overlap.cross_entropy

    def ours(optimizers: Optimizers, dtype: str) -> System:
        form = size.form(dtype, filters=filters, resfuse=fused)
        names = [f"m{i}" for i in range(size.modalities)]
        return hyperfusion.make_system(optimizers=optimizers, modalities=names, classes=classes, loss=loss, form=form)

    def peer(rules: Mapping[str, Rule]) -> Any:
        from experiments.throughput.peers import hyper, losses

        widths = size.form("float32", filters=filters, resfuse=fused).features()
        net = hyper.HyperDense(size.modalities, classes, widths, size.head, fused=fused)
        return hyper.Segmentation(rules, net, losses.combo if fused else losses.cross_entropy, "segmentation")

    return Case(
        (27,) * 3, size.batch, size.modalities, classes, {"net": Adam(1e-3)}, ours, peer, 9, 1e-2 if fused else 1e-3
    )


def _hyperdense(at: str) -> Case:
    sizes = {"cpu": HyperSize(2), "paper": HyperSize(5), "tiny": HyperSize(1, width=3, head=(8, 6, 4))}
    return _hyper(sizes[at], classes=4, filters="stepped", fused=False)


def _hyperfusion(at: str) -> Case:
    wide = {"modalities": 3, "head": (600, 300, 150)}
    tiny = HyperSize(1, modalities=3, width=3, head=(8, 6, 4))
    sizes = {"cpu": HyperSize(1, **wide), "paper": HyperSize(10, **wide), "tiny": tiny}
    return _hyper(sizes[at], classes=2, filters="incremental", fused=True)


def _infinet(at: str) -> Case:
    side, batch, width = {"cpu": (256, 2, 64), "paper": (256, 8, 64), "tiny": (32, 2, 4)}[at]

    def ours(optimizers: Optimizers, dtype: str) -> System:
        return infinet.make_system(
            optimizers=optimizers,
            modalities=("t1", "t2"),
            classes=4,
            loss=partial(imbalance.generalized_dice, frequencies=FREQUENCIES),
            form=infinet.InfiNetForm(width=width, dtype=dtype),
        )

    def peer(rules: Mapping[str, Rule]) -> Any:
        from experiments.throughput.peers import hyper, losses
        from experiments.throughput.peers.infinet import InfiNet

        loss = partial(losses.generalized_dice, frequencies=FREQUENCIES)
        return hyper.Segmentation(rules, InfiNet(width, 4), loss, "segmentation")

    return Case((side, side), batch, 2, 4, {"net": Sgd(0.01, momentum=0.95)}, ours, peer)


def _hinet(at: str) -> Case:
    side, batch, width = {"cpu": (128, 8, 32), "paper": (128, 512, 32), "tiny": (40, 2, 4)}[at]

    def ours(optimizers: Optimizers, dtype: str) -> System:
        return hinet.make_system(
            optimizers=optimizers,
            modalities=("t1", "t2", "flair"),
            pairs=("t1+t2", "flair"),
            form=HiNetForm(width=width, critic_width=width, dtype=dtype),
        )

    def peer(rules: Mapping[str, Rule]) -> Any:
        from experiments.throughput.peers.hinet import Synthesis

        return Synthesis(rules, width=width, sources=("t1", "t2"))

    rules = {"generator": Adam(2e-4, b1=0.5), "discriminator": Adam(2e-4, b1=0.5)}
    return Case((side, side), batch, 3, 4, rules, ours, peer)


@dataclass(frozen=True)
class FuseSize:
    """Sizes of Fuse4Seg: of images, of the fusion network, of the segmentation network.

    Attributes:
        vit: width, depth, heads and hidden channels of the transformer.
    """

    side: int
    batch: int
    fusion: Mapping[str, int]
    critic_base: int
    stem: int
    widths: tuple[int, int, int]
    units: tuple[int, int, int]
    vit: tuple[int, int, int, int]
    decoder_widths: tuple[int, int, int, int]
    dropout: float = 0.1
    # Pairs of modalities; () is all of them.
    pairs: tuple[tuple[str, str], ...] = ()

    def common(self, optimizers: Optimizers, dtype: str) -> dict[str, Any]:
        """Arguments of both phases."""
        return {
            "optimizers": optimizers,
            "modalities": BRATS,
            "combos": tuple("+".join(pair) for pair in self.pairs) or "pairs",
            "fusion": FusionForm(**self.fusion, dtype=dtype),
            "critics": CriticForm(critic_base=self.critic_base, dtype=dtype),
        }

    def peer(self) -> dict[str, Any]:
        return {"form": self.fusion, "critic_base": self.critic_base, **({"pairs": self.pairs} if self.pairs else {})}

    def segmentation(self) -> dict[str, Any]:
        """Options that both sides name alike."""
        names = ("stem", "widths", "units", "decoder_widths", "dropout")
        return {name: getattr(self, name) for name in names}


FUSE_SIZES = {
    "cpu": FuseSize(
        side=112,
        batch=2,
        fusion={"dim": 32, "front": 2, "decoder_blocks": 2, "heads": 4, "high_nodes": 2, "cell": 8},
        critic_base=32,
        stem=32,
        widths=(64, 128, 256),
        units=(2, 2, 2),
        vit=(256, 6, 8, 1024),
        decoder_widths=(128, 64, 32, 16),
    ),
    "paper": FuseSize(
        side=224,
        batch=16,
        fusion={"dim": 64, "front": 4, "decoder_blocks": 4, "heads": 8, "high_nodes": 3, "cell": 8},
        critic_base=32,
        stem=64,
        widths=(256, 512, 1024),
        units=(3, 4, 9),
        vit=(768, 12, 12, 3072),
        decoder_widths=(256, 128, 64, 16),
    ),
    "tiny": FuseSize(
        side=32,
        batch=2,
        fusion={"dim": 8, "front": 1, "decoder_blocks": 1, "heads": 2, "high_nodes": 1, "cell": 8},
        critic_base=4,
        stem=4,
        widths=(8, 16, 32),
        units=(1, 1, 1),
        vit=(16, 1, 2, 32),
        decoder_widths=(16, 8, 8, 4),
        dropout=0.0,
        pairs=(("t1ce", "flair"),),
    ),
}
FUSION_RULES = {"fusion": Adam(1e-4, clip_norm=1.0), "critics": Adam(1e-4, clip_norm=1.0)}


def _fuse4seg(at: str) -> Case:
    size = FUSE_SIZES[at]

    def ours(optimizers: Optimizers, dtype: str) -> System:
        width, depth, heads, hidden = size.vit
        vit = {"vit_width": width, "vit_depth": depth, "vit_heads": heads, "vit_hidden": hidden}
        form = SegmentationForm(**vit, **size.segmentation(), train_side=size.side, dtype=dtype)
        halves = {"dice_weight": 0.5, "entropy_weight": 0.5}
        loss = partial(overlap.dice_and_cross_entropy, **halves, include_background=True, squared=True, over_batch=True)
        return fuse4seg.make_system(classes=4, loss=loss, segmentation=form, **size.common(optimizers, dtype))

    def peer(rules: Mapping[str, Rule]) -> Any:
        from experiments.throughput.peers.fuse4seg import Cooperation

        segmentation = {**size.segmentation(), "side": size.side, "vit": size.vit}
        return Cooperation(rules, segmentation=segmentation, **size.peer())

    rules = {**FUSION_RULES, "segmentation": Sgd(0.01, momentum=0.9, clip_norm=1.0)}
    return Case((size.side,) * 2, size.batch, 4, 4, rules, ours, peer)


def _fuse4seg_pretraining(at: str) -> Case:
    size = FUSE_SIZES[at]

    def ours(optimizers: Optimizers, dtype: str) -> System:
        return fuse4seg.make_pretraining(**size.common(optimizers, dtype))

    def peer(rules: Mapping[str, Rule]) -> Any:
        from experiments.throughput.peers.fuse4seg import Pretraining

        return Pretraining(rules, **size.peer())

    return Case((size.side,) * 2, size.batch, 4, 4, FUSION_RULES, ours, peer)


CASES: Mapping[str, Callable[[str], Case]] = {
    "cmff": _cmff,
    "cmft": _cmft,
    "hyperdense": _hyperdense,
    "hyperfusion": _hyperfusion,
    "infinet": _infinet,
    "hinet": _hinet,
    "fuse4seg": _fuse4seg,
    "fuse4seg_pretraining": _fuse4seg_pretraining,
}
