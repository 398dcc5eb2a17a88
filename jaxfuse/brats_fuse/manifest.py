"""The manifest of a data set that is being built, case after case: a killed build goes on where it was."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from jaxfuse.errors import UserError
from jaxfuse.io.tables import read_rows, write_rows
from jaxfuse.io.whole_file import at, write_whole

MANIFEST = "manifest.csv"
# Rows of the manifest, one line per case that has been cut. The manifest replaces it when the data set is whole.
UNFINISHED = "manifest.unfinished.jsonl"
_TEXT = ("case", "split")

Row = Mapping[str, Any]


class Manifest:
    """Rows of the data set in the folder `root`, by case; every row has these `columns`."""

    def __init__(self, root: Path, columns: Sequence[str]) -> None:
        self._root, self._columns = root, tuple(columns)
        self.rows: dict[str, list[Row]] = self._read()

    def add(self, case: str, rows: Sequence[Row]) -> None:
        """Notes the rows of a case that has been cut; a case that was noted before keeps its place."""
        if self.rows.get(case) == list(rows):
            return
        self.rows[case] = [dict(row) for row in rows]
        path = self._root / UNFINISHED
        with at(path), path.open("a", encoding="utf-8") as file:
            file.write(json.dumps(self.rows[case]) + "\n")

    def finish(self, cases: Sequence[str]) -> Sequence[Row]:
        """Writes the manifest, in this order of cases, and returns its rows."""
        rows = [{column: row[column] for column in self._columns} for case in cases for row in self.rows[case]]
        write_rows(self._root / MANIFEST, rows)
        (self._root / UNFINISHED).unlink(missing_ok=True)
        return rows

    def _read(self) -> dict[str, list[Row]]:
        rows: dict[str, list[Row]] = {}
        if (self._root / MANIFEST).is_file():
            for row in read_rows(self._root / MANIFEST, text=_TEXT):
                rows.setdefault(row["case"], []).append(row)
        for known in self._read_unfinished():
            rows[known[0]["case"]] = known
        for row in (row for known in rows.values() for row in known):
            if tuple(row) != self._columns:
                raise UserError(
                    f"the manifest of {self._root} has the columns {', '.join(row)} instead of "
                    f"{', '.join(self._columns)}; restore it, or delete it to have it made anew"
                )
        return rows

    def _read_unfinished(self) -> list[list[Row]]:
        """Reads the rows of each case, and removes a last line that was not written to its end."""
        path = self._root / UNFINISHED
        if not path.is_file():
            return []
        *lines, rest = path.read_text(encoding="utf-8").split("\n")
        if rest:
            write_whole(path, "".join(line + "\n" for line in lines).encode("utf-8"))
        try:
            return [json.loads(line) for line in lines]
        except ValueError as error:
            raise UserError(f"{path} is damaged ({error}); delete it, it will be made anew") from error
