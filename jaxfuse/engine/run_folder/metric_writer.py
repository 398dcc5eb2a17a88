"""Metric rows on disk: `metrics.jsonl`, `metrics.csv` and TensorBoard event files of one workdir.

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
import os
import struct
import time
from collections.abc import Callable, Collection, Iterable, Iterator, Mapping
from contextlib import suppress
from pathlib import Path
from typing import IO, Literal, SupportsFloat

import numpy as np
from jaxtyping import UInt8
from tensorboardX.event_file_writer import EventsWriter
from tensorboardX.proto.event_pb2 import Event  # pyright: ignore[reportAttributeAccessIssue]  (made at run time)
from tensorboardX.proto.summary_pb2 import Summary  # pyright: ignore[reportAttributeAccessIssue]
from tensorboardX.record_writer import RecordWriter
from tensorboardX.summary import image as image_summary

from jaxfuse.errors import OutputError
from jaxfuse.io.metric_rows import METRICS_FILE, ROW_KEYS, Row, read_metrics
from jaxfuse.io.whole_file import write_whole

Drop = Callable[[str, int], bool]  # (phase, step) -> is this row to go?

_CSV, _EVENTS = "metrics.csv", "events.out.tfevents.*"
_CSV_HEADER = (*ROW_KEYS, "name", "value")
_SPLITS = ("train", "val")


class MetricWriter:
    """A writer that appends metric rows to a workdir, which is made if need be. One writer per workdir at a time.

    Opening a workdir that already has rows repairs what a killed process left: the half-written last line goes,
    and the CSV is brought in line with the JSONL.
    """

    def __init__(self, workdir: Path) -> None:
        self._workdir = Path(workdir)
        self._workdir.mkdir(parents=True, exist_ok=True)
        self._events: EventsWriter | None = None
        _rewrite(self._workdir, read_metrics(self._workdir))
        self._open()

    def write(self, step: int, phase: str, split: Literal["train", "val"], values: Mapping[str, SupportsFloat]) -> None:
        """Writes one row to all three files, and flushes it.

        Args:
            step: optimizer steps done in this phase; TensorBoard's global step.
            phase: name of the phase; first part of the TensorBoard tag `<phase>/<split>/<name>`.
            split: "train" or "val".
            values: name -> number; arrays of one element will do. The names step, phase and split are taken.
        """
        if split not in _SPLITS:
            raise ValueError(f"split is 'train' or 'val', got {split!r}")
        if taken := [name for name in values if name in ROW_KEYS]:
            raise ValueError(f"a metric cannot be called {taken[0]!r}: that is a column of every row")
        row = {"step": int(step), "phase": phase, "split": split, **{name: float(v) for name, v in values.items()}}
        scalars = [Summary.Value(tag=f"{phase}/{split}/{name}", simple_value=row[name]) for name in values]
        try:
            self._jsonl.write(_json_line(row))
            self._jsonl.flush()
            self._csv.write(_csv_text([row]))
            self._csv.flush()
            self._write_event(Summary(value=scalars), step)
        except OSError as error:
            raise OutputError(
                f"the metrics of step {step} cannot be written to {self._workdir} ({error.strerror}); free space and "
                "call again: the run goes on from its last checkpoint"
            ) from error

    def write_image(self, tag: str, step: int, image: UInt8[np.ndarray, "h w 3"]) -> None:
        """Writes one color image to TensorBoard. `tag` begins with the phase (`<phase>/...`), like a scalar's."""
        if image.dtype != np.uint8 or image.ndim != 3 or image.shape[-1] != 3:
            raise ValueError(f"expected a uint8 image of shape (h, w, 3), got {image.dtype} of shape {image.shape}")
        self._write_event(image_summary(tag, image, dataformats="HWC"), step)

    def truncate(self, phase: str, after_step: int, later_phases: Collection[str] = ()) -> None:
        """Forgets rows and images of `phase` past `after_step`, and all of `later_phases`.

        A resumed run will write them again. Each file is replaced in one piece.
        """

        def drop(row_phase: str, step: int) -> bool:
            return row_phase in later_phases or (row_phase == phase and step > after_step)

        self.close()
        rows = [row for row in read_metrics(self._workdir) if not drop(row["phase"], row["step"])]
        _rewrite(self._workdir, rows)
        for path in sorted(self._workdir.glob(_EVENTS)):
            _filter_events(path, drop)
        self._open()

    def flush(self) -> None:
        """Hands everything written so far to the operating system. `write` does so by itself."""
        self._jsonl.flush()
        self._csv.flush()
        if self._events is not None:
            self._events.flush()

    def close(self) -> None:
        """Flushes and closes all files. Closing twice does no harm.

        What could not be written was said by `write`; here it is let go.
        """
        for file in (self._jsonl, self._csv, self._events):
            if file is not None:
                with suppress(OSError):
                    file.close()
        self._events = None

    def _open(self) -> None:
        # Both stay open until `close`: a row is written every few seconds, for hours.
        self._jsonl: IO[str] = open(self._workdir / METRICS_FILE, "a", encoding="utf-8")  # noqa: SIM115
        self._csv: IO[str] = open(self._workdir / _CSV, "a", encoding="utf-8")  # noqa: SIM115

    def _write_event(self, summary: Summary, step: int) -> None:
        if self._events is None:
            # tensorboardX names the file by the second and opens it for overwriting: the suffix keeps a run that is
            # resumed within that second from wiping its own file.
            self._events = EventsWriter(str(self._workdir / "events"), f".{os.getpid()}.{time.time_ns()}")
        events = self._events
        events.write_event(Event(wall_time=time.time(), step=int(step), summary=summary))
        events.flush()


class FollowingWriter(MetricWriter):
    """The writer of a process whose rows another process writes."""

    def __init__(self) -> None:
        pass

    def write(self, step: int, phase: str, split: Literal["train", "val"], values: Mapping[str, SupportsFloat]) -> None:
        pass

    def write_image(self, tag: str, step: int, image: UInt8[np.ndarray, "h w 3"]) -> None:
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


def _records(path: Path) -> Iterator[bytes]:
    """Yields the payloads of a TensorBoard file (length 8 bytes, checksum 4, payload, checksum 4) but a cut one."""
    data = path.read_bytes()
    start = 0
    while start + 12 <= len(data):
        (length,) = struct.unpack_from("<Q", data, start)
        end = start + 12 + length
        if end + 4 > len(data):
            return
        yield data[start + 12 : end]
        start = end + 4


def _filter_events(path: Path, drop: Drop) -> None:
    """Rewrites one event file without the values that `drop` names by the first part of their tag."""
    # Neither TensorBoard nor our own glob picks this name up, should the process die before the rename.
    partial = path.with_name(path.name.replace("tfevents", "partial", 1))
    writer = RecordWriter(str(partial))
    for payload in _records(path):
        event = Event.FromString(payload)
        if event.HasField("summary"):
            kept = [v for v in event.summary.value if not drop(v.tag.split("/")[0], event.step)]
            if not kept:
                continue
            if len(kept) < len(event.summary.value):
                event.summary.CopyFrom(Summary(value=kept))
        writer.write(event.SerializeToString())
    writer.close()
    os.replace(partial, path)
