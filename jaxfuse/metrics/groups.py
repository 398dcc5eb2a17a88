"""Scores by groups of cases: those that lack a region, the smallest third, a grade; undefined ones are counted.

A grouping gives each row of scores (a case, or a case and region) the name of its group, or none. Groups by volume are
made region by region: a large enhancing tumor may lie in a small whole one.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from itertools import pairwise
from typing import Any

import numpy as np

from jaxfuse.metrics.protocols import LESIONS_FOUND, LESIONS_MISSED
from jaxfuse.metrics.statistics import statistics

ABSENT, PRESENT = "absent", "present"
THIRDS = ("smallest third", "middle third", "largest third")
# Fewer rows than these make thirds of one row.
FEWEST = 6
NUMBERS = ("no lesion", "1 lesion", "2 to 3 lesions", "4 lesions or more")
_AT_LEAST = (0, 1, 2, 4)
# Names of the groupings that need no table; the former goes on with a region.
BY_PRESENCE, BY_NUMBER = "truth of ", "number of lesions"

Row = Mapping[str, Any]


@dataclass(frozen=True)
class Grouping:
    """A way to part rows.

    Attributes:
        name: such as "truth of ET".
        groups: their names, in the order of tables.
        group_of: row -> the name of its group; empty where it is in none.
        bounds_mm3: region -> the bounds between groups by volume; each belongs to the group below it.
    """

    name: str
    groups: tuple[str, ...]
    group_of: Callable[[Row], str]
    bounds_mm3: Mapping[str, tuple[float, ...]] = field(default_factory=dict)


def by_presence(rows: Sequence[Row]) -> list[Grouping]:
    """Returns a grouping for each region that the truth of some cases has and that of others lacks."""
    found = []
    for region in dict.fromkeys(row["region"] for row in rows):
        empty = {row["case"]: row["truth_mm3"] == 0 for row in rows if row["region"] == region}
        if len(set(empty.values())) == 2:
            groups = {case: ABSENT if nothing else PRESENT for case, nothing in empty.items()}
            found.append(Grouping(BY_PRESENCE + region, (ABSENT, PRESENT), lambda row, of=groups: of[row["case"]]))
    return found


def by_volume(rows: Sequence[Row], column: str, bounds_mm3: Sequence[float] = (), *, name: str) -> list[Grouping]:
    """Returns the grouping by a column of volumes, within each region; rows of volume 0 are in no group.

    Args:
        bounds_mm3: in rising order; none: thirds of each region's rows, where it has at least six.
    """
    regions = dict.fromkeys(row["region"] for row in rows)
    if bounds_mm3:
        bounds = dict.fromkeys(regions, tuple(bounds_mm3))
        between = [f"{low:g} to {high:g} mm³" for low, high in pairwise(bounds_mm3)]
        groups = (f"up to {bounds_mm3[0]:g} mm³", *between, f"above {bounds_mm3[-1]:g} mm³")
    else:
        bounds, groups = {}, THIRDS
        for region in regions:
            volumes = np.array([row[column] for row in rows if row["region"] == region and row[column] > 0])
            if len(volumes) >= FEWEST:
                bounds[region] = tuple(float(one) for one in np.quantile(volumes, (1 / 3, 2 / 3)))
    if not bounds:
        return []

    def group_of(row: Row) -> str:
        if row[column] == 0 or row["region"] not in bounds:
            return ""
        return groups[int(np.searchsorted(bounds[row["region"]], row[column]))]

    return [Grouping(name, groups, group_of, bounds)]


def by_number(rows: Sequence[Row]) -> list[Grouping]:
    """Returns the grouping by how many lesions that count the truth of a region has, where rows tell it."""
    if not rows or LESIONS_FOUND.name not in rows[0]:
        return []

    def group_of(row: Row) -> str:
        number = row[LESIONS_FOUND.name] + row[LESIONS_MISSED.name]
        return NUMBERS[sum(number >= least for least in _AT_LEAST) - 1]

    return [Grouping(BY_NUMBER, NUMBERS, group_of)]


def by_table(name: str, group_of_case: Mapping[str, str]) -> Grouping:
    """Returns the grouping that a table states for each case; an empty text is none."""
    groups = tuple(sorted({group for group in group_of_case.values() if group}))
    return Grouping(name, groups, lambda row: group_of_case[row["case"]])


def scores_by_group(rows: Sequence[Row], grouping: Grouping, metrics: Sequence[str]) -> dict[str, Any]:
    """Returns statistics by group, region and metric; groups without rows are left out.

    Returns:
        {"groups": {group: {region: {"count": rows, metric: statistics}}}, "regions": in the order of the rows,
        "in_none": rows in no group, "bounds_mm3"}.
    """
    parted: dict[str, dict[str, list[Row]]] = {group: {} for group in grouping.groups}
    in_none = 0
    for row in rows:
        if group := grouping.group_of(row):
            parted[group].setdefault(row.get("region", ""), []).append(row)
        else:
            in_none += 1
    found = {
        group: {region: {"count": len(some), **_statistics(some, metrics)} for region, some in regions.items()}
        for group, regions in parted.items()
        if regions
    }
    regions = list(dict.fromkeys(row.get("region", "") for row in rows))
    return {"groups": found, "regions": regions, "in_none": in_none, "bounds_mm3": dict(grouping.bounds_mm3)}


def _statistics(rows: Sequence[Row], metrics: Sequence[str]) -> dict[str, dict[str, float]]:
    return {name: statistics(np.array([row[name] for row in rows], np.float64)) for name in metrics}
