"""Presence of modalities: which of those that a data set names a case has, and subsets of them by name.

A presence is one truth value for each modality, in the order of the data's modalities. A subset is written as the names
of those that are there, such as "t1+flair".
"""

from __future__ import annotations

import itertools
import math
from collections.abc import Collection, Sequence
from dataclasses import dataclass
from typing import Any

from jaxfuse.errors import UserError
from jaxfuse.options import record

Presence = tuple[bool, ...]
# What is done with a case that lacks modalities: it is refused, their image is 0, or they are synthesized first.
REFUSE, ZERO, IMPUTE = "refuse", "zero", "impute"
# What an image of one value everywhere counts as.
PRESENT, ABSENT = "present", "absent"
MISSING = "missing"
MISSING_HELP = (
    "Cases that lack some of the modalities: refuse leaves them out by name; zero labels them by those that they have, "
    "with 0 for the others; impute synthesizes these first, by the run that --synthesis names."
)
# A table of all subsets has 2^m - 1 rows.
MOST_MODALITIES = 8


@dataclass(frozen=True)
class ModalityDropout:
    """The subsets of modalities that a training shows in place of all that an example has.

    Attributes:
        probability: of an example whose subset is drawn; the others show all that they have.
        subsets: those that are drawn, by name, each with a weight behind "=" where that is not 1; (): all subsets, each
            as often as another.
    """

    probability: float = 0.0
    subsets: tuple[str, ...] = ()


def read_dropout(phase: str, group: Any) -> ModalityDropout | None:
    """Reads the group `modality_dropout` of a phase; None where nothing is ever drawn.

    Raises:
        UserError: an option is unknown or missing, or there is a table from which nothing is drawn.
    """
    if group is None:
        return None
    found = record(ModalityDropout, f"{phase}.modality_dropout", group)
    if found.subsets and not found.probability:
        raise UserError(
            f"{phase}.modality_dropout.subsets is {found.subsets} and its probability 0, by which none is drawn; give "
            "a probability, or leave subsets out"
        )
    return found if found.probability else None


def present(modalities: Sequence[str], found: Collection[str]) -> Presence:
    """Marks those of the modalities that were found."""
    return tuple(modality in found for modality in modalities)


def subset_name(presence: Sequence[bool], modalities: Sequence[str]) -> str:
    """Writes a presence as the names of what is there; "none" where nothing is."""
    return "+".join(name for name, there in zip(modalities, presence, strict=True) if there) or "none"


def read_subset(text: str, modalities: Sequence[str]) -> Presence:
    """Reads the names of a subset, such as "t1+flair".

    Raises:
        UserError: a name is unknown or stands twice.
    """
    names = text.split("+")
    if unknown := [name for name in names if name not in modalities]:
        raise UserError(f"the subset {text!r} names {', '.join(unknown)}; the modalities are {', '.join(modalities)}")
    if len(set(names)) < len(names):
        raise UserError(f"the subset {text!r} names a modality twice; name each once")
    return present(modalities, names)


def all_subsets(modalities: Sequence[str]) -> tuple[Presence, ...]:
    """Lists every subset but the empty one, the smallest first: 15 of four modalities.

    Raises:
        UserError: there are more modalities than a table has room for.
    """
    count = len(modalities)
    if count > MOST_MODALITIES:
        raise UserError(
            f"{count} modalities have {2**count - 1} subsets, more than a table holds; name those that are meant, or "
            f"give at most {MOST_MODALITIES} modalities"
        )
    places = (chosen for size in range(1, count + 1) for chosen in itertools.combinations(range(count), size))
    return tuple(tuple(place in chosen for place in range(count)) for chosen in places)


def weighted_subsets(asked: Sequence[str], modalities: Sequence[str]) -> tuple[tuple[Presence, ...], tuple[float, ...]]:
    """Reads the table of `ModalityDropout.subsets`: the subsets, and the weight of each.

    Raises:
        UserError: a subset cannot be read or stands twice, or a weight is no positive number.
    """
    if not asked:
        every = all_subsets(modalities)
        return every, (1.0,) * len(every)
    table: dict[Presence, float] = {}
    for entry in asked:
        name, given, number = entry.partition("=")
        subset = read_subset(name.strip(), modalities)
        if subset in table:
            raise UserError(f"the subset {name.strip()!r} stands twice; name each once")
        table[subset] = _weight(entry, number) if given else 1.0
    return tuple(table), tuple(table.values())


def _weight(entry: str, number: str) -> float:
    try:
        weight = float(number)
    except ValueError:
        weight = math.nan
    if not (0 < weight < math.inf):
        raise UserError(f"the subset {entry!r} has no positive number behind =; write such as 't1+flair=2'")
    return weight
