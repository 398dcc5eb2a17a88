"""Combinations of modalities that are fused: one combination for all of its examples, drawn anew in every step.

All combinations have the slots of the largest, so that one compiled step serves them all; slots that a smaller one
leaves over are masked by `presence`.
"""

from __future__ import annotations

import itertools
from collections.abc import Sequence
from dataclasses import dataclass
from typing import NamedTuple

import jax
import jax.numpy as jnp

from jaxfuse.arrays import Array, Bool, Float, Image, Int, Key
from jaxfuse.errors import UserError

FEWEST, MOST = 2, 4


class Choice(NamedTuple):
    """One combination: the modality of each slot, and 1 where the slot is used."""

    modality: Int[Array, " slots"]
    used: Float[Array, " slots"]

    def of(self, image: Image) -> tuple[Float[Array, "b h w slots"], Float[Array, "b slots"]]:
        """The chosen channels of (b h w m), zero in slots that are left over, and their presence by example."""
        sources = jnp.where(self.used[None, None, None] > 0, jnp.take(image, self.modality, axis=-1), 0.0)
        return sources, jnp.broadcast_to(self.used, (image.shape[0], len(self.used)))

    def shows(self, modalities: int) -> Bool[Array, " m"]:
        """Whether each of so many modalities stands in a slot that is used."""
        standing = self.modality[:, None] == jnp.arange(modalities)[None]
        return (standing & (self.used[:, None] > 0)).any(0)


@dataclass(frozen=True)
class Combinations:
    """The combinations that are trained, as indices of modalities.

    Attributes:
        modalities: names of the image's channels.
        members: each combination in the order of its slots.
    """

    modalities: tuple[str, ...]
    members: tuple[tuple[int, ...], ...]

    @property
    def slots(self) -> int:
        return max(map(len, self.members))

    @property
    def named(self) -> tuple[tuple[str, ...], ...]:
        """The names of the modalities of each."""
        return tuple(tuple(self.modalities[member] for member in members) for members in self.members)

    def draw(self, key: Key[Array, ""]) -> Choice:
        """One of them, all with the same probability."""
        if len(self.members) == 1:
            return self.choice(0)
        modality, used = self._tables()
        number = jax.random.randint(key, (), 0, len(self.members))
        return Choice(modality[number], used[number])

    def choice(self, number: int) -> Choice:
        """The combination of this number."""
        modality, used = self._tables()
        return Choice(modality[number], used[number])

    def _tables(self) -> tuple[Int[Array, "n slots"], Float[Array, "n slots"]]:
        # What stands in a slot that is left over is of no account: the first modality.
        rows = [(*member, *[0] * (self.slots - len(member))) for member in self.members]
        used = [[1.0] * len(member) + [0.0] * (self.slots - len(member)) for member in self.members]
        return jnp.array(rows, jnp.int32), jnp.array(used, jnp.float32)


def combinations(asked: str | Sequence[str], modalities: Sequence[str]) -> Combinations:
    """Reads "pairs", "all" (pairs, triples and quadruples) or names such as ("t1+t2", "t1+t1ce+flair").

    ("pairs",) and ("all",) are read alike, as a recipe's option is a tuple.

    Raises:
        UserError: there are not 2 to 4 modalities in each, or a name is unknown or stands twice.
    """
    names = tuple(modalities)
    asked = asked[0] if tuple(asked) in (("pairs",), ("all",)) else asked
    if asked in ("pairs", "all"):
        if len(names) < FEWEST:
            raise UserError(f"fusion needs at least {FEWEST} modalities, and the data has {', '.join(names) or 'none'}")
        sizes = range(FEWEST, (FEWEST if asked == "pairs" else min(MOST, len(names))) + 1)
        members = [members for size in sizes for members in itertools.combinations(range(len(names)), size)]
    elif isinstance(asked, str) or not asked:
        raise UserError(f"combinations is {asked!r}; choose pairs, all or a list such as ('t1+t2', 't1+flair')")
    else:
        members = [_read(name, names) for name in asked]
    return Combinations(names, tuple(members))


def named(shown: str, pairs: Sequence[str]) -> str:
    """The combination that is shown, named by one of the two."""
    if shown and pairs:
        raise UserError(f"shown is {shown!r} and pairs begins with {pairs[0]!r}; give one of them")
    return shown or "".join(pairs[:1])


def number_of(name: str, trained: Combinations) -> int:
    """The number of a combination such as "t1+t2", in any order; the first if empty."""
    if not name:
        return 0
    wanted = set(name.split("+"))
    for number, members in enumerate(trained.members):
        if {trained.modalities[member] for member in members} == wanted:
            return number
    raise UserError(
        f"the combination that is shown is {name!r}, which is not among those that are trained; name one of these as "
        "the first of pairs"
    )


def _read(name: str, modalities: tuple[str, ...]) -> tuple[int, ...]:
    parts = name.split("+")
    if absent := [part for part in parts if part not in modalities]:
        raise UserError(f"combination {name!r} names {', '.join(absent)}, but the data has {', '.join(modalities)}")
    if not FEWEST <= len(set(parts)) == len(parts) <= MOST:
        raise UserError(f"combination {name!r} must name {FEWEST} to {MOST} different modalities")
    return tuple(modalities.index(part) for part in parts)
