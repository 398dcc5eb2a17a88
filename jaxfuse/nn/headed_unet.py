"""A U-Net with its output convolution as pure functions of their parameters; with deep supervision, with several."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import jax
import jax.numpy as jnp

from jaxfuse.arrays import Array, Image, Key, Params, Shown
from jaxfuse.nn.presence import Modulation
from jaxfuse.nn.unet import Head, UNet


@dataclass(frozen=True)
class Network:
    """A U-Net trunk and an output convolution, kept as two subtrees so that the trunk can be transferred alone.

    Attributes:
        modulation: scales and shifts the features of the encoder by the presence of modalities, from parameters of its
            own, "presence"; None: the network sees images alone.
    """

    trunk: UNet
    head: Head
    modulation: Modulation | None = None

    def init(self, rng: Key[Array, ""], image: Image | Shown) -> Params:
        trunk_key, head_key = jax.random.split(rng)
        seen = image.image if isinstance(image, Shown) else image
        # Lazily: no forward pass is computed, nor compiled, to draw weights.
        trunk = self.trunk.lazy_init(trunk_key, shape_of(seen))["params"]
        features = jax.eval_shape(self.trunk.apply, {"params": trunk}, seen)
        params = {"trunk": trunk, "head": self.head.lazy_init(head_key, features.last)["params"]}
        if self.modulation is None or not isinstance(image, Shown):
            return params
        presence = shape_of(image.presence)
        return {**params, "presence": self.modulation.lazy_init(jax.random.fold_in(rng, 2), presence)["params"]}

    def features(self, params: Params, image: Image | Shown) -> Any:
        """The trunk's last two feature maps, (b *space base) each."""
        return self.decoded(params, image)[0]

    def decoded(self, params: Params, image: Image | Shown) -> Any:
        """The feature maps of every level of the decoder, the finest first."""
        if self.modulation is None or not isinstance(image, Shown):
            return self.trunk.apply({"params": params["trunk"]}, image, method="decoded")
        films = self.modulation.apply({"params": params["presence"]}, image.presence)
        return self.trunk.apply({"params": params["trunk"]}, image.image, films, method="decoded")

    def read_out(self, params: Params, features: Any) -> Array:
        """The output convolution, (b *space k), in float32."""
        return self.head.apply({"params": params["head"]}, features.last).astype(jnp.float32)  # pyright: ignore

    def __call__(self, params: Params, image: Image | Shown) -> Array:
        return self.read_out(params, self.features(params, image))


@dataclass(frozen=True)
class Supervised:
    """A U-Net with an output convolution on coarser levels of its decoder, too, which training alone reads.

    Attributes:
        levels: the number of coarser levels, from the second finest on.
    """

    network: Network
    levels: int

    def init(self, rng: Key[Array, ""], image: Image | Shown) -> tuple[Params, Params]:
        own, *keys = jax.random.split(rng, 1 + self.levels)
        params = self.network.init(own, image)
        shapes = jax.eval_shape(self.network.decoded, params, shape_of(image))
        heads = {
            f"level_{number + 2}": self.network.head.lazy_init(key, features.last)["params"]
            for number, (key, features) in enumerate(zip(keys, shapes[1:], strict=False))
        }
        return {**params, "coarser": heads}, {}

    def apply(self, params: Params, stats: Params, image: Image | Shown, *, train: bool) -> tuple[Any, Params]:
        """Logits (b *space k); in training a tuple of them, the finest first."""
        if not train:
            return self.network(params, image), stats
        finest, *others = self.network.decoded(params, image)
        heads = [params["coarser"][f"level_{number + 2}"] for number in range(self.levels)]
        coarser = [self.network.read_out({"head": head}, one) for head, one in zip(heads, others, strict=False)]
        return (self.network.read_out(params, finest), *coarser), stats


def shape_of(tree: Any) -> Any:
    """Shapes and types in place of arrays."""
    return jax.tree.map(lambda x: jax.ShapeDtypeStruct(x.shape, x.dtype), tree)
