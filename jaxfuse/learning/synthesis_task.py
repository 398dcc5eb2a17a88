"""The task of synthesis: modalities that are sources, the one that is synthesized, and the range of intensities."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple

from jaxfuse.arrays import Array, Batch, Float, channels_of
from jaxfuse.errors import UserError


@dataclass(frozen=True)
class Task:
    """Names of the sources, their channels in a batch's image, and the channel of the target."""

    sources: tuple[str, ...]
    channels: tuple[int, ...]
    target: int

    def sources_of(self, inputs: Batch | Mapping[str, Any]) -> Float[Array, "b h w s"]:
        """The sources, in [-1, 1]; the background, 0 in the data, is -1."""
        return to_signed(channels_of(inputs["image"], self.channels))

    def target_of(self, batch: Batch | Mapping[str, Any]) -> Float[Array, "b h w 1"]:
        """The target, in [-1, 1]."""
        return to_signed(batch["image"][..., self.target : self.target + 1])


def to_signed(image: Float[Array, "*shape"]) -> Float[Array, "*shape"]:
    """From [0, 1] to [-1, 1]."""
    return 2.0 * image - 1.0


def from_signed(image: Float[Array, "*shape"]) -> Float[Array, "*shape"]:
    """From [-1, 1] to [0, 1]."""
    return 0.5 * (image + 1.0)


class SourceCount(NamedTuple):
    """The number of sources that a model takes, at least and at most (None: any), in words and by example."""

    least: int
    most: int | None
    words: str
    example: str


ONE = SourceCount(1, 1, "one source", "t1")
TWO_OR_THREE = SourceCount(2, 3, "two or three sources", "t1+t2")
ONE_OR_MORE = SourceCount(1, None, "one or more sources", "t1+t2")


def task_of(pairs: Sequence[str], modalities: Sequence[str], count: SourceCount = TWO_OR_THREE) -> Task:
    """Reads pairs such as ("t1+t2", "flair"), sources and target, against the channel order of the data.

    Raises:
        UserError: they are not so many different sources and one other modality, all of the data.
    """
    sources = pairs[0].split("+") if len(pairs) == 2 else []
    many = count.least <= len(sources) <= (count.most or len(sources))
    if not many or "+" in pairs[1] or len({*sources, pairs[1]}) != len(sources) + 1:
        raise UserError(
            f"pairs is {tuple(pairs)}; it must name {count.words} and one other modality as the target, such as "
            f"('{count.example}', 'flair')"
        )
    if absent := [name for name in (*sources, pairs[1]) if name not in modalities]:
        raise UserError(f"pairs names {', '.join(absent)}, but the data has {', '.join(modalities)}")
    places = [list(modalities).index(name) for name in (*sources, pairs[1])]
    return Task(tuple(sources), tuple(places[:-1]), places[-1])
