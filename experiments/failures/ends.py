"""The end of a run that was disturbed beside that of one that was not: weights bit by bit, rows, events, scores."""

from __future__ import annotations

import csv
import math
import struct
from collections import Counter
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import jax
import numpy as np
import orbax.checkpoint as ocp
from tensorboardX.proto.event_pb2 import (  # made at run time
    Event,  # pyright: ignore[reportAttributeAccessIssue]
    SessionLog,  # pyright: ignore[reportAttributeAccessIssue]
)

from jaxfuse.io.metric_rows import ROW_KEYS, read_metrics

# What a clock decides, not the run.
TIMED = ("steps_per_s", "wait_share")
# Files that a run keeps under a name that begins with a dot.
KEPT = (".lock",)

Values = Counter[tuple[Any, ...]]


@dataclass(frozen=True)
class Compared:
    """The differences of two ends.

    Attributes:
        twice: rows that stand there more than once, over all three files.
        missing: rows of the undisturbed run that are not there, or have another value.
        unequal: names of weights, optimizer states, scores or rows that are not bitwise those of the undisturbed run.
        left: files of work that was cut short.
    """

    twice: int
    missing: int
    unequal: tuple[str, ...]
    left: tuple[str, ...]

    @property
    def same(self) -> bool:
        return not (self.twice or self.missing or self.unequal)


def compare(workdir: Path, undisturbed: Path) -> Compared:
    """Compares the ends of two runs of the same command."""
    twice = missing = 0
    unequal = []
    for name, read in (("metrics.jsonl", json_rows), ("metrics.csv", csv_rows), ("events", event_rows)):
        found, expected = Counter(read(workdir)), Counter(read(undisturbed))
        twice += _twice(found)
        missing += (expected - found).total()
        unequal += [f"{name}: {row} is of no undisturbed run" for row in list(found - expected)[:3]]
    unequal += _unequal_arrays(workdir, undisturbed) + _unequal_files(workdir, undisturbed)
    return Compared(twice, missing, tuple(unequal), tuple(left_behind(workdir)))


def json_rows(workdir: Path) -> Iterator[tuple[Any, ...]]:
    """Yields (phase, split, step, name, value) of every number of `metrics.jsonl`."""
    for row in read_metrics(workdir):
        head = (row["phase"], row["split"], row["step"])
        yield from ((*head, name, _exact(value)) for name, value in row.items() if name not in (*ROW_KEYS, *TIMED))


def csv_rows(workdir: Path) -> Iterator[tuple[Any, ...]]:
    """Yields the same of `metrics.csv`."""
    with (workdir / "metrics.csv").open(encoding="utf-8", newline="") as file:
        for row in csv.DictReader(file):
            if row["name"] not in TIMED:
                yield (row["phase"], row["split"], int(row["step"]), row["name"], _exact(float(row["value"])))


def event_rows(workdir: Path) -> Iterator[tuple[Any, ...]]:
    """Yields (tag, step, value) of every number in the files of TensorBoard that a later one does not outdate."""
    for folder in sorted((workdir / "tensorboard").glob("*")):
        found: list[tuple[Any, ...]] = []
        paths = sorted(folder.glob("events.out.tfevents.*"))
        for path in paths:
            # A process that was killed may have cut its last record: TensorBoard goes on with the next file.
            for event in map(Event.FromString, records(path.read_bytes(), whole=path == paths[-1])):
                if event.session_log.status == SessionLog.START:
                    found = [one for one in found if one[1] < event.step]
                found += [
                    (f"{folder.name}/{value.tag}", event.step, _exact(value.simple_value))
                    for value in event.summary.value
                    if value.tag.split("/")[-1] not in TIMED
                ]
        yield from found


