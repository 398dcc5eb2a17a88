"""The critic that pix2pix and CycleGAN share: it scores overlapping squares of an image, of 70x70 pixels by default.

Source: "Image-to-Image Translation with Conditional Adversarial Networks" (Isola et al., 2017), as its public code has
it. Unlike `jaxfuse.nn.patch_critic` its last layer before the scores keeps the size of its map.
"""

from __future__ import annotations

from collections.abc import Callable

import flax.linen as nn
from jax.typing import DTypeLike

from jaxfuse.arrays import Array, Float
from jaxfuse.errors import UserError
from jaxfuse.nn.conv import Conv
from jaxfuse.nn.initializers import KernelInit, normal

# (name, train) -> what normalizes a map; made inside the critic, so that it may be a module.
Norm = Callable[[str, bool], Callable[[Array], Array]]


class PatchGan(nn.Module):
    """Image -> one unbounded score per square, float32; a side of n leaves n // 2**layers - 2 scores.

    `layers` convolutions of kernel 4 halve the sides and another keeps them but for a pixel; they have `width`, twice,
    four times and at most eight times as many channels, and LeakyReLU of slope 0.2. All but the first are normalized.
    Those and no others lack a bias, unless `use_bias` says so for them too.

    Raises (when traced):
        UserError: a side is shorter than 3 * 2**layers pixels.
    """

    norm: Norm
    use_bias: bool
    width: int = 64
    layers: int = 3
    kernel_init: KernelInit = normal()
    dtype: DTypeLike | None = None

    @property
    def least_side(self) -> int:
        """Shortest side along which there is more than one score."""
        return 4 * 2**self.layers

    @nn.compact
    def __call__(self, image: Float[Array, "b h w m"], *, train: bool = False) -> Float[Array, "b scores_h scores_w 1"]:
        shortest = 3 * 2**self.layers
        if min(image.shape[1:3]) < shortest:
            raise UserError(
                f"a critic that halves its image {self.layers} times needs sides of at least {shortest} pixels, got "
                f"{image.shape[1:3]}; use larger patches or fewer critic_layers"
            )
        common = {"padding": 1, "kernel_init": self.kernel_init}
        x = image
        for layer in range(self.layers + 1):
            conv = Conv(
                self.width * min(2**layer, 8),
                4,
                2 if layer < self.layers else 1,
                use_bias=self.use_bias or layer == 0,
                dtype=self.dtype,
                **common,
                name=f"conv_{layer + 1}",
            )
            x = conv(x)
            x = self.norm(f"norm_{layer + 1}", train)(x) if layer else x
            x = nn.leaky_relu(x, 0.2)
        # In float32 even on bfloat16 features, so that losses start from full precision.
        return Conv(1, 4, **common, name="score")(x)
