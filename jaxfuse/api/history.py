"""The rows of metrics that a training wrote, as columns."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path

import numpy as np
from jaxtyping import Float

from jaxfuse.io.metric_rows import ROW_KEYS, Row, read_metrics

Columns = dict[str, Float[np.ndarray, " rows"]]
# Phase -> side ("train" or "val") -> name of a number, or "step" -> its column.
History = Mapping[str, Mapping[str, Columns]]


def history_of(workdir: Path) -> History:
    """Returns what a run wrote into `metrics.jsonl`; empty where there is nothing yet.

    losses = history["fusion"]["train"]
    plt.plot(losses["step"], losses["net/loss"])
    """
    sides: dict[str, dict[str, list[Row]]] = {}
    for row in read_metrics(workdir):
        sides.setdefault(row["phase"], {}).setdefault(row["split"], []).append(row)
    return {phase: {side: _columns(rows) for side, rows in own.items()} for phase, own in sides.items()}


def _columns(rows: Sequence[Row]) -> Columns:
    """Rows as one array for each number, NaN where a row has none."""
    names = dict.fromkeys(name for row in rows for name in row if name not in ROW_KEYS)
    columns = {"step": np.array([row["step"] for row in rows], np.float64)}
    return columns | {name: np.array([row.get(name, np.nan) for row in rows], np.float64) for name in names}
