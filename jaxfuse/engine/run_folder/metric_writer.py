"""Metric rows on disk: `metrics.jsonl`, `metrics.csv` and the files of TensorBoard of one workdir; and trackers.

The JSONL file is the record; the CSV (long form, for spreadsheets and data frames) is derived from it and is
rebuilt from it whenever a writer opens. Every row is on disk before `write` returns, so that a killed process
loses at most the line that it was writing; readers skip such a half-written last line.

JSON is strict. A number that is not finite is written as the string "nan", "inf" or "-inf" (`null` could not tell
them apart), and `read_metrics` turns these strings back into floats.
"""

from __future__ import annotations

import csv
import io
import json
import math
import sys
from collections.abc import Collection, Iterable, Mapping, Sequence
from contextlib import ExitStack, nullcontext, suppress
from pathlib import Path
from typing import IO, Literal, SupportsFloat

from jaxfuse.engine.run_folder.event_files import EventFiles
from jaxfuse.engine.tracking.tracker import Tracker
from jaxfuse.errors import OutputError
from jaxfuse.io.metric_rows import METRICS_FILE, ROW_KEYS, Row, read_metrics
from jaxfuse.io.whole_file import write_whole

_CSV = "metrics.csv"
_CSV_HEADER = (*ROW_KEYS, "name", "value")
_SPLITS = ("train", "val")


class MetricWriter:
    """A writer that appends metric rows to a workdir, which is made if need be. One writer per workdir at a time.

    Opening a workdir that already has rows repairs what a killed process left: the half-written last line goes,
    and the CSV is brought in line with the JSONL.

    Args:
        trackers: further places for every row, which are closed with this one.
    """

    def __init__(self, workdir: Path, trackers: Sequence[Tracker] = ()) -> None:
        self._workdir = Path(workdir)
        self._workdir.mkdir(parents=True, exist_ok=True)
        self._events, self._trackers = EventFiles(workdir), trackers
        _rewrite(self._workdir, read_metrics(self._workdir))
        self._open()

    def write(self, step: int, phase: str, split: Literal["train", "val"], values: Mapping[str, SupportsFloat]) -> None:
        """Writes one row to all files, and flushes it, then to the trackers.

        Args:
            step: optimizer steps done in this phase.
            phase: name of the phase.
            split: "train" or "val".
            values: name -> number; arrays of one element will do. The names step, phase and split are taken.
        """
        if split not in _SPLITS:
            raise ValueError(f"split is 'train' or 'val', got {split!r}")
        if taken := [name for name in values if name in ROW_KEYS]:
            raise ValueError(f"a metric cannot be called {taken[0]!r}: that is a column of every row")
        row = {"step": int(step), "phase": phase, "split": split, **{name: float(v) for name, v in values.items()}}
        try:
            self._jsonl.write(_json_line(row))
            self._jsonl.flush()
            self._csv.write(_csv_text([row]))
            self._csv.flush()
            self._events.write(step, phase, split, {name: row[name] for name in values})
        except OSError as error:
            raise OutputError(
                f"the metrics of step {step} cannot be written to {self._workdir} ({error.strerror}); free space and "
                "call again: the run goes on from its last checkpoint"
            ) from error
        for tracker in self._trackers:
            tracker.write(step, phase, split, {name: row[name] for name in values})

    def truncate(self, phase: str, after_step: int, later_phases: Collection[str] = ()) -> None:
        """Forgets rows of `phase` past `after_step`, and all of `later_phases`.

        A resumed run will write them again. Each text file is replaced in one piece. Trackers keep what they were told.
        """

        def drop(row_phase: str, step: int) -> bool:
            return row_phase in later_phases or (row_phase == phase and step > after_step)

        self._close_texts()
        rows = [row for row in read_metrics(self._workdir) if not drop(row["phase"], row["step"])]
        _rewrite(self._workdir, rows)
        self._events.forget(phase, after_step)
        for name in later_phases:
            self._events.forget(name, -1)
        self._open()

    def flush(self) -> None:
        """Hands everything written so far to the operating system. `write` does so by itself."""
        self._jsonl.flush()
        self._csv.flush()

    def close(self) -> None:
        """Flushes and closes all files and trackers. Closing twice does no harm.

        What could not be written was said by `write`; here it is let go. A tracker that fails keeps no other one open,
        and says so only where nothing else has gone wrong.
        """
        self._close_texts()
        self._events.close()
        trackers, self._trackers = self._trackers, ()
        stopped_by = sys.exc_info()[1]
        with suppress(OutputError) if stopped_by else nullcontext(), ExitStack() as closing:
            for tracker in trackers:
                closing.callback(tracker.close)

    def _close_texts(self) -> None:
        for file in (self._jsonl, self._csv):
            with suppress(OSError):
                file.close()

    def _open(self) -> None:
        # Both stay open until `close`: a row is written every few seconds, for hours.
        self._jsonl: IO[str] = open(self._workdir / METRICS_FILE, "a", encoding="utf-8")  # noqa: SIM115
        self._csv: IO[str] = open(self._workdir / _CSV, "a", encoding="utf-8")  # noqa: SIM115


class FollowingWriter(MetricWriter):
    """The writer of a process whose rows another process writes."""

    def __init__(self) -> None:
        pass

    def write(self, step: int, phase: str, split: Literal["train", "val"], values: Mapping[str, SupportsFloat]) -> None:
        pass

    def truncate(self, phase: str, after_step: int, later_phases: Collection[str] = ()) -> None:
        pass

    def flush(self) -> None:
        pass

    def close(self) -> None:
        pass


def _json_line(row: Row) -> str:
    plain = {
        key: str(value) if isinstance(value, float) and not math.isfinite(value) else value
        for key, value in row.items()
    }
    return json.dumps(plain, allow_nan=False) + "\n"


def _csv_text(rows: Iterable[Row]) -> str:
    text = io.StringIO()
    writer = csv.writer(text, lineterminator="\n")
    for row in rows:
        head = [row[key] for key in ROW_KEYS]
        writer.writerows([*head, name, repr(value)] for name, value in row.items() if name not in ROW_KEYS)
    return text.getvalue()


def _rewrite(workdir: Path, rows: list[Row]) -> None:
    """Replaces both text files by `rows`."""
    write_whole(workdir / METRICS_FILE, "".join(map(_json_line, rows)).encode("utf-8"))
    write_whole(workdir / _CSV, (",".join(_CSV_HEADER) + "\n" + _csv_text(rows)).encode("utf-8"))
