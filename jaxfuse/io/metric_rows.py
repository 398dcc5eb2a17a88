"""Metric rows of a run, read from its `metrics.jsonl`."""

from __future__ import annotations

import json
from collections.abc import Collection, Sequence
from pathlib import Path
from typing import Any

from jaxfuse.errors import UserError

Row = dict[str, Any]
METRICS_FILE = "metrics.jsonl"
ROW_KEYS = ("step", "phase", "split")  # of every row; the other keys are names of numbers


def read_metrics(workdir: Path) -> list[Row]:
    """All rows of `metrics.jsonl`, in the order written: {"step": int, "phase": str, "split": str, name: float, ...}.

    Empty where the file is absent. A last line that is not JSON (the process was killed while writing it) is left out.

    Raises:
        UserError: another line cannot be read.
    """
    path = Path(workdir) / METRICS_FILE
    if not path.exists():
        return []
    lines = [line for line in path.read_bytes().split(b"\n") if line.strip()]
    rows = []
    for number, line in enumerate(lines, start=1):
        try:
            rows.append(_parse_row(line))
        except ValueError as error:
            if number == len(lines):
                break
            raise UserError(
                f"{path} line {number} is not a metric row ({error}); every line is one JSON object with "
                "step, phase and split: remove that line"
            ) from error
    return rows


def seconds_of_training(rows: Sequence[Row], phases: Collection[str]) -> float:
    """Returns how long the steps of some phases took, without compilation and validation, in all calls of a run.

    Each row stands for the steps since the one before, at the rate that it names; where a rate is not known yet, at the
    next one. A phase that is trained beside others has the time of all.
    """
    seconds = 0.0
    for phase in phases:
        done, steps = 0, 0
        for row in rows:
            if row["phase"] == phase and row["split"] == "train":
                steps, done = steps + row["step"] - done, row["step"]
                if (rate := row.get("steps_per_s", 0.0)) > 0:
                    seconds, steps = seconds + steps / rate, 0
    return seconds


def _parse_row(line: bytes) -> Row:
    row = json.loads(line.decode("utf-8"))
    if not isinstance(row, dict) or any(key not in row for key in ROW_KEYS):
        raise ValueError("no object with step, phase and split")
    return {key: value if key in ROW_KEYS else float(value) for key, value in row.items()}
