"""Parts of an evaluation's page that not every evaluation has: tables of ready-made texts, a figure, notes."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field


@dataclass(frozen=True)
class TextTable:
    """A table that a click sorts.

    Attributes:
        rows: column -> text, the columns of each in one order; not empty.
        left: how many columns are text; the others are numbers.
        title: stands above it; empty: none.
    """

    rows: Sequence[Mapping[str, str]]
    left: int
    title: str = ""


@dataclass(frozen=True)
class Part:
    """A part of the page.

    Attributes:
        images: a figure for light and dark pages by "light" and "dark", as addresses; empty: none.
    """

    title: str
    tables: Sequence[TextTable]
    notes: Sequence[str]
    images: Mapping[str, str] = field(default_factory=dict)
