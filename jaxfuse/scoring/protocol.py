"""A way to score two folders: each module of this package that has some lists them as PROTOCOLS.

`jaxfuse.evaluate` finds them there.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from jaxfuse.io.tables import write_json, write_rows


@dataclass(frozen=True)
class Option:
    """A flag of some protocols.

    Attributes:
        choices: its possible values; empty: any text.
        several: whether it is a list, written with commas.
    """

    name: str
    help: str
    choices: tuple[str, ...] = ()
    several: bool = False


@dataclass(frozen=True)
class Protocol:
    """One way to score two folders.

    Attributes:
        kind: the name of its result in `report.kinds`.
        score: (pred, ref, out, *, allow_missing, **options) -> summary; writes cases.csv and summary.json.
        options: the flags that it understands beside those that all protocols share.
        help: what it scores, by which metrics.
    """

    name: str
    kind: str
    score: Callable[..., Mapping[str, Any]]
    options: tuple[Option, ...]
    help: str


def write_scores(out: Path, rows: Sequence[Mapping[str, Any]], summary: dict[str, Any]) -> dict[str, Any]:
    """Writes cases.csv and summary.json to `out`, and returns the summary."""
    write_rows(out / "cases.csv", rows)
    write_json(out / "summary.json", summary)
    return summary
