"""Scores by groups of cases, in summary.json, groups.csv and groups.md: by region, volume, number, and by a table."""

from __future__ import annotations

import csv
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from jaxfuse.errors import UserError
from jaxfuse.io.tables import TEXT_COLUMNS, render
from jaxfuse.metrics.groups import BY_NUMBER, BY_PRESENCE, by_number, by_presence, by_table, by_volume, scores_by_group
from jaxfuse.metrics.protocols import DICE, HD95
from jaxfuse.report.groups import group_tables
from jaxfuse.scoring.lesions import FALSE, FOUND
from jaxfuse.scoring.pairing import listing

GROUPS, MARKDOWN = "groups.csv", "groups.md"
COLUMNS = ("grouping", "group", "region", "metric", "count", "mean", "std", "median", "n", "undefined")
OF_TRUTHS, OF_LESIONS = "volume of the truth", "volume of the lesion"
_VOLUMES = ("pred_mm3", "truth_mm3")

Row = Mapping[str, Any]


@dataclass(frozen=True)
class Groups:
    """The groups that a user states.

    Attributes:
        tables: grouping -> case -> group; an empty text is none.
        source: the file that they are from, for sentences.
    """

    tables: Mapping[str, Mapping[str, str]] = field(default_factory=dict)
    source: str = ""

    def check(self, cases: Sequence[str]) -> None:
        """Refuses cases that the table does not name."""
        for of_case in list(self.tables.values())[:1]:
            if lacking := [case for case in cases if case not in of_case]:
                raise UserError(
                    f"{self.source} names no group for {listing(lacking)}; add a row for each, of which a group may be "
                    "left empty"
                )


def read_groups(path: Path) -> Groups:
    """Reads a CSV file with a column "case"; each other column is a grouping.

    Raises:
        UserError: it is no such file, names a case twice, or has a grouping by a name that others bear.
    """
    try:
        with path.open(encoding="utf-8-sig", newline="") as file:
            rows = [row for row in csv.reader(file) if any(text.strip() for text in row)]
    except (OSError, UnicodeDecodeError, csv.Error) as error:
        raise UserError(f"--groups {path} cannot be read ({error}); give a CSV file with a column case") from error
    header = [name.strip() for name in rows[0]] if rows else []
    if "case" not in header or len(set(header)) < max(2, len(header)) or "" in header:
        raise UserError(
            f"{path} has the columns {', '.join(header) or 'none'}; give a column case and one for each grouping, of "
            "different names"
        )
    for name in header:
        if name in (BY_NUMBER, OF_TRUTHS, OF_LESIONS) or name.startswith(BY_PRESENCE):
            raise UserError(f"{path} has the column {name}, a name of groups that are made without a table; rename it")
    found: dict[str, dict[str, str]] = {name: {} for name in header if name != "case"}
    for number, row in enumerate(rows[1:], start=2):
        if len(row) != len(header):
            raise UserError(f"row {number} of {path} has {len(row)} values; give {len(header)}, one for each column")
        texts = dict(zip(header, (text.strip() for text in row), strict=True))
        case = texts.pop("case")
        if case in next(iter(found.values())):
            raise UserError(f"{path} names the case {case} twice; keep one of its rows")
        for name, group in texts.items():
            found[name][case] = group
    return Groups(found, str(path))


def bounds_of(texts: Sequence[str] | None) -> tuple[float, ...]:
    """Reads the bounds of --sizes_mm3, in rising order; none where it is not given."""
    try:
        bounds = tuple(float(text) for text in texts or ())
    except ValueError:
        bounds = (math.nan,)
    if not all(0 < bound < math.inf for bound in bounds) or list(bounds) != sorted(set(bounds)):
        raise UserError(
            f"--sizes_mm3 is {','.join(texts or ())}; give volumes in mm3 above 0, in rising order, such as 1000,10000"
        )
    return bounds


def group_scores(
    rows: Sequence[Row], groups: Groups, *, bounds_mm3: Sequence[float] = (), lesions: Sequence[Row] = ()
) -> dict[str, Any]:
    """Returns the entry "groups" of summary.json: grouping -> `metrics.groups.scores_by_group`.

    Args:
        rows: those of the predictions themselves; of label maps they are grouped by presence, volume and number, too.
        bounds_mm3: of the groups by volume; none: thirds.
        lesions: rows of lesions.csv, which are grouped by volume, with the share that was found.
    """
    found = [by_table(name, of_case) for name, of_case in groups.tables.items()]
    if _VOLUMES[1] in rows[0]:
        found += by_presence(rows)
        found += by_volume(rows, _VOLUMES[1], bounds_mm3, name=OF_TRUTHS)
        found += by_number(rows)
    metrics = [name for name in rows[0] if name not in (*TEXT_COLUMNS, *_VOLUMES)]
    scored = {one.name: scores_by_group(rows, one, metrics) for one in found}
    real = [{**row, "found": float(row["outcome"] == FOUND)} for row in lesions if row["outcome"] != FALSE]
    for one in by_volume(real, "volume_mm3", bounds_mm3, name=OF_LESIONS) if real else ():
        scored[one.name] = scores_by_group(real, one, ("found", DICE.name, HD95.name))
    return {name: one for name, one in scored.items() if one["groups"]}


def long_rows(groups: Mapping[str, Any]) -> list[Row]:
    """Returns a row of groups.csv for each group, region and metric."""
    return [
        {"grouping": grouping, "group": group, "region": region, "metric": metric, "count": values["count"], **one}
        for grouping, scored in groups.items()
        for group, regions in scored["groups"].items()
        for region, values in regions.items()
        for metric, one in values.items()
        if metric != "count"
    ]


def markdown(groups: Mapping[str, Any]) -> str:
    """Returns the tables of groups.md."""
    parts = ["# Scores by groups"]
    for table in group_tables({"": groups}):
        parts.append(f"## {table.title}\n\n{render(table.rows, list(table.rows[0]), left=table.left)}")
    return "\n\n".join(parts) + "\n"
