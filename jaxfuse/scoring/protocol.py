"""A way to score two folders: each module of this package that has some lists them as PROTOCOLS.

`jaxfuse.evaluate` finds them there.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any


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
