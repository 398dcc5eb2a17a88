"""The two networks: three convolutions that fuse, and a U-Net of one level that segments; both smooth everywhere."""

from __future__ import annotations

from dataclasses import dataclass
from functools import partial
from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp

from jaxfuse.learning.fusing import Fused
from jaxfuse.losses.overlap import dice_and_cross_entropy
from jaxfuse.nn.conv import Conv

WIDTH, CLASSES = 8, 3
_INIT = nn.initializers.he_normal()
# Eq. 14 of Fuse4Seg, as in its recipe.
LOSS = partial(
    dice_and_cross_entropy, dice_weight=0.5, entropy_weight=0.5, include_background=True, squared=True, over_batch=True
)


class FusionNet(nn.Module):
    """Two sources (b h w 2) to one image (b h w c) in [0, 1]: gray, of red and cyan, or of red, green and blue."""

    channels: int = 1

    @nn.compact
    def __call__(self, sources: Any) -> Any:
        x = sources
        for _ in range(2):
            x = nn.silu(Conv(WIDTH, 3, kernel_init=_INIT)(x))
        return nn.sigmoid(Conv(self.channels, 3, kernel_init=_INIT)(x))


class SegmentationNet(nn.Module):
    """An image of any channels to logits (b h w 3)."""

    @nn.compact
    def __call__(self, theta: Any) -> Any:
        def twice(x: Any, width: int) -> Any:
            for _ in range(2):
                x = nn.silu(nn.GroupNorm(num_groups=4)(Conv(width, 3, kernel_init=_INIT)(x)))
            return x

        fine = twice(theta, WIDTH)
        coarse = twice(nn.avg_pool(fine, (2, 2), (2, 2)), 2 * WIDTH)
        coarse = jnp.repeat(jnp.repeat(coarse, 2, axis=1), 2, axis=2)
        return Conv(CLASSES, 1, kernel_init=_INIT)(twice(jnp.concatenate([fine, coarse], axis=-1), WIDTH))


@dataclass(frozen=True)
class Fusing:
    """The fusion network as a part of cooperative training; it has no bands."""

    channels: int = 1
    divisor: int = 1

    def init(self, rng: jax.Array, sources: Any) -> Any:
        return FusionNet(self.channels).lazy_init(rng, sources)["params"]

    def fuse(self, params: Any, sources: Any, presence: Any, rng: Any) -> Fused:
        del presence, rng
        image: Any = FusionNet(self.channels).apply({"params": params}, sources)
        return Fused(image, image, None)

    def networks(self, params: Any) -> dict[str, Any]:
        return {"fusion": params}


@dataclass(frozen=True)
class Segmenting:
    """The segmentation network as a part of cooperative training."""

    divisor: int = 2

    def init(self, rng: jax.Array, theta: Any) -> Any:
        return SegmentationNet().lazy_init(rng, theta)["params"]

    def segment(self, params: Any, theta: Any, rng: Any) -> Any:
        del rng
        return SegmentationNet().apply({"params": params}, theta)

    def loss(self, params: Any, theta: Any, label: Any, rng: Any) -> Any:
        return LOSS(self.segment(params, theta, rng), label)

    def networks(self, params: Any) -> dict[str, Any]:
        return {"segmentation": params}
