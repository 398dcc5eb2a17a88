"""Entries of the cache: each a folder that appears in one piece, made once by one of all processes that share it."""

from __future__ import annotations

import hashlib
import json
import math
import os
import re
import secrets
import shutil
import time
import warnings
from collections.abc import Callable
from contextlib import suppress
from dataclasses import asdict, dataclass
from pathlib import Path

import numpy as np

from jaxfuse.data.cases import CaseFiles
from jaxfuse.data.facts import CaseFacts, tuples
from jaxfuse.data.prepared import CachedCase, Prepared
from jaxfuse.data.shelf import as_written
from jaxfuse.errors import OutputError, UserError
from jaxfuse.io.claims import claim, claimed, give_up

_CASE = "case.json"
_BLOCK = 4096
# Values that are rounded, and written, at once.
_AT_ONCE = 1 << 20
# No case takes so long to be prepared and written.
_ABANDONED_S = 86_400
_ENTRY = r".+-[0-9a-f]{20}"
_IN_THE_MAKING = re.compile(
    rf"\.({_ENTRY}\.(\d+\.[0-9a-f]{{8}}|damaged-\d+|lock)|digests\.json\.(\d+\.[0-9a-f]{{8}}|lock))"
)


@dataclass(frozen=True)
class Making:
    """An entry that is to be made, in this process or another.

    Attributes:
        make: prepares the case.
        one: its files.
        folder, key: of the entry.
        precision: of the image, a name of `jaxfuse.data.shelf.PRECISIONS`.
    """

    make: Callable[[CaseFiles], Prepared]
    one: CaseFiles
    folder: Path
    key: str
    precision: str

    def __call__(self) -> bool | None:
        """Makes the entry; False where it is there already, None where another process is at it."""
        with claimed(self.folder) as free:
            if not free:
                return None
            if self.folder.exists():
                return False
            write_entry(self.folder, self.key, self.make(self.one), self.precision)
            return True


def remove_begun_by(cache: Path, process: int) -> None:
    """Removes what a process that was ended on this machine has left: entries half written, locks without holder."""
    for path in cache.glob(f".*.{process}.*"):
        if _IN_THE_MAKING.fullmatch(path.name):
            shutil.rmtree(path, ignore_errors=True)
    with suppress(UserError):  # no locks
        for path in cache.glob(".*.lock"):
            if _IN_THE_MAKING.fullmatch(path.name) and (lock := claim(path)) is not None:
                give_up(lock, path)


def remove_abandoned(cache: Path) -> None:
    """Removes what processes that were killed have left in a cache: entries in the making for more than a day.

    Their process may have been one of another machine, so that its number does not tell whether it lives.
    """
    for path in filter(lambda path: _IN_THE_MAKING.fullmatch(path.name), cache.glob(".*")):
        with suppress(OSError):
            if time.time() - path.stat().st_mtime < _ABANDONED_S:
                continue
            if path.is_dir():
                shutil.rmtree(path, ignore_errors=True)
            else:
                path.unlink()


def fault_of(folder: Path) -> str:
    """Returns what is wrong with an entry; "" where nothing is.

    Every file has the size and the bytes at its beginning, middle and end that were written. All bytes are not read: a
    digest of 285 cases of BraTS, 19 GB, would take half a minute of each start, and longer from a cold disk.
    """
    try:
        marks = json.loads((folder / _CASE).read_bytes())["marks"]
        damaged = [name for name, mark in marks.items() if _mark(folder / name) != mark]
    except (OSError, ValueError, KeyError, TypeError, AttributeError):
        return f"{_CASE} or a file that it names cannot be read"
    return f"{damaged[0]} is not what was written" if damaged else ""


def removed_if_damaged(folder: Path) -> bool:
    """Tells whether an entry was damaged; then it is removed, and that is said."""
    fault = fault_of(folder)
    if fault:
        warnings.warn(f"the cache entry {folder} is damaged ({fault}); it is made anew", stacklevel=3)
        aside = folder.with_name(f".{folder.name}.damaged-{os.getpid()}")
        try:
            os.rename(folder, aside)  # at once, for other processes
        except OSError as error:
            raise UserError(
                f"{folder} is damaged ({fault}) and cannot be removed ({error.strerror}); remove it"
            ) from error
        shutil.rmtree(aside, ignore_errors=True)
    return bool(fault)


def _mark(path: Path) -> str:
    """Returns the size of a file and a digest of its beginning, middle and end."""
    size, digest = path.stat().st_size, hashlib.blake2b(digest_size=16)
    with path.open("rb") as file:
        for start in (0, size // 2, size - _BLOCK):
            file.seek(max(0, start))
            digest.update(file.read(_BLOCK))
    return f"{size} bytes {digest.hexdigest()}"


def read_prepared(folder: str | Path) -> CachedCase:
    """The prepared case in one folder of a cache."""
    folder = Path(folder)
    facts = json.loads((folder / _CASE).read_text())
    key, _ = facts.pop("key"), facts.pop("marks")
    return CachedCase(folder, key, CaseFacts(**{k: tuples(v) for k, v in facts.items()}))


def write_entry(folder: Path, key: str, prepared: Prepared, precision: str) -> None:
    """Writes an entry in one piece; where another process was first, its entry stays (the content is the same)."""
    partial = folder.with_name(f".{folder.name}.{os.getpid()}.{secrets.token_hex(4)}")
    try:
        partial.mkdir()
        _save(partial / "image.npy", prepared.image, precision)
        if prepared.label is not None:
            _save(partial / "label.npy", prepared.label)
        for name in ("tumor", "brain", "beyond"):
            _save(partial / f"{name}.npy", getattr(prepared, name))
        marks = {path.name: _mark(path) for path in sorted(partial.iterdir())}
        (partial / _CASE).write_text(json.dumps({"key": key, "marks": marks, **asdict(prepared.facts)}, indent=1))
        try:
            os.rename(partial, folder)
        except OSError:
            if not (folder / _CASE).is_file():
                raise
    except OSError as error:
        raise OutputError(
            f"{folder} cannot be written ({error.strerror}); free space or choose another cache"
        ) from error
    finally:
        shutil.rmtree(partial, ignore_errors=True)


def _save(path: Path, array: np.ndarray, precision: str = "") -> None:
    """Writes a .npy file, rounded to a precision where one is named; `numpy.save` would not say why it cannot."""
    form = as_written(array[:0], precision).dtype if precision else array.dtype
    header = np.lib.format.header_data_from_array_1_0(np.empty(0, form)) | {"shape": array.shape}
    planes = max(1, _AT_ONCE // max(1, math.prod(array.shape[1:])))
    with path.open("wb") as file:
        np.lib.format.write_array_header_1_0(file, header)
        for first in range(0, len(array), planes):
            some = np.ascontiguousarray(array[first : first + planes])
            file.write((as_written(some, precision) if precision else some).data)
