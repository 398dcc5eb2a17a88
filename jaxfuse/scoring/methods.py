"""Several methods beside one another: their scores of the same cases, compared pair by pair, and ranked.

`jaxfuse.evaluate` writes the result as comparison.json, and each pair of methods as a row of comparison.csv.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict
from itertools import combinations, product
from pathlib import Path
from typing import Any

import numpy as np
from jaxtyping import Float64

from jaxfuse.errors import UserError
from jaxfuse.io.tables import render
from jaxfuse.metrics.comparison import RESAMPLES, Ranking, compare, holm, rank
from jaxfuse.metrics.names import Metric
from jaxfuse.metrics.statistics import statistics
from jaxfuse.report.evaluation import Compared
from jaxfuse.scoring.protocol import Protocol, Row

JSON, TABLE, SEEDS = "comparison.json", "comparison.csv", "seeds.csv"
# (method, region, metric) -> scores (seeds, cases).
Values = Callable[[str, str, Metric], Float64[np.ndarray, "seeds cases"]]
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
    for count in range(1, max(map(len, parts), default=0) + 1):
        names = ["-".join(part.strip("/") for part in one[-count:] if part.strip("/")) for one in parts]
        if len(set(names)) == len(names):
            return names
    if not folders:
        return []
    raise UserError(f"{', '.join(map(str, folders))} cannot be told apart by name; rename one of them")


def read_methods(words: Sequence[str]) -> dict[str, dict[str, Path]]:
    """Returns the folders of each method by the names of its seeds, from the words of --pred.

    A word is a folder, a method of one seed, which has no name; or NAME=FOLDER,FOLDER, a method of several.

    Raises:
        UserError: a name is no name of a folder, is taken twice, or a folder is given twice.
    """
    alone = [word for word in words if Path(word).is_dir() or "=" not in word]
    named = dict(zip(alone, names_of_folders([Path(word) for word in alone]), strict=True))
    found: dict[str, dict[str, Path]] = {}
    for word in words:
        name, _, listed = (named[word], "", "") if word in named else word.partition("=")
        if not name.strip() or name.strip(".") == "" or set(name) & set('/\\:"<>|?*'):
            raise UserError(f"--pred {word} names no method; write NAME=FOLDER,FOLDER for a method of several seeds")
        if name in found:
            raise UserError(f"the method {name} is named twice; give each its own name")
        folders = [Path(part) for part in listed.split(",") if part]
        found[name] = dict(zip(names_of_folders(folders), folders, strict=True)) if listed else {"": Path(word)}
    every = [folder.absolute() for seeds in found.values() for folder in seeds.values()]
    if twice := [folder for folder in every if every.count(folder) > 1]:
        raise UserError(f"{twice[0]} is given twice; give each folder of predictions once")
    return found


def compare_methods(tables: Mapping[str, Sequence[Sequence[Row]]], protocol: Protocol) -> dict[str, Any]:
    """Compares methods by the rows that their cases.csv hold.

    Args:
        tables: method -> the rows of each of its seeds.
        protocol: by which all were scored.

    Returns:
        The content of comparison.json.

    Raises:
        UserError: no case was scored for all methods and seeds.
    """
    scores = {name: [_by_place(rows, protocol.output) for rows in seeds] for name, seeds in tables.items()}
    columns = set.intersection(*(set(row) for seeds in tables.values() for rows in seeds for row in rows))
    metrics, ranked = (
        [one for one in some if one.larger_is_better is not None and one.name in columns]
        for some in (protocol.metrics, protocol.ranked)
    )
    of_each = [{case for case, _ in found} for seeds in scores.values() for found in seeds]
    cases = sorted(set.intersection(*of_each))
    if not cases:
        raise UserError(f"no case was scored for all of {', '.join(tables)}; give predictions of the same cases")
    regions = list(dict.fromkeys(row.get("region", _WHOLE) for row in next(iter(tables.values()))[0]))

    def values(method: str, region: str, metric: Metric) -> Float64[np.ndarray, "seeds cases"]:
        return np.array([[found[case, region][metric.name] for case in cases] for found in scores[method]], np.float64)

    measures = [(region, metric) for region in regions for metric in ranked]
    stack = np.stack([[values(name, *measure).mean(axis=0) for measure in measures] for name in tables]).swapaxes(1, 2)
    return {
        "kind": "comparison",
        "protocol": protocol.name,
        "methods": list(tables),
        "cases": len(cases),
        "not_of_all": sorted(set.union(*of_each) - set(cases)),
        "resamples": RESAMPLES,
        "seeds": {name: len(seeds) for name, seeds in tables.items()},
        "between_seeds": _between_seeds(tables, regions, metrics, values),
        "pairs": _pairs(tables, regions, metrics, values),
        "ranking": _ranking(list(tables), measures, rank(stack, [bool(m.larger_is_better) for _, m in measures])),
    }


def _pairs(tables: Mapping[str, Any], regions: Sequence[str], metrics: Sequence[Metric], values: Values) -> list[Row]:
    """A row for each metric, region and pair of methods, with p-values after Holm; of seeds where all have several."""
    several, pairs = min(len(seeds) for seeds in tables.values()) > 1, list[Row]()
    for metric in metrics:
        found: list[dict[str, Any]] = [
            {"metric": metric.name, "region": region, "first": first, "second": second}
            | asdict(compare(values(first, region, metric), values(second, region, metric)))
            for region in regions
            for first, second in combinations(tables, 2)
        ]
        names = ("p", "p_seeds") if several else ("p",)
        adjusted = [holm([one[name] for one in found]) for name in names]
        for one, *ps in zip(found, *adjusted, strict=True):
            kept = {name: value for name, value in one.items() if several or name != "p_seeds"}
            pairs.append(kept | dict(zip((f"{name}_holm" for name in names), ps, strict=True)))
    return pairs


def _between_seeds(
    tables: Mapping[str, Any], regions: Sequence[str], metrics: Sequence[Metric], values: Values
) -> list[Row]:
    """A row for each method of several seeds, region and metric: statistics over the means of its seeds.

    Cases in which a seed has no score are left out of the means of all.
    """
    rows = []
    for name, region, metric in product((name for name, one in tables.items() if len(one) > 1), regions, metrics):
        scores = values(name, region, metric)
        both = np.isfinite(scores).all(axis=0)
        means = scores[:, both].mean(axis=1) if both.any() else np.full(len(scores), np.nan)
        ends = {"lowest": float(means.min()), "highest": float(means.max())}
        counts = {"seeds": len(means), "cases": int(both.sum()), "undefined": int(both.size - both.sum())}
        found = statistics(means)
        rows.append(
            {"method": name, "region": region, "metric": metric.name, "mean": found["mean"], "std": found["std"]}
            | ends
            | counts
        )
    return rows


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
    tables = ((found.places, 2), (found.pairs, 3), (found.seeds, 3))
    parts = [f"{render(rows, list(rows[0]), left=left)}\n" for rows, left in tables if rows]
    return "\n".join([*parts, *found.notes])


def tables_of(document: Mapping[str, Any], metrics: Sequence[Metric]) -> Compared:
    """The ranking, the pairs and the seeds in these metrics as tables of texts, with what they mean."""
    names = document["methods"]
    ranking = sorted(document["ranking"]["methods"].items(), key=lambda item: item[1]["place"])
    places = [
        {"Place": str(one["place"]), "Method": name, "Mean rank": f"{one['score']:.2f}"}
        | {f"ahead of {other} by chance": _p(one["ahead_by_chance"][other]) for other in names}
        for name, one in ranking
    ]
    by_name = {metric.name: metric for metric in metrics}
    pairs = [_line(by_name[one["metric"]], one) for one in document["pairs"] if one["metric"] in by_name]
    seeds = [_seeds(by_name[one["metric"]], one) for one in document["between_seeds"] if one["metric"] in by_name]
    return Compared(places if pairs else [], pairs, _notes(document, several=bool(seeds)), seeds)


def _notes(document: Mapping[str, Any], *, several: bool) -> list[str]:
    """The meaning of the tables; `several`: a method has several seeds."""
    ranked = ", ".join(dict.fromkeys(one["metric"] for one in document["ranking"]["measures"]))
    notes = [
        f"Ranks: of {ranked} in every region and case, undefined last; by chance: one-sided, by permutation of cases.",
        "Differences: first less second, mean over the cases that both have, with a bootstrap interval of 95 % over "
        f"cases{' and seeds' if several else ''}; p: Wilcoxon's signed-rank test, two-sided, after Holm over the pairs "
        "and regions of a metric; effect: matched-pairs rank-biserial correlation.",
    ]
    if several:
        notes.append(
            "Seeds: scores of a case are means over seeds. p speaks of these trained networks, p (seeds) of others "
            "that the same trainings would give, with cases and seeds as random effects; it needs several seeds of all."
        )
    more = len(document["not_of_all"])
    left_out = f"; {more} more that some lack are left out." if more else "."
    return [*(notes if document["pairs"] else notes[2:]), f"Cases: {document['cases']} that all methods have{left_out}"]


def _seeds(metric: Metric, one: Mapping[str, Any]) -> dict[str, str]:
    return {
        "Metric": f"{metric.title} {metric.arrow}".strip(),
        "Region": one["region"],
        "Method": one["method"],
        "Mean of seeds": metric.text(one["mean"]),
        "Deviation between seeds": metric.text(one["std"]),
        "Lowest": metric.text(one["lowest"]),
        "Highest": metric.text(one["highest"]),
        **{name.capitalize(): str(one[name]) for name in ("seeds", "cases", "undefined")},
    }


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
        **({"p (seeds)": _p(one["p_seeds_holm"])} if "p_seeds_holm" in one else {}),
        "Effect": "" if np.isnan(one["effect"]) else f"{one['effect']:+.2f}",
        "Cases": str(one["cases"]),
        "Undefined": str(one["undefined"]),
    }


def _p(value: float) -> str:
    if np.isnan(value):
        return ""
    return "< 0.001" if value < 0.001 else f"{value:.3f}"
