"""A way to score two folders: each module of this package that has some lists them as PROTOCOLS.

`jaxfuse.evaluate` finds them there.
"""

from __future__ import annotations

import sys
from collections.abc import Callable, Iterable, Mapping, Sequence
from contextlib import closing
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, TypeVar

from jaxfuse.case_by_case import CaseByCase
from jaxfuse.io.outputs import Outputs, folder_read, open_outputs
from jaxfuse.io.tables import write_json, write_rows
from jaxfuse.io.whole_file import utf8, write_whole
from jaxfuse.labels import LabelScheme
from jaxfuse.metrics.names import Metric
from jaxfuse.report.pictured import Reader
from jaxfuse.scoring.groups import COLUMNS, GROUPS, MARKDOWN, Groups, long_rows, markdown
from jaxfuse.scoring.progress import tracked
from jaxfuse.workers import Jobs, outcomes

T = TypeVar("T")
TABLE, SUMMARY = "cases.csv", "summary.json"

Row = Mapping[str, Any]


@dataclass(frozen=True)
class Call:
    """The part of a call that every protocol is asked.

    Attributes:
        allow_missing: leave out, and list in the summary, cases that lack a file, such as a prediction.
        overwrite: replace files in the output folder that are not our own.
        processes: how many score cases at once; None: as many as pay, at most one for each core.
        groups: of cases, by a table.
    """

    allow_missing: bool = False
    overwrite: bool = False
    processes: int | None = 1
    groups: Groups = field(default_factory=Groups)


@dataclass(frozen=True)
class Option:
    """A flag of some protocols.

    Attributes:
        choices: its possible values; empty: any text.
        several: whether it is a list, written with commas.
        switch: whether it is there or not, and has no value.
    """

    name: str
    help: str
    choices: tuple[str, ...] = ()
    several: bool = False
    switch: bool = False


@dataclass(frozen=True)
class Protocol:
    """One way to score two folders.

    Attributes:
        kind: the name of its result in `report.kinds`.
        score: (pred, ref, out, call, **options) -> summary; writes cases.csv and summary.json.
        options: the flags that it understands beside those that all protocols share.
        help: what it scores, by which metrics.
        output: the "output" of the rows that are those of the predictions themselves.
        metrics: the columns of its rows.
        ranked: those metrics that methods are ranked by.
        pictures: (method -> folder, references, label scheme) -> function that reads a case to be shown.
        tables: names of what it writes beside cases.csv.
    """

    name: str
    kind: str
    score: Callable[..., Mapping[str, Any]]
    options: tuple[Option, ...]
    help: str
    output: str
    metrics: tuple[Metric, ...]
    ranked: tuple[Metric, ...]
    pictures: Callable[[Mapping[str, Path], Path, LabelScheme], Reader] | None = None
    tables: tuple[str, ...] = ()


@dataclass(frozen=True)
class Table:
    """A table that is written beside cases.csv; it may have no rows."""

    name: str
    columns: tuple[str, ...]
    rows: Sequence[Row]


def open_scores(
    out: Path,
    pred: tuple[Path, Iterable[Path]],
    ref: tuple[Path, Iterable[Path]],
    *,
    overwrite: bool,
    tables: Iterable[str] = (),
) -> Outputs:
    """Checks the place of cases.csv, summary.json, the tables by groups, and further ones.

    `pred` and `ref` are the folders that are read, and their files.

    Raises:
        UserError: they are not to be written there (`jaxfuse.io.outputs`).
    """
    reads = [*folder_read("--pred", *pred), *folder_read("--ref", *ref)]
    return open_outputs(
        out, "--out", reads=reads, names=(TABLE, SUMMARY, GROUPS, MARKDOWN, *tables), overwrite=overwrite
    )


def score_each(jobs: Jobs[T], processes: int | None) -> tuple[dict[str, T], dict[str, str]]:
    """Scores all cases; one that is refused is named on the error stream at once, and left out.

    Args:
        processes: as of `jaxfuse.workers.outcomes`.

    Returns:
        What came of each case, in their order, and the sentence of each case that was left out.

    Raises:
        UserError: that of a single case.
        CasesLeftOut: no case could be scored.
    """
    batch, found = CaseByCase(list(jobs), lambda text: print(text, file=sys.stderr)), dict[str, T]()
    with closing(outcomes(jobs, processes)) as scored:
        for case, result in tracked(scored, len(jobs)):
            with batch.case(case):
                found[case] = result()
    if not found:
        batch.end()
    return found, dict(batch.refused)


def write_scores(
    outputs: Outputs,
    rows: Sequence[Row],
    summary: Mapping[str, Any],
    refused: Mapping[str, str],
    tables: Iterable[Table] = (),
) -> dict[str, Any]:
    """Writes cases.csv, summary.json, of its "groups" groups.csv and groups.md, and further tables.

    Returns:
        The summary, in which `refused` are the cases left out.
    """
    whole = {**summary, "refused": dict(refused)}
    with outputs.together() as folder:
        write_rows(folder / TABLE, rows)
        write_json(folder / SUMMARY, whole)
        if groups := summary.get("groups"):
            write_rows(folder / GROUPS, long_rows(groups), columns=COLUMNS)
            write_whole(folder / MARKDOWN, utf8(markdown(groups)))
        for table in tables:
            write_rows(folder / table.name, table.rows, columns=table.columns)
    return whole