def records(data: bytes, *, whole: bool = True) -> Iterator[bytes]:
    """Yields the payloads of a file of TensorBoard.

    Args:
        whole: whether its last record must be.

    Raises:
        ValueError: the last record was cut.
    """
    start = 0
    while start < len(data):
        (length,) = struct.unpack_from("<Q", data.ljust(start + 8, b"\0"), start)
        end = start + 12 + length  # after the length and its checksum; the payload's own follows
        if end + 4 > len(data):
            if not whole:
                return
            raise ValueError(f"a record of {length} bytes at byte {start} was cut")
        yield data[start + 12 : end]
        start = end + 4


def left_behind(folder: Path) -> list[str]:
    """Lists what work that was cut short has left in a folder."""
    found = sorted(folder.rglob("*"))
    return [
        path.relative_to(folder).as_posix() for path in found if path.name.startswith(".") and path.name not in KEPT
    ]


def arrays(folder: Path) -> dict[str, np.ndarray]:
    """Reads all arrays of the newest checkpoints, last and best, below a folder of checkpoints."""
    found = {}
    for which in sorted(folder.glob("*/*")):
        newest = max((path for path in which.iterdir() if path.name.isdigit()), key=lambda path: int(path.name))
        for tree in sorted(path for path in newest.iterdir() if path.is_dir()):
            name = tree.relative_to(folder).as_posix()
            found |= {f"{name}/{leaf}": array for leaf, array in _read(tree).items()}
    return found


def _read(tree: Path) -> dict[str, np.ndarray]:
    with ocp.Checkpointer(ocp.StandardCheckpointHandler()) as reader:
        restored = reader.restore(tree)
    leaves = jax.tree_util.tree_leaves_with_path(restored)
    return {jax.tree_util.keystr(path, simple=True, separator="/"): _plain(leaf) for path, leaf in leaves}


def _plain(leaf: Any) -> np.ndarray:
    is_key = hasattr(leaf, "dtype") and jax.dtypes.issubdtype(leaf.dtype, jax.dtypes.prng_key)
    return np.asarray(jax.random.key_data(leaf) if is_key else leaf)


def _unequal_arrays(workdir: Path, undisturbed: Path) -> list[str]:
    found, expected = arrays(workdir / "checkpoints"), arrays(undisturbed / "checkpoints")
    odd = [f"checkpoints: {name}" for name in sorted(found.keys() ^ expected.keys())]
    same = found.keys() & expected.keys()
    return odd + [f"checkpoints: {name}" for name in sorted(same) if not _bitwise(found[name], expected[name])]


def _bitwise(a: np.ndarray, b: np.ndarray) -> bool:
    return (a.dtype, a.shape, a.tobytes()) == (b.dtype, b.shape, b.tobytes())


def _unequal_files(workdir: Path, undisturbed: Path) -> list[str]:
    """Compares the tables of scores byte by byte; a report holds times, so that it has to be there alone."""
    names = {path.relative_to(undisturbed) for path in undisturbed.glob("results/*/*")}
    names |= {path.relative_to(workdir) for path in workdir.glob("results/*/*") if not path.name.startswith(".")}
    differ = [name.as_posix() for name in sorted(names) if _content(workdir / name) != _content(undisturbed / name)]
    return differ + ["report.html is not there"] * (not (workdir / "report.html").is_file())


def _content(path: Path) -> list[bytes]:
    """Returns the lines of a file, without what a clock decides."""
    lines = path.read_bytes().splitlines() if path.is_file() else []
    return [line for line in lines if not line.lstrip().startswith((b'"seconds_per_', b'"seconds_of_'))]


def _twice(rows: Iterable[tuple[Any, ...]]) -> int:
    """Counts rows of one name that stand there more than once, whatever their values."""
    names: Values = Counter()
    counted = rows if isinstance(rows, Counter) else Counter(rows)
    for row, times in counted.items():
        names[row[:-1]] += times
    return sum(times - 1 for times in names.values())


def _exact(value: float) -> str:
    """Returns the value in a form that is equal for equal bits; NaN is equal to itself there."""
    return "nan" if math.isnan(value) else float(value).hex()
