"""Several methods beside one another: their scores of the same cases, compared pair by pair, and ranked.

`jaxfuse.evaluate` writes the result as comparison.json, and each pair of methods as a row of comparison.csv.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import asdict
from itertools import combinations
from pathlib import Path
from typing import Any

import numpy as np
from jaxtyping import Float64

from jaxfuse.errors import UserError
from jaxfuse.io.tables import render
from jaxfuse.metrics.comparison import RESAMPLES, Ranking, compare, holm, rank
from jaxfuse.metrics.names import Metric
from jaxfuse.report.evaluation import Compared
from jaxfuse.scoring.protocol import Protocol, Row

JSON, TABLE = "comparison.json", "comparison.csv"
_WHOLE = "image"  # the region of kinds of result that know none


def names_of_folders(folders: Sequence[Path]) -> list[str]:
    """Returns names by which the folders are told apart: their last parts, as many as that takes.

    Raises:
        UserError: a folder is given twice.
    """
    parts = [folder.absolute().parts for folder in folders]
    for folder in folders:
        if parts.count(folder.absolute().parts) > 1:
            raise UserError(f"{folder} is given twice; give each folder of predictions once")
    for count in range(1, max(map(len, parts)) + 1):
        names = ["-".join(part.strip("/") for part in one[-count:] if part.strip("/")) for one in parts]
        if len(set(names)) == len(names):
            return names
    raise UserError(f"{', '.join(map(str, folders))} cannot be told apart by name; rename one of them")


def compare_methods(tables: Mapping[str, Sequence[Row]], protocol: Protocol) -> dict[str, Any]:
    """Compares methods by the rows that their cases.csv hold.

    Args:
        tables: method -> rows.
        protocol: by which all were scored.

    Returns:
        The content of comparison.json.

    Raises:
        UserError: no case was scored for all methods.
    """
    scores = {name: _by_place(rows, protocol.output) for name, rows in tables.items()}
    columns = set.intersection(*(set(row) for rows in tables.values() for row in rows))
    metrics, ranked = (
        [one for one in some if one.larger_is_better is not None and one.name in columns]
        for some in (protocol.metrics, protocol.ranked)
    )
    of_each = [{case for case, _ in found} for found in scores.values()]
    cases = sorted(set.intersection(*of_each))
    if not cases:
        raise UserError(f"no case was scored for all of {', '.join(tables)}; give predictions of the same cases")
    regions = list(dict.fromkeys(row.get("region", _WHOLE) for row in next(iter(tables.values()))))

    def values(method: str, region: str, metric: Metric) -> Float64[np.ndarray, " cases"]:
        return np.array([scores[method][case, region][metric.name] for case in cases], np.float64)

    pairs = []
    for metric in metrics:
        found = [
            {"metric": metric.name, "region": region, "first": first, "second": second}
            | asdict(compare(values(first, region, metric), values(second, region, metric)))
            for region in regions
            for first, second in combinations(tables, 2)
        ]
        adjusted = holm([one["p"] for one in found])
        pairs += [one | {"p_holm": p} for one, p in zip(found, adjusted, strict=True)]
    measures = [(region, metric) for region in regions for metric in ranked]
    stack = np.stack([[values(name, *measure) for measure in measures] for name in tables]).swapaxes(1, 2)
    return {
        "kind": "comparison",
        "protocol": protocol.name,
        "methods": list(tables),
        "cases": len(cases),
        "not_of_all": sorted(set.union(*of_each) - set(cases)),
        "resamples": RESAMPLES,
        "pairs": pairs,
        "ranking": _ranking(list(tables), measures, rank(stack, [bool(m.larger_is_better) for _, m in measures])),
    }


def _by_place(rows: Sequence[Row], output: str) -> dict[tuple[str, str], Row]:
    return {(row["case"], row.get("region", _WHOLE)): row for row in rows if row["output"] == output}


def _ranking(methods: Sequence[str], measures: Sequence[tuple[str, Metric]], found: Ranking) -> dict[str, Any]:
    each = zip(methods, found.place.tolist(), found.score.tolist(), found.p.tolist(), strict=True)
    return {
        "measures": [{"region": region, "metric": metric.name} for region, metric in measures],
        "methods": {
            name: {"place": place, "score": score, "ahead_by_chance": dict(zip(methods, p, strict=True))}
            for name, place, score, p in each
        },
    }


def render_comparison(document: Mapping[str, Any], metrics: Sequence[Metric]) -> str:
    """Renders the ranking, and the pairs in the metrics that a console has room for, with what they mean."""
    found = tables_of(document, [metric for metric in metrics if metric.in_console])
    places, pairs = (render(rows, list(rows[0]), left=left) for rows, left in ((found.places, 2), (found.pairs, 3)))
    return "\n".join([places, "", pairs, "", *found.notes])


def tables_of(document: Mapping[str, Any], metrics: Sequence[Metric]) -> Compared:
    """The ranking and the pairs in these metrics as tables of texts, with what they mean."""
    names = document["methods"]
    ranking = sorted(document["ranking"]["methods"].items(), key=lambda item: item[1]["place"])
    places = [
        {"Place": str(one["place"]), "Method": name, "Mean rank": f"{one['score']:.2f}"}
        | {f"ahead of {other} by chance": _p(one["ahead_by_chance"][other]) for other in names}
        for name, one in ranking
    ]
    by_name = {metric.name: metric for metric in metrics}
    pairs = [_line(by_name[one["metric"]], one) for one in document["pairs"] if one["metric"] in by_name]
    ranked = ", ".join(dict.fromkeys(one["metric"] for one in document["ranking"]["measures"]))
    notes = [
        f"Ranks: of {ranked} in every region and case, undefined last; by chance: one-sided, by permutation of cases.",
        "Differences: first less second, mean over the cases that both have, with a bootstrap interval of 95 % over "
        "cases; p: Wilcoxon's signed-rank test, two-sided, after Holm over the pairs and regions of a metric; effect: "
        "matched-pairs rank-biserial correlation.",
        f"Cases: {document['cases']} that all methods have"
        + (f"; {len(document['not_of_all'])} more that some lack are left out." if document["not_of_all"] else "."),
    ]
    return Compared(places, pairs, notes)


def _line(metric: Metric, one: Mapping[str, Any]) -> dict[str, str]:
    def text(value: float) -> str:
        sign = "+" if value > 0 else ""
        return "" if np.isnan(value) else sign + metric.text(value)

    return {
        "Metric": f"{metric.title} {metric.arrow}".strip(),
        "Region": one["region"],
        "First - second": f"{one['first']} - {one['second']}",
        "Difference": text(one["difference"]),
        "95 % interval": f"{text(one['low'])} to {text(one['high'])}" if np.isfinite(one["low"]) else "",
        "p": _p(one["p_holm"]),
        "Effect": "" if np.isnan(one["effect"]) else f"{one['effect']:+.2f}",
        "Cases": str(one["cases"]),
        "Undefined": str(one["undefined"]),
    }


def _p(value: float) -> str:
    if np.isnan(value):
        return ""
    return "< 0.001" if value < 0.001 else f"{value:.3f}"
