"""Files of weights, of public codes or in our own names, as arrays of a state."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from jaxfuse.engine.conversion.arrays import network_paths
from jaxfuse.errors import UserError
from jaxfuse.weights.files import read_weights_file
from jaxfuse.weights.lines import Arrays, Ours, Part, Table
from jaxfuse.weights.matching import listed, matched, read_part
from jaxfuse.weights.tables import TABLES, table_of


@dataclass(frozen=True)
class Source:
    """A file, and how it is read.

    Attributes:
        table: the name of the public code's table; "" for our own names.
        part: the network of it that the file holds; "" where the file tells.
    """

    path: Path
    table: str = ""
    part: str = ""

    def __str__(self) -> str:
        return f"{self.path} ({TABLES[self.table].title})" if self.table else str(self.path)


def parse_sources(text: str) -> tuple[Source, ...]:
    """Reads [TABLE[/PART]:]FILE, several with commas between them; without TABLE the file has our own names.

    Raises:
        UserError: a part is none of its table.
    """
    return tuple(_parse(one.strip()) for one in text.split(",") if one.strip())


def _parse(text: str) -> Source:
    head, colon, path = text.partition(":")
    table, _, part = head.partition("/")
    if not colon or table not in TABLES:
        return Source(Path(text).expanduser())
    if part:
        part_of(table, part)
    return Source(Path(path).expanduser(), table, part)


def read_as(table: str, text: str) -> Source:
    """Reads [PART:]FILE of a table."""
    head, colon, path = text.partition(":")
    parts = [part.name for part in table_of(table).parts]
    if colon and head in parts:
        return Source(Path(path).expanduser(), table, head)
    return Source(Path(text).expanduser(), table)


def part_of(table: str, name: str) -> Part:
    """Returns a part of a table by its name.

    Raises:
        UserError: there is none of this name.
    """
    parts = {part.name: part for part in table_of(table).parts}
    if name not in parts:
        raise UserError(f"{table} has no part {name!r}; choose one of {', '.join(parts)}")
    return parts[name]


def arrays_of(source: Source, own: Mapping[str, Any], sources: Sequence[str]) -> dict[str, np.ndarray]:
    """Returns the arrays of a file by their names in `arrays.own_arrays`.

    Args:
        own: all arrays that the state has, or their shapes.
        sources: the modalities that the network reads, where it has networks of their own for them.

    Raises:
        UserError: the file cannot be read, or holds other weights.
    """
    found = read_weights_file(source.path)
    if not source.table:
        return _in_own_names(source, found, own)
    table = TABLES[source.table]
    chosen = part_of(source.table, source.part) if source.part else _told_by(source, table, found, own, sources)
    paths = network_paths(own, chosen.at, table.title)
    here = Ours({path: tuple(own[name].shape) for path, name in paths.items()}, sources)
    return {paths[path]: array for path, array in read_part(chosen, found, here, str(source.path)).items()}


def _told_by(source: Source, table: Table, found: Arrays, own: Mapping[str, Any], sources: Sequence[str]) -> Part:
    """Returns the part whose tensors a file has most of; refuses where two have as many."""
    if len(table.parts) == 1:
        return table.parts[0]
    counts = {}
    for part in table.parts:
        paths = network_paths(own, part.at, table.title)
        here = Ours({path: tuple(own[name].shape) for path, name in paths.items()}, sources)
        counts[part.name] = matched(part, found, here)
    most = max(counts.values())
    best = [name for name, count in counts.items() if count == most]
    if len(best) > 1 and most:
        raise UserError(
            f"{source.path} may be {' or '.join(best)} of {table.title}, which have the same names; say which, as "
            f"{best[0]}:{source.path}"
        )
    return part_of(source.table, best[0])


def _in_own_names(source: Source, found: Arrays, own: Mapping[str, Any]) -> dict[str, np.ndarray]:
    if stray := sorted(found.keys() - own.keys()):
        tables = ", ".join(TABLES)
        raise UserError(
            f"{source.path} has {listed(stray)}, which this network has not; where it is of a public code, say which, "
            f"as TABLE:{source.path} with one of {tables}, and else choose the recipe that it was written from"
        )
    if not found:
        raise UserError(f"{source.path} holds no arrays; name a file of weights")
    for name, array in found.items():
        if array.shape != tuple(own[name].shape):
            raise UserError(
                f"{source.path}: {name} has the sides {array.shape}, and this network's {tuple(own[name].shape)}; "
                "choose the recipe's sizes to be those of the file"
            )
    return {name: np.asarray(array, np.float32) for name, array in found.items()}


def sources_of(pairs: Sequence[str]) -> tuple[str, ...]:
    """Returns the sources that a recipe's pairs begin with."""
    return tuple(pairs[0].split("+")) if pairs else ()
