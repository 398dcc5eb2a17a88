"""Networks that fuse two images: as parts of a System, more than two one after the other, and their own System.

The roles of the two are their places in the data: the first is the visible image, whose details count, such as MRI;
the second the infrared one, whose bright targets count, such as CT, PET or SPECT.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, ClassVar

import flax.linen as nn
import jax
import jax.numpy as jnp

from jaxfuse.arrays import Array, Float, Key, Params
from jaxfuse.errors import UserError
from jaxfuse.learning.combinations import Choice, combinations
from jaxfuse.learning.fusing import RUNNING, Fused, Fusion, FusionCritics, FusionPart, Lesson, Made, fusion_system
from jaxfuse.learning.state import Optimizers

Gray = Float[Array, "b h w 1"]
Pair = Float[Array, "b h w 2"]
Sources = Float[Array, "b h w m"]
Presence = Float[Array, "b m"]


@dataclass(frozen=True)
class TwoSources:
    """A Flax module `(pair (b h w 2), *, train) -> image (b h w 1)` as a fusion network.

    Three and four images are fused one after the other, F(F(a, b), c), and one alone is left as it is. What is beyond
    [0, 1] in a fused image is cut.

    Attributes:
        name: of all of its parameters in `networks`; "": each of their entries has a name of its own.
        divisor: sides of an image are multiples of it.
    """

    module: nn.Module
    name: str = ""
    divisor: int = 1

    def init(self, rng: Key[Array, ""], sources: Any) -> Params:
        pair = jax.ShapeDtypeStruct((*sources.shape[:-1], 2), sources.dtype)
        variables = self.module.lazy_init(rng, pair, train=False)
        return {**variables["params"], **({RUNNING: own} if (own := variables.get("batch_stats")) else {})}

    def pass_through(self, params: Params, images: Any, *, train: bool, method: str = "__call__") -> Made:
        """The output of a method of the module; in training with the running statistics after it."""
        weights = {name: part for name, part in params.items() if name != RUNNING}
        variables = {"params": weights, "batch_stats": params.get(RUNNING, {})}
        if not (train and RUNNING in params):
            return Made(self.module.apply(variables, images, train=train, method=method), params.get(RUNNING, {}))
        values, changed = self.module.apply(variables, images, train=True, method=method, mutable=["batch_stats"])
        return Made(values, changed["batch_stats"])

    def fuse(self, params: Params, sources: Sources, presence: Presence, rng: Key[Array, ""] | None) -> Fused:
        del rng
        image = folded(lambda pair: self.pass_through(params, pair, train=False).values, sources, presence)
        image = jnp.clip(image, 0, 1)
        return Fused(image, image, None)

    def networks(self, params: Params) -> dict[str, Params]:
        return {self.name: params} if self.name else dict(params)


@dataclass(frozen=True)
class TwoCritics:
    """Two critics of one form; parameters are {name of a critic: its parameters}, both move in every step."""

    critic: nn.Module

    sides: ClassVar[tuple[str, str]]

    def init(self, rng: Key[Array, ""], image: Any) -> Params:
        shape = jax.ShapeDtypeStruct((*image.shape[:-1], 1), jnp.float32)
        keys = jax.random.split(rng, len(self.sides))
        return {side: self.critic.lazy_init(key, shape)["params"] for side, key in zip(self.sides, keys, strict=True)}

    def moves(self, choice: Choice) -> Mapping[str, Array] | None:
        del choice
        return None

    def networks(self, params: Params) -> dict[str, Params]:
        return {f"D_{side}": params[side] for side in self.sides}


def folded(two: Callable[[Pair], Gray], sources: Sources, presence: Presence) -> Gray:
    """Fuses the sources that are present, in their order, the result of some with the next: `two` fuses a pair."""
    shown = jnp.where(presence[:, None, None] > 0, sources, 0)
    carry, carried = shown[..., :1], presence[:, 0]
    for slot in range(1, sources.shape[-1]):
        source, given = shown[..., slot : slot + 1], presence[:, slot]
        made = two(jnp.concatenate([carry, source], axis=-1))
        carry = _where(carried * given, made, _where(given, source, carry))
        carried = jnp.maximum(carried, given)
    return carry


def _where(condition: Float[Array, b], chosen: Gray, otherwise: Gray) -> Gray:
    return jnp.where(condition[:, None, None, None] > 0, chosen, otherwise)


def two_source_system(
    network: FusionPart,
    lesson: Lesson,
    critics: FusionCritics | None = None,
    *,
    optimizers: Optimizers,
    modalities: Sequence[str],
    combos: str | Sequence[str] = "pairs",
    pairs: Sequence[str] = (),
) -> Fusion:
    """The System of a network for two sources, which it tells apart by their places in the data.

    Raises:
        UserError: a combination has more than two modalities, or they are not in the order of the data.
    """
    for members in combinations(combos, modalities).members:
        if list(members) != sorted(members):
            asked, known = "+".join(modalities[member] for member in members), ", ".join(modalities)
            raise UserError(
                f"combination {asked!r} is not in the order of data.modalities ({known}), by which this network tells "
                "its two sources apart; turn one of them around"
            )
    return fusion_system(
        network, lesson, critics, optimizers=optimizers, modalities=modalities, combos=combos, pairs=pairs, most=2
    )
