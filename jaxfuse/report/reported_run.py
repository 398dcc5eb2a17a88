"""The files of a run that its report is made from."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from jaxfuse.errors import UserError
from jaxfuse.io.metric_rows import read_metrics
from jaxfuse.io.tables import read_json
from jaxfuse.report.results import Result, read_results


@dataclass(frozen=True)
class ReportedRun:
    """A run as its report sees it. Parts whose files are absent are empty.

    Attributes:
        metrics: the rows of metrics.jsonl.
        results: in the order of the schedule.
        related: the workdirs of other runs on the same data.
    """

    workdir: Path
    config: Mapping[str, Any]
    environment: Mapping[str, Any]
    dataset: Mapping[str, Any]
    metrics: Sequence[Mapping[str, Any]]
    results: Sequence[Result]
    related: Sequence[Path]


def read_run(workdir: Path, related: Sequence[Path]) -> ReportedRun:
    """Reads a run; those of the related workdirs that have other data are left out.

    Raises:
        UserError: no config.json there, or a file that cannot be read as what it should be.
    """
    if not (workdir / "config.json").is_file():
        raise UserError(f"{workdir} is not a run: it has no config.json; give the folder that training printed")
    config = read_json(workdir / "config.json")
    return ReportedRun(
        workdir,
        config,
        _optional_json(workdir / "environment.json"),
        _optional_json(workdir / "dataset.json"),
        read_metrics(workdir),
        read_results(workdir, config),
        on_same_data(workdir, related),
    )


def on_same_data(workdir: Path, related: Sequence[Path]) -> list[Path]:
    """The related runs, other than this one, that have its cases and its split."""
    mine = _optional_json(workdir / "dataset.json").get("fingerprint")
    return [
        run
        for run in map(Path, related)
        if mine is not None
        and run.resolve() != workdir.resolve()
        and _optional_json(run / "dataset.json").get("fingerprint") == mine
        and (run / "config.json").is_file()
    ]


def _optional_json(path: Path) -> dict[str, Any]:
    return read_json(path) if path.is_file() else {}
