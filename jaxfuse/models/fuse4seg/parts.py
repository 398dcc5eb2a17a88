"""The contract of a segmentation network in cooperative training, and the networks that keep it or that of fusion.

Any pair of objects with these methods can be trained together: the paper's own, or others in their place.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, NamedTuple, Protocol, runtime_checkable

import flax.linen as nn
import jax
import jax.numpy as jnp

from jaxfuse.arrays import Array, Float, Key, Label, Logits, Params
from jaxfuse.learning.fusing import Fused, FusionPart, MaybeKey, Presence, Sources
from jaxfuse.losses.deep_supervision import supervised
from jaxfuse.models.fuse4seg.fusion import FusionForm
from jaxfuse.models.fuse4seg.segmentation import DIVISOR, SegmentationForm
from jaxfuse.nn.cross_attention import received_by_source

Theta = Float[Array, "b h w c"]


@runtime_checkable
class SegmentationPart(Protocol):
    """A segmentation network as pure functions, with its loss: it may have outputs of its own to supervise."""

    @property
    def divisor(self) -> int:
        """Sides of an image are multiples of it."""
        ...

    def init(self, rng: Key[Array, ""], theta: Any) -> Params: ...

    def segment(self, params: Params, theta: Theta, rng: MaybeKey) -> Logits: ...

    def loss(self, params: Params, theta: Theta, label: Label, rng: MaybeKey) -> Array: ...

    def networks(self, params: Params) -> dict[str, Params]: ...


class Parted(NamedTuple):
    """Images (b h w m) given back or fused, and the low and high band of each source (b h w c m)."""

    images: Array
    low: Array
    high: Array


@runtime_checkable
class RestoringPart(FusionPart, Protocol):
    """A fusion network that also gives its sources back, each alone."""

    def reconstruct(self, params: Params, sources: Sources) -> Parted:
        """Encodes and decodes each source; the layers that fuse have no part in it."""
        ...


@dataclass(frozen=True)
class FusionModule:
    """Fuse4Seg's fusion module; without decoder theta is the embedding.

    Attention is that of its cross-attention between tokens (see `received_by_source`), over both bands; there is none
    between channels, without cross-attention, or where more than two sources are folded one after the other.
    """

    form: FusionForm

    @property
    def divisor(self) -> int:
        return self.form.divisor

    def init(self, rng: Key[Array, ""], sources: Any) -> Params:
        return self.form.network().lazy_init(rng, sources)["params"]

    def fuse(self, params: Params, sources: Sources, presence: Presence, rng: MaybeKey) -> Fused:
        return _fused(self.form.network().apply({"params": params}, sources, presence))

    def reconstruct(self, params: Params, sources: Sources) -> Parted:
        made: Any = self.form.network().apply({"params": params}, sources, method="reconstruct")
        low, high = (jnp.stack(made[name], axis=-1) for name in ("low", "high"))
        return Parted(made["reconstruction"], low, high)

    def fuse_with_attention(self, params: Params, sources: Sources, presence: Presence) -> Fused:
        if not self.form.attends_to_places(sources.shape[-1]):
            return self.fuse(params, sources, presence, None)
        made: Any = self.form.network().apply({"params": params}, sources, presence, attention=True)
        _, height, width, _ = sources.shape
        grid = height // self.form.cell, width // self.form.cell
        attention = received_by_source(tuple(made["attn"].values()), grid, (height, width))
        return _fused(made)._replace(attention=attention.astype(jnp.float32))

    def networks(self, params: Params) -> dict[str, Params]:
        return {"fusion_layers" if name == "fusion" else name: part for name, part in params.items()}


def _fused(made: Any) -> Fused:
    """Outputs of the fusion module, without maps."""
    image = made.get("fused")
    low, high = (jnp.stack(made["bands"][name], axis=-1) for name in ("low", "high"))
    return Fused(made["embedding"] if image is None else image, image, (low, high))


@dataclass(frozen=True)
class SegmentationModule:
    """Fuse4Seg's segmentation network, trained by one loss of (logits, label)."""

    form: SegmentationForm
    classes: int
    loss_of_logits: Callable[[Logits, Label], Array]

    @property
    def divisor(self) -> int:
        return DIVISOR

    def init(self, rng: Key[Array, ""], theta: Any) -> Params:
        return self.form.network(self.classes).lazy_init(rng, theta)["params"]

    def segment(self, params: Params, theta: Theta, rng: MaybeKey) -> Logits:
        rngs = {} if rng is None else {"dropout": rng}
        return self.form.network(self.classes).apply({"params": params}, theta, rngs=rngs)  # pyright: ignore

    def loss(self, params: Params, theta: Theta, label: Label, rng: MaybeKey) -> Array:
        return self.loss_of_logits(self.segment(params, theta, rng), label)

    def networks(self, params: Params) -> dict[str, Params]:
        """Adapters apart, since they may be larger than what they adapt."""
        leaves = jax.tree_util.tree_leaves_with_path(params)
        named = {"segmentation": {}, "adapters": {}}
        for path, leaf in leaves:
            inside = any(getattr(step, "key", None) == "adapter" for step in path)
            named["adapters" if inside else "segmentation"][jax.tree_util.keystr(path)] = leaf
        return {name: part for name, part in named.items() if part}


@dataclass(frozen=True)
class DeeplySupervised:
    """A Flax network whose call gives (logits, auxiliary logits at a half, a quarter ... of the sides).

    Its loss is that of all of them, as `jaxfuse.losses.deep_supervision` tells.
    """

    network: nn.Module
    divisor: int
    loss_of_logits: Callable[[Logits, Label], Array]

    def init(self, rng: Key[Array, ""], theta: Any) -> Params:
        return self.network.lazy_init(rng, theta)["params"]

    def segment(self, params: Params, theta: Theta, rng: MaybeKey) -> Logits:
        return self._outputs(params, theta)[0]

    def loss(self, params: Params, theta: Theta, label: Label, rng: MaybeKey) -> Array:
        logits, auxiliary = self._outputs(params, theta)
        return supervised(self.loss_of_logits)((logits, *auxiliary), label)

    def networks(self, params: Params) -> dict[str, Params]:
        return {"segmentation": params}

    def _outputs(self, params: Params, theta: Theta) -> Any:
        return self.network.apply({"params": params}, theta)
