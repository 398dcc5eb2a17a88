"""A critic that tells whether an image looks like a source of one modality: that of TarDAL, and of Fuse4Seg.

The layers are those of the public code of TarDAL (Liu et al., 2022). Fuse4Seg (2024), whose adversarial losses follow
it, names a critic per modality without its layers. The default head departs from that code: it scores patches, so that
any image size works and many small decisions replace one. There is no normalization and no sigmoid. Weights are drawn
by the fan-in: without norms, N(0, 0.02^2) sends its maker next to nothing.
"""

from __future__ import annotations

import flax.linen as nn
import jax.numpy as jnp
from jax.typing import DTypeLike

from jaxfuse.arrays import Array, Float
from jaxfuse.errors import UserError
from jaxfuse.nn.conv import Conv
from jaxfuse.nn.initializers import KernelInit, fan_in_uniform

HEADS = ("patch", "flatten")


class SourceCritic(nn.Module):
    """Three 3x3 convolutions of stride 2 with LeakyReLU, then logits in float32.

    Attributes:
        base: channels of the first convolution; the next two have twice and four times as many.
        head: "patch" gives one logit per eighth of a side (rounded up), (b h/8 w/8 1), to be averaged by the loss;
            "flatten" one logit per image, (b 1), whose weights fix the image size.

    Raises (when traced):
        UserError: a side is shorter than 8 pixels, or the head is unknown.
    """

    base: int = 32
    head: str = "patch"
    slope: float = 0.2
    kernel_init: KernelInit = fan_in_uniform()
    dtype: DTypeLike | None = None

    @nn.compact
    def __call__(self, image: Float[Array, "b h w m"]) -> Float[Array, "b *scores 1"]:
        if self.head not in HEADS:
            raise UserError(f"critic head {self.head!r} is not known; choose one of {', '.join(HEADS)}")
        if min(image.shape[1:3]) < 8:
            raise UserError(f"a critic halves its image three times, got {image.shape[1:3]} pixels; use at least 8 x 8")
        common = {"kernel_init": self.kernel_init, "dtype": self.dtype}
        x = image
        for layer in range(3):
            x = Conv(self.base * 2**layer, 3, 2, **common, name=f"down_{layer + 1}")(x)
            x = nn.leaky_relu(x, self.slope)
        if self.head == "flatten":
            x = x.reshape(x.shape[0], 1, 1, -1)
        logits = Conv(1, 1, **common, name="score")(x)
        logits = logits.astype(jnp.promote_types(logits.dtype, jnp.float32))
        return logits[:, 0, 0] if self.head == "flatten" else logits
