"""The mean and the maximum of images: fusion by which every network is measured, and which learns nothing."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import jax.numpy as jnp

from jaxfuse.arrays import Array, Key, Metrics, Params
from jaxfuse.errors import UserError
from jaxfuse.learning.fusing import Fused, Fusion, Made, MaybeKey, Presence, Seen, Sources, fusion_system
from jaxfuse.learning.state import Optimizers
from jaxfuse.losses.fusion import fusion_content


def _mean(sources: Sources, presence: Presence) -> Array:
    shown = presence[:, None, None, :]
    return jnp.where(shown > 0, sources, 0).sum(-1, keepdims=True) / jnp.maximum(shown.sum(-1, keepdims=True), 1)


def _maximum(sources: Sources, presence: Presence) -> Array:
    # Images are not negative.
    return jnp.where(presence[:, None, None, :] > 0, sources, 0).max(-1, keepdims=True)


FUSIONS: Mapping[str, Callable[[Sources, Presence], Array]] = {"mean": _mean, "maximum": _maximum}


@dataclass(frozen=True)
class Pointwise:
    """A rule of FUSIONS as a network without weights."""

    rule: Callable[[Sources, Presence], Array]
    divisor: int = 1

    def init(self, rng: Key[Array, ""], sources: Any) -> Params:
        del rng, sources
        return {}

    def fuse(self, params: Params, sources: Sources, presence: Presence, rng: MaybeKey) -> Fused:
        del params, rng
        image = self.rule(sources.astype(jnp.float32), presence)
        return Fused(image, image, None)

    def networks(self, params: Params) -> dict[str, Params]:
        return dict(params)


@dataclass(frozen=True)
class Watching:
    """A lesson of which nothing comes: it tells how far the image is from the maxima of levels and gradients."""

    network: Pointwise

    def make(self, params: Params, seen: Seen) -> Made:
        return Made(self.network.fuse(params, seen.sources, seen.presence, seen.key).image)

    def loss(self, made: Array, critics: Params | None, seen: Seen) -> tuple[Array, Metrics]:
        del critics
        return fusion_content(made, seen.sources, seen.presence)

    def fakes(self, made: Array, seen: Seen) -> None:
        del made, seen


def make_system(
    *,
    optimizers: Optimizers,
    modalities: Sequence[str],
    combos: str | Sequence[str] = "pairs",
    pairs: Sequence[str] = (),
    rule: str = "maximum",
) -> Fusion:
    """`rule` is a name of FUSIONS; the first of `pairs` is evaluated, or all modalities together."""
    if rule not in FUSIONS:
        raise UserError(f"rule is {rule!r}; choose one of {', '.join(FUSIONS)}")
    network = Pointwise(FUSIONS[rule])
    return fusion_system(
        network, Watching(network), optimizers=optimizers, modalities=modalities, combos=combos, pairs=pairs
    )
