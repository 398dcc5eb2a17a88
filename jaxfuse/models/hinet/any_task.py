"""Tasks of Hi-Net from any sources to any target in one step: of each example some sources and one target."""

from __future__ import annotations

import itertools
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp

from jaxfuse.arrays import Array, Batch, Bool, Float, Key, channels_of, presence_of, shown
from jaxfuse.augment.dropout import Dropout
from jaxfuse.errors import UserError
from jaxfuse.learning.synthesis_task import to_signed

# A table of all subsets of more would be too long to draw from.
MOST_SOURCES = 8


class Ask(NamedTuple):
    """One image that is asked of each example: the sources that it is made of, and which of the targets it is."""

    sources: Bool[Array, "b s"]
    target: Bool[Array, "b t"]


@dataclass(frozen=True)
class AnyTask:
    """Modalities that may be sources and those that are made, by name and by their channels in a batch's image."""

    sources: tuple[str, ...]
    source_channels: tuple[int, ...]
    targets: tuple[str, ...]
    target_channels: tuple[int, ...]

    def sources_of(self, inputs: Batch | Mapping[str, Any]) -> Float[Array, "b h w s"]:
        """The sources, in [-1, 1]; one that an example lacks is -1 like the background."""
        return to_signed(channels_of(shown(inputs), self.source_channels))

    def targets_of(self, batch: Batch | Mapping[str, Any]) -> Float[Array, "b h w t"]:
        """The targets, in [-1, 1]."""
        return to_signed(channels_of(shown(batch), self.target_channels))

    def own(self, inputs: Batch | Mapping[str, Any]) -> Ask:
        """The sources and the targets that each example has."""
        presence = presence_of(inputs)
        if presence is None:
            presence = jnp.ones((inputs["image"].shape[0], inputs["image"].shape[-1]), bool)
        return Ask(channels_of(presence, self.source_channels), channels_of(presence, self.target_channels))

    def asked(self, own: Ask, target: str) -> Ask:
        """Asks for one target of all examples, made of all the sources that they have but itself."""
        place = self.targets.index(target)
        one = jnp.arange(len(self.targets)) == place
        others = own.sources & ~jnp.array(self._same[place])[None]
        return Ask(others, jnp.broadcast_to(one[None], own.target.shape))

    def draw(self, key: Key[Array, ""], own: Ask) -> Ask:
        """Draws sources and a target for each example, by the key and the example's number in the batch.

        The target is drawn evenly among those that the example has and that another of its modalities may be a source
        of; then its sources evenly among all subsets of the others that are not empty. An example of which nothing can
        be made has no target, and shows a subset of what it has.
        """
        keys = jax.vmap(jax.random.fold_in, in_axes=(None, 0))(key, jnp.arange(own.sources.shape[0]))
        return jax.vmap(self._drawn)(keys, own)

    def _drawn(self, key: Key[Array, ""], own: Ask) -> Ask:
        which, subset = jax.random.split(key)
        same = jnp.array(self._same)
        possible = own.target & (own.sources[None] & ~same).any(axis=1)
        chosen = jax.random.categorical(which, jnp.where(possible, 0.0, -jnp.inf))
        target = possible & (jnp.arange(len(self.targets)) == chosen)
        left = own.sources & ~(same & target[:, None]).any(axis=0)
        return Ask(self._dropout(subset, left), target)

    @property
    def _same(self) -> tuple[tuple[bool, ...], ...]:
        """Marks of each target the source that is the same modality."""
        return tuple(tuple(source == target for source in self.sources) for target in self.targets)

    @property
    def _dropout(self) -> Dropout:
        every = itertools.product((False, True), repeat=len(self.sources))
        subsets = tuple(subset for subset in every if any(subset))
        return Dropout(subsets, (1.0,) * len(subsets))


def any_task_of(pairs: Sequence[str], modalities: Sequence[str]) -> AnyTask:
    """Reads pairs such as ("t1+t1ce+t2+flair", "t1+flair"), sources and targets, against the channels of the data.

    Raises:
        UserError: there are fewer than two sources, a name is unknown or stands twice.
    """
    groups = [pair.split("+") for pair in pairs]
    if len(groups) != 2 or not 2 <= len(groups[0]) <= MOST_SOURCES or any(len({*one}) < len(one) for one in groups):
        raise UserError(
            f"pairs is {tuple(pairs)}; it must name the two to {MOST_SOURCES} modalities that may be sources and those "
            "that are made of them, such as ('t1+t2+flair', 't1+t2+flair')"
        )
    sources, targets = groups
    if absent := [name for name in (*sources, *targets) if name not in modalities]:
        raise UserError(f"pairs names {', '.join(absent)}, but the data has {', '.join(modalities)}")
    places = list(modalities).index
    return AnyTask(tuple(sources), tuple(map(places, sources)), tuple(targets), tuple(map(places, targets)))
