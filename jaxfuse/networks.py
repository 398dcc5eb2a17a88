"""The networks of all papers, and of baselines, as plain functions and Flax modules: no recipe, no loss, no training.

Most are Flax modules, `init(key, *inputs) -> variables` and `apply(variables, *inputs) -> outputs`; CMFT and CMFF,
which share parts, are two functions of these names. Sizes that are not given are those of the papers.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from typing import Any

import flax.linen as nn

from jaxfuse.learning.networks import Functions
from jaxfuse.models.baselines.mmformer import MmFormer, MmFormerForm
from jaxfuse.models.baselines.pix2pix import Generator, Pix2PixForm
from jaxfuse.models.baselines.uhved import UHVED, UHVEDForm
from jaxfuse.models.cmff import FusionForm
from jaxfuse.models.cmft import UNetForm
from jaxfuse.models.fuse4seg.fusion import FusionForm as PictureFusionForm
from jaxfuse.models.fuse4seg.fusion import FusionNet
from jaxfuse.models.fuse4seg.segmentation import SegmentationForm, SegNet
from jaxfuse.models.hinet.form import HiNetForm
from jaxfuse.models.hinet.networks import GENERATORS
from jaxfuse.models.hyperfusion.make import HyperForm
from jaxfuse.models.hyperfusion.network import HyperDense
from jaxfuse.models.infinet import InfiNet, InfiNetForm

_PAPER = UNetForm()


def cmff(classes: int, *, unet: UNetForm = _PAPER, **form: Any) -> Functions:
    """CMFF, of which two U-Nets read a group of modalities each and a third network fuses what they find.

        net = networks.cmff(4, unet=UNetForm(base=8, levels=4), fusion_width=16)
        params = net.init(jax.random.key(0), t1_and_t1ce, t2_and_flair)
        logits = net.apply(params, t1_and_t1ce, t2_and_flair)["S_F"]

    Args:
        unet: of `jaxfuse.models.cmft`.
        form: fields of `jaxfuse.models.cmff.FusionForm`.

    Returns:
        Functions of both groups, (b d h w m) each, with sides that are multiples of 2**(levels - 1). `apply` gives the
        logits "S_A", "S_B" and "S_F", (b d h w classes) each.
    """
    fusion = FusionForm(**form).fusion(classes, unet)
    return Functions(fusion.init, fusion)


def cmft(outputs: int, **form: Any) -> Functions:
    """A generator of CMFT: the U-Net that CMFF takes over.

        net = networks.cmft(2, base=8, levels=4)
        params = net.init(jax.random.key(0), image)
        made = net.apply(params, image)

    Args:
        outputs: channels that it makes: modalities, or of a segmentation classes.
        form: fields of `jaxfuse.models.cmft.UNetForm`.

    Returns:
        Functions of images (b h w m) or (b d h w m) with sides that are multiples of 2**(levels - 1). `apply` gives
        (b *space outputs), without an activation.
    """
    unet = UNetForm(**form).network(outputs)
    return Functions(unet.init, unet)


def infinet(modalities: Sequence[str], classes: int, **form: Any) -> InfiNet:
    """InfiNet, an arm for each modality; it has running statistics.

        net = networks.infinet(("t1", "t2"), 4, width=16)
        variables = net.init(jax.random.key(0), slices)
        logits = net.apply(variables, slices)
        logits, changed = net.apply(variables, slices, train=True, mutable=["batch_stats"])

    Args:
        form: fields of `jaxfuse.models.infinet.InfiNetForm`.

    Returns:
        A module of slices (b h w m) with sides that are multiples of 2**blocks -> logits (b h w classes).
    """
    return InfiNetForm(**form).network(modalities, classes)


def hyperfusion(modalities: int, classes: int, **form: Any) -> HyperDense:
    """HyperFusionNet, a stream for each modality; it has running statistics.

        net = networks.hyperfusion(2, 4, width=8, head=(40, 20))
        variables = net.init(jax.random.key(0), image, train=False)
        logits = net.apply(variables, image, train=False)

    Args:
        modalities: their number.
        form: fields of `jaxfuse.models.hyperfusion.make.HyperForm`.

    Returns:
        A module of images (b d h w m) with sides from 19 on, or (b h w m) with `ndim=2`, -> logits of the inner part,
        9 voxels less at each end: 27 -> 9.
    """
    return HyperForm(**form).module(modalities, classes)


def hyperdense(modalities: int, classes: int, **form: Any) -> HyperDense:
    """HyperDense-Net, the baseline of HyperFusionNet; else as `hyperfusion`."""
    dense = HyperForm(filters="stepped", resfuse=False, head=(400, 200, 150))
    return replace(dense, **form).module(modalities, classes)


def hinet(sources: Sequence[str], **form: Any) -> nn.Module:
    """The generator of Hi-Net; it has running statistics.

        net = networks.hinet(("t1", "t2"), width=8)
        variables = net.init(jax.random.key(0), slices)
        target = net.apply(variables, slices)[..., 0]

    Args:
        form: fields of `jaxfuse.models.hinet.form.HiNetForm`.

    Returns:
        A module of slices (b h w s), a channel for each source in [-1, 1], with sides that are multiples of 8 -> images
        (b h w 1 + s) in (-1, 1): the target, then each source made again; of kind "early" the target alone.
    """
    made = HiNetForm(**form)
    made.check()
    return GENERATORS[made.kind](made, tuple(sources))


def fuse4seg(**form: Any) -> FusionNet:
    """The fusion network of Fuse4Seg.

        net = networks.fuse4seg(dim=16, front=1, decoder_blocks=1)
        variables = net.init(jax.random.key(0), pictures)
        fused = net.apply(variables, pictures)["fused"]

    Args:
        form: fields of `jaxfuse.models.fuse4seg.fusion.FusionForm`.

    Returns:
        A module of pictures (b h w m) in [0, 1], m from 2 to 4 modalities, with sides that are multiples of `cell`, and
        if need be of their presence (b m) -> "fused" (b h w 1), and what it is made of (`FusionNet.fuse`).
    """
    return PictureFusionForm(**form).network()


def fuse4seg_segmentation(classes: int, **form: Any) -> SegNet:
    """The segmentation network of Fuse4Seg: convolutions, a transformer with adapters, and a decoder.

        net = networks.fuse4seg_segmentation(4, units=(1, 1, 1), vit_depth=1, train_side=64)
        logits = net.apply(net.init(jax.random.key(0), pictures), pictures)

    Args:
        form: fields of `jaxfuse.models.fuse4seg.segmentation.SegmentationForm`.

    Returns:
        A module of images (b h w m) with sides that are multiples of 16, from 32 on -> logits (b h w classes).
    """
    return SegmentationForm(**form).network(classes)


def mmformer(classes: int, **form: Any) -> MmFormer:
    """mmFormer, which is told which modalities are there.

        net = networks.mmformer(4, base=4, levels=3, width=16, hidden=32, heads=2, grid=(4, 4, 4))
        shown = jaxfuse.arrays.Shown(image, presence)
        logits = net.apply(net.init(jax.random.key(0), shown, train=False), shown, train=False)

    Args:
        form: fields of `jaxfuse.models.baselines.mmformer.MmFormerForm`.

    Returns:
        A module of an image (b d h w m) and the presence (b m) of its modalities, with sides that are multiples of
        2**(levels - 1) and at least twice that -> logits (b d h w classes).
    """
    made = MmFormerForm(**form)
    made.check()
    return MmFormer(made, classes)


def uhved(classes: int, **form: Any) -> UHVED:
    """U-HVED, which is told which modalities are there; its input and output are those of `mmformer`.

        net = networks.uhved(4, base=4, levels=3)

    Args:
        form: fields of `jaxfuse.models.baselines.uhved.UHVEDForm`.
    """
    made = UHVEDForm(**form)
    made.check()
    return UHVED(made, classes)


def pix2pix(**form: Any) -> Generator:
    """The generator of pix2pix; it has running statistics.

        net = networks.pix2pix(width=8, downs=4)
        target = net.apply(net.init(jax.random.key(0), source), source)

    Args:
        form: fields of `jaxfuse.models.baselines.pix2pix.Pix2PixForm`.

    Returns:
        A module of slices (b h w 1) in [-1, 1] with sides that are multiples of 2**downs -> (b h w 1) in (-1, 1).
    """
    made = Pix2PixForm(**form)
    made.check()
    return Generator(made)
