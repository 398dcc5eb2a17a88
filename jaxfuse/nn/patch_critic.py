"""A critic that scores overlapping patches instead of the whole image, in 2D and 3D.

Source: Table 1 of "Cross-Modality Deep Feature Learning for Brain Tumor Segmentation" (2021); the paper gives kernels,
strides and widths. Padding 1 everywhere and slope 0.2 are those of the public CycleGAN code.
"""

from __future__ import annotations

import flax.linen as nn
from jax.typing import DTypeLike

from jaxfuse.arrays import Array, Float
from jaxfuse.errors import UserError
from jaxfuse.nn.conv import Conv, ConvNormAct
from jaxfuse.nn.initializers import KernelInit, normal


class PatchCritic(nn.Module):
    """Image -> one unbounded score per patch; no sigmoid.

    `layers` convolutions of kernel 4 and stride 2 halve the sides and double the width, starting from `base`; all but
    the first are normalized. A last convolution of kernel 4, stride 1 gives the scores: a side of n leaves
    n // 2**layers - 1, so 128^3 leaves 7^3 with four layers.

    Raises (when traced):
        UserError: a side is shorter than 2**(layers + 1) voxels.
    """

    base: int = 16
    layers: int = 4
    slope: float = 0.2
    dtype: DTypeLike | None = None
    kernel_init: KernelInit = normal()

    @property
    def least_side(self) -> int:
        """Shortest side along which there is more than one score."""
        return 3 * 2**self.layers

    @nn.compact
    def __call__(self, image: Float[Array, "b *space m"]) -> Float[Array, "b *scores 1"]:
        shortest = 2 ** (self.layers + 1)
        if min(image.shape[1:-1]) < shortest:
            raise UserError(
                f"a patch critic of {self.layers} layers needs sides of at least {shortest} voxels, got "
                f"{image.shape[1:-1]}; use larger patches or fewer layers"
            )
        common = {"padding": 1, "dtype": self.dtype, "kernel_init": self.kernel_init}
        x = nn.leaky_relu(Conv(self.base, 4, 2, **common, name="down_1")(image), self.slope)
        for layer in range(2, self.layers + 1):
            width = self.base * 2 ** (layer - 1)
            x = ConvNormAct(width, 4, 2, slope=self.slope, **common, name=f"down_{layer}")(x)
        return Conv(1, 4, 1, **common, name="score")(x)
