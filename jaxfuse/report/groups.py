"""Scores by groups as tables of texts: on the page of an evaluation, and in Markdown."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from jaxfuse.metrics.names import Metric
from jaxfuse.report.kinds import metric_named
from jaxfuse.report.parts import Part, TextTable

_FOUND = Metric("found", "Found", 3, True)
_NOTES = (
    "Mean ± standard deviation over the rows of a group: its cases, or in groups by the volume of a lesion its "
    "lesions. Groups by volume are those of each region by itself; what has no volume is in none.",
)

# Grouping -> `metrics.groups.scores_by_group`.
Grouped = Mapping[str, Mapping[str, Any]]


def groups_part(methods: Mapping[str, Grouped]) -> list[Part]:
    """Returns the part of a page on the groups of all methods; none where they have no groups."""
    tables = group_tables(methods)
    return [Part("Scores by groups", tables, _NOTES)] if tables else []


def group_tables(methods: Mapping[str, Grouped]) -> list[TextTable]:
    """Returns a table for each grouping; a single method has no column."""
    names = dict.fromkeys(name for groups in methods.values() for name in groups)
    return [_table(name, {method: of[name] for method, of in methods.items() if name in of}) for name in names]


def _table(grouping: str, methods: Mapping[str, Mapping[str, Any]]) -> TextTable:
    several = len(methods) > 1
    lines = [
        (region, group, method, values)
        for method, scored in methods.items()
        for group, regions in scored["groups"].items()
        for region, values in regions.items()
    ]
    regions = list(dict.fromkeys(region for scored in methods.values() for region in scored["regions"]))
    groups = list(dict.fromkeys(group for _, group, _, _ in lines))
    lines.sort(key=lambda line: (regions.index(line[0]), groups.index(line[1])))
    rows = [
        {"Region": region, "Group": group, **({"Method": method} if several else {}), **_cells(values)}
        for region, group, method, values in lines
    ]
    if regions == [""]:
        rows = [{name: text for name, text in row.items() if name != "Region"} for row in rows]
    first = next(iter(methods.values()))
    return TextTable(rows, 2 + several - (regions == [""]), _title(grouping, first))


def _title(grouping: str, scored: Mapping[str, Any]) -> str:
    bounds: Mapping[str, Sequence[float]] = scored["bounds_mm3"]
    parts = [grouping]
    if len({tuple(one) for one in bounds.values()}) > 1 or "third" in str(list(scored["groups"])):
        parts.append(
            ", ".join(
                f"{region} at {' and '.join(f'{bound:.0f}' for bound in one)} mm³" for region, one in bounds.items()
            )
        )
    if scored["in_none"]:
        parts.append(f"{scored['in_none']} in no group")
    return "; ".join(part for part in parts if part)


def _cells(values: Mapping[str, Any]) -> dict[str, str]:
    cells = {"Count": str(values["count"])}
    for name, statistics in values.items():
        metric = _FOUND if name == _FOUND.name else metric_named(name)
        if name != "count" and metric.in_console:
            undefined = f" ({statistics['undefined']} undefined)" if statistics["undefined"] else ""
            cells[f"{metric.title} {metric.arrow}".strip()] = metric.mean_std(statistics) + undefined
    return cells
