"""The kinds of result, each named once: how the console and a run's report tell them.

A result says in its summary which kind it is. To add one, write its judge, its scorer and a module of this folder that
tells it, and enter it here.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

from jaxfuse.metrics import fusion, protocols, synthesis, translation
from jaxfuse.metrics.names import Metric, metric_of
from jaxfuse.report import fusion_table, segmentation_table, synthesis_table
from jaxfuse.report.results import Cell, Line, Result, metric_names


def told_in_ranges(result: Result) -> list[str]:
    """The range of each metric's means over all outputs."""
    parts = []
    for name in metric_names(result.lines):
        metric = metric_named(name)
        means = sorted(line.statistics[name]["mean"] for line in result.lines if name in line.statistics)
        ends = " to ".join(dict.fromkeys(metric.text(mean) for mean in (means[0], means[-1])))
        parts.append(f"{metric.title} {ends} over {len(means)} outputs")
    return parts


@dataclass(frozen=True)
class Kind:
    """A kind of result.

    Attributes:
        name: its "kind" in summary.json.
        metrics: those that its summaries may hold.
        render: summary -> its table on the console; None: a run prints none.
        told: result -> its numbers in words, as parts of a sentence.
        compared: result -> the lines that stand for it beside other runs, by the names of their columns. A result
            without any is not compared.
        leading: the metrics that runs are compared by.
        rank: result -> the number that orders runs, larger is better; for a result that is compared.
        rank_title: the name of that number.
        tiles: result -> (label, number) of the tiles at the head of a page; for a result that is compared.
        of_cases: result -> metrics of single cases. The first draws their dots and finds the worst; larger is better.
        score: the score of validations while training, in words; empty: a report does not tell.
    """

    name: str
    metrics: tuple[Metric, ...]
    render: Callable[[Mapping[str, Any]], str] | None = None
    told: Callable[[Result], list[str]] = told_in_ranges
    compared: Callable[[Result], dict[str, Line]] = lambda result: {}
    leading: tuple[Metric, ...] = ()
    rank: Callable[[Result], float] = lambda result: 0.0
    rank_title: str = ""
    tiles: Callable[[Result], list[tuple[str, Cell]]] = lambda result: []
    of_cases: Callable[[Result], tuple[Metric, ...]] = lambda result: ()
    score: str = ""


KINDS: Mapping[str, Kind] = {
    kind.name: kind
    for kind in (
        Kind(
            "segmentation",
            protocols.METRICS,
            render=segmentation_table.render_segmentation,
            told=segmentation_table.told,
            compared=segmentation_table.compared,
            leading=(protocols.DICE, protocols.SENSITIVITY, protocols.HD95, protocols.HD),
            rank=segmentation_table.mean_dice,
            rank_title="mean Dice",
            tiles=segmentation_table.tiles,
            of_cases=segmentation_table.of_cases,
            score="the mean Dice of its regions",
        ),
        Kind(
            "synthesis",
            (*synthesis.METRICS, *synthesis.OFFICIAL),
            render=synthesis_table.render_synthesis,
            told=synthesis_table.told,
            compared=synthesis_table.compared,
            leading=synthesis.METRICS,
            rank=synthesis_table.mean_psnr_db,
            rank_title="PSNR",
            tiles=synthesis_table.tiles,
            score="the mean PSNR of the cases that are watched",
        ),
        Kind("translation", translation.METRICS),
        Kind(
            "fusion",
            fusion.METRICS,
            render=fusion_table.render_fusion,
            compared=fusion_table.compared,
            leading=fusion.METRICS,
            rank=fusion_table.mean_qabf,
            rank_title=fusion.QABF.title,
            tiles=fusion_table.tiles,
            score="the mean Qabf of the cases that are watched",
        ),
    )
}
_UNKNOWN = Kind("", ())


def kind_of(summary: Mapping[str, Any]) -> Kind:
    """The kind of a result by its summary; one of an unknown kind is told by its numbers alone."""
    return KINDS.get(summary.get("kind", ""), _UNKNOWN)


def metric_named(name: str) -> Metric:
    """The metric of this name, of whichever kind; one that no kind has is printed under its own name."""
    return metric_of(name, (metric for kind in KINDS.values() for metric in kind.metrics))
