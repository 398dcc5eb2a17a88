"""The 2D U-Net of the row "voc": pre-trained on PASCAL VOC, then inflated to 3D (Carreira and Zisserman, I3D, 2017).

The same U-Net as in `jaxfuse.models.cmft` with 2D kernels, three color channels and 21 classes; pixels labeled
255 are not counted.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import jax
import jax.numpy as jnp

from jaxfuse.arrays import Array, Params
from jaxfuse.errors import UserError
from jaxfuse.learning.state import Optimizers
from jaxfuse.learning.system import Segmentation, SegmentationLoss
from jaxfuse.losses.deep_supervision import supervised
from jaxfuse.models.cmft import UNetForm


def make_system(
    *,
    optimizers: Optimizers,
    modalities: Sequence[str],
    classes: int,
    loss: SegmentationLoss,
    unet: UNetForm = UNetForm(),
    deep_supervision: int = 0,
) -> Segmentation:
    """A 2D U-Net that labels every pixel; `modalities` are its input channels.

    With `deep_supervision`, its loss counts so many coarser levels of the decoder, too.
    """
    channels = tuple(range(len(modalities)))
    network = unet.segmenter(classes, deep_supervision)
    learned = supervised(loss) if deep_supervision else loss
    told = {"name": "segmentation", "tells_presence": unet.conditioned}
    return Segmentation(network, channels, learned, optimizers, unet.geometry(2), **told)


def inflate(donor: Params, target: Params) -> Params:
    """2D kernels as 3D ones that answer a stack of equal slices as the 2D kernel answers one slice.

    A (k, k, i, o) kernel becomes (k, k, k, i, o): repeated k times along the new first axis and divided by k.
    Where the target has another number of inputs (the first convolution), the mean over the donor's inputs is
    copied to each, times donor inputs / target inputs. Other leaves must already agree.
    """

    def one(source: Array, want: Any) -> Array:
        if source.ndim != 4 or want.ndim != 5:
            return source
        if source.shape[-1] != want.shape[-1] or source.shape[0] != want.shape[0]:
            raise UserError(f"cannot inflate a kernel of shape {source.shape} to {want.shape}")
        if source.shape[2] != want.shape[3]:
            ratio = source.shape[2] / want.shape[3]
            source = jnp.repeat(source.mean(axis=2, keepdims=True), want.shape[3], axis=2) * ratio
        depth = want.shape[0]
        return jnp.repeat(source[None], depth, axis=0) / depth

    return jax.tree.map(one, donor, target)
