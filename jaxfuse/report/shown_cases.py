"""The cases that the page of an evaluation shows: the worst as figures, and three to scroll through."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from jaxfuse.labels import LabelScheme
from jaxfuse.metrics.names import Metric
from jaxfuse.report.canvas import CLASS_COLORS
from jaxfuse.report.case_panel import panel
from jaxfuse.report.pictured import Reader
from jaxfuse.report.slices import VOLUMES_BYTES, Sliced, sliced

Rows = Sequence[tuple[str, Mapping[str, Any]]]


@dataclass(frozen=True)
class Pictures:
    """Cases of label maps, to be shown.

    Attributes:
        read: (case, methods) -> the case with the predictions of these methods.
        count: how many of the worst have a figure.
    """

    read: Reader
    scheme: LabelScheme
    count: int


def worst_first(rows: Rows, metric: Metric) -> dict[str, float]:
    """Case -> its mean of a metric over regions and methods, the worst case first; without cases that have none."""
    values: dict[str, list[float]] = {}
    for _, row in rows:
        if math.isfinite(row[metric.name]):
            values.setdefault(row["case"], []).append(row[metric.name])
    means = {case: sum(found) / len(found) for case, found in values.items()}
    sign = 1 if metric.larger_is_better else -1
    return {case: means[case] for case in sorted(means, key=lambda case: (sign * means[case], case))}


def shown_cases(rows: Rows, metric: Metric, pictures: Pictures | None) -> dict[str, Any]:
    """Makes the values of the page's template: the worst cases, and the volumes of its viewer.

    Args:
        rows: method and row of every case and region.
        metric: tells the worst.
        pictures: None: none are asked for, or can be made.
    """
    if pictures is None:
        return {"worst": [], "viewer": None, "unseen": ""}
    if len(classes := pictures.scheme.classes) > len(CLASS_COLORS):
        unseen = (
            f"Cases are not shown: their labels have {len(classes)} classes, of which figures tell {len(CLASS_COLORS)}"
        )
        return {"worst": [], "viewer": None, "unseen": unseen}
    means = worst_first(rows, metric)
    order = list(means)
    scrolled: dict[str, str] = {}
    for role, place in (("worst", 0), ("median", len(order) // 2), ("best", -1)) if order else ():
        scrolled.setdefault(order[place], role)
    worst, volumes = [], dict[str, Sliced | None]()
    for case in dict.fromkeys([*order[: pictures.count], *scrolled]):
        shown = pictures.read(case, {name for name, row in rows if row["case"] == case})
        if case in order[: pictures.count]:
            told = {"case": case, "mean": metric.text(means[case]), "scores": _scores(rows, case, metric)}
            lacks = shown.beneath if shown.image is None else ""
            worst.append(told | {"lacks": lacks, "image": panel(case, shown, pictures.scheme)})
        if case in scrolled:
            volumes[case] = sliced(case, shown, VOLUMES_BYTES // len(scrolled))
    return {"worst": worst, "viewer": _viewer(volumes, scrolled, means, metric, classes), "unseen": ""}


def _scores(rows: Rows, case: str, metric: Metric) -> list[tuple[str, str]]:
    """The scores of a case in the regions, method by method."""
    found: dict[str, list[str]] = {}
    for name, row in rows:
        if row["case"] == case:
            found.setdefault(name, []).append(f"{row.get('region', '')} {metric.text(row[metric.name])}".strip())
    return [(name, ", ".join(texts)) for name, texts in found.items()]


def _viewer(
    volumes: Mapping[str, Sliced | None],
    roles: Mapping[str, str],
    means: Mapping[str, float],
    metric: Metric,
    classes: Sequence[str],
) -> dict[str, Any] | None:
    packed = {case: one for case, one in volumes.items() if one is not None}
    if not packed:
        return None
    notes = [f"The image of {case} stands in {one.note}." for case, one in packed.items() if one.note]
    notes += [f"{case} is left out: its label maps alone need more." for case in volumes if case not in packed]
    colors = CLASS_COLORS[: len(classes)]
    return {
        "choices": [f"{roles[case]}: {case}, mean {metric.title} {metric.text(means[case])}" for case in packed],
        "document": {"cases": [one.document for one in packed.values()], "colors": colors},
        "legend": list(zip(colors, classes, strict=True))[1:],
        "size": f"{sum(one.size for one in packed.values()) / 1e6:.1f}",
        "limit": f"{VOLUMES_BYTES / 1e6:.0f}",
        "notes": notes,
    }
