"""Tables on disk and on the console: long CSV files, JSON summaries, aligned Markdown.

Files are written beside their place and renamed, so that a reader never meets half a file and a failed
write leaves the old one. Floats keep every digit, and nan and infinity can be read back.
"""

from __future__ import annotations

import csv
import io
import json
import math
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from jaxfuse.errors import UserError
from jaxfuse.io.whole_file import utf8, write_whole

TEXT_COLUMNS = ("case", "subject", "output", "region", "outcome")
_NOT_FINITE = {"nan": math.nan, "inf": math.inf, "-inf": -math.inf}


def write_rows(path: Path | str, rows: Sequence[Mapping[str, Any]], *, columns: Sequence[str] = ()) -> None:
    """Writes rows of text and numbers as CSV; the columns are the keys, which all rows must share.

    Where `columns` names them there may be no row.
    """
    if not rows and not columns:
        raise UserError(f"there are no rows to write to {path}; give at least one")
    columns = list(columns or rows[0])
    for number, row in enumerate(rows, start=1):
        if set(row) != set(columns):
            raise UserError(f"row {number} for {path} has columns {', '.join(row)} instead of {', '.join(columns)}")
    text = io.StringIO()
    writer = csv.writer(text, lineterminator="\n")
    writer.writerow(columns)
    writer.writerows([_plain(row[column]) for column in columns] for row in rows)
    write_whole(Path(path), utf8(text.getvalue()))


def read_rows(path: Path | str, *, text: Sequence[str] = TEXT_COLUMNS) -> list[dict[str, Any]]:
    """Rows of a CSV file. Columns named in `text` stay text (a case may be called 007); all others are numbers."""
    rows = []
    with _open(Path(path)) as file:
        reader = csv.reader(file)
        columns = next(reader, [])
        for values in reader:
            if len(values) != len(columns):
                raise UserError(
                    f"line {reader.line_num} of {path} has {len(values)} values, but the header {len(columns)} columns"
                )
            row: dict[str, Any] = {}
            for column, value in zip(columns, values, strict=True):
                row[column] = value if column in text else _number(value, column, f"line {reader.line_num} of {path}")
            rows.append(row)
    return rows


def write_json(path: Path | str, value: Any) -> None:
    """Writes strict JSON: nan and the infinities, for which JSON has no number, become "nan", "inf", "-inf"."""
    text = json.dumps(_plain(value), indent=2, allow_nan=False, ensure_ascii=False) + "\n"
    write_whole(Path(path), utf8(text))


def read_json(path: Path | str) -> Any:
    """Reads what `write_json` wrote, nan and infinities included; broken JSON is refused with its place."""
    with _open(Path(path)) as file:
        try:
            return _restore(json.load(file))
        except (ValueError, RecursionError) as error:  # no JSON, no UTF-8, or brackets without end
            raise UserError(f"{path} is not valid JSON ({error}); write the file anew") from error


def render(rows: Sequence[Mapping[str, str]], columns: Sequence[str], *, left: int = 1) -> str:
    """An aligned Markdown table of ready-made texts: the first `left` columns to the left, the others to the right."""
    table = [list(columns), *([row[column] for column in columns] for row in rows)]
    widths = [max(3, *(len(line[i]) for line in table)) for i in range(len(columns))]

    def line(texts: Sequence[str]) -> str:
        cells = [t.ljust(w) if i < left else t.rjust(w) for i, (t, w) in enumerate(zip(texts, widths, strict=True))]
        return "| " + " | ".join(cells) + " |"

    rule = ["-" * w if i < left else "-" * (w - 1) + ":" for i, w in enumerate(widths)]
    return "\n".join([line(table[0]), line(rule), *map(line, table[1:])])


def _plain(value: Any) -> Any:
    """The value in built-in types that JSON and CSV take as they are."""
    if isinstance(value, np.generic | np.ndarray):
        value = value.tolist()
    if isinstance(value, Mapping):
        return {str(key): _plain(item) for key, item in value.items()}
    if isinstance(value, list | tuple):
        return [_plain(item) for item in value]
    if isinstance(value, float) and not math.isfinite(value):
        return repr(value)
    if value is None or isinstance(value, bool | int | float | str):
        return value
    raise TypeError(f"cannot write {value!r} of type {type(value).__name__} to a table")


def _restore(value: Any) -> Any:
    if isinstance(value, dict):
        return {key: _restore(item) for key, item in value.items()}
    if isinstance(value, list):
        return [_restore(item) for item in value]
    return _NOT_FINITE.get(value, value) if isinstance(value, str) else value


def _number(text: str, column: str, place: str) -> int | float:
    for kind in (int, float):
        try:
            return kind(text)
        except ValueError:
            continue
    raise UserError(f"{place} holds {text!r} in column {column}, where a number was expected")


def _open(path: Path) -> io.TextIOWrapper:
    try:
        return path.open(encoding="utf-8", newline="")
    except OSError as error:
        raise UserError(f"cannot read {path} ({error.strerror}); name an existing file") from error
