"""Cases that any number of calls share, which know of each other by their output folder alone.

A call claims a case by a lock of the operating system, which ends with it, even if it is killed: another call does the
case then. What is settled stands in the folder `.jaxfuse-shared` while the work goes on, and in the file
`.jaxfuse-shared.json` once all of it is done: whoever calls later finds the cases that are done.
"""

from __future__ import annotations

import hashlib
import json
import shutil
import time
from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import AbstractContextManager, suppress
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any, Protocol

from filelock import FileLock

from jaxfuse.data.cases import CaseFiles
from jaxfuse.errors import UserError
from jaxfuse.io import claims
from jaxfuse.io.outputs import Outputs
from jaxfuse.io.tables import read_json, write_json
from jaxfuse.io.whole_file import file_digest

SHARED = "shared"
SHARED_HELP = (
    "Share the cases with other calls that have the same options and --output, at once or later, on any machine: each "
    "takes the next one, and those of a call that was killed are done by the others."
)
FOLDER, RECORD = ".jaxfuse-shared", ".jaxfuse-shared.json"
_ORDER, _HOUSE = "order.json", "house.lock"
_LOOK_AGAIN_S = 0.5

Record = Mapping[str, Any]


class Cases(Protocol):
    """The cases that a call does, alone or among others."""

    def rounds(self) -> Iterator[Iterable[CaseFiles]]:
        """Yields the cases that are to be done now, and again where others have left some."""
        ...

    def settle(self, case: str, names: Iterable[str], note: Any) -> None:
        """Notes that a case is done: its files are written."""
        ...

    def refuse(self, case: str, sentence: str) -> None:
        """Notes that a case cannot be done."""
        ...

    def end(self, close: Callable[[], None]) -> None:
        """Ends the work, all of which is settled; of calls that share it one alone calls `close`."""
        ...

    @property
    def settled(self) -> Mapping[str, Record]:
        """Records of cases that are done (with a `note`) or `refused`, by this call or others."""
        ...


@dataclass(frozen=True)
class OwnCases:
    """Cases that no other call does."""

    files: Iterable[CaseFiles]
    settled: dict[str, Record] = field(default_factory=dict)

    def rounds(self) -> Iterator[Iterable[CaseFiles]]:
        yield self.files

    def settle(self, case: str, names: Iterable[str], note: Any) -> None:
        self.settled[case] = {"note": note}

    def refuse(self, case: str, sentence: str) -> None:
        self.settled[case] = {"refused": sentence}

    def end(self, close: Callable[[], None]) -> None:
        close()


@dataclass(frozen=True)
class SharedCases:
    """Cases of which this call does those that it claims.

    Attributes:
        files: by case.
        outputs: where they are written, as `writing_apart` gives it.
        order: what decides the files: runs, options, input. Calls of another order do not share them.
    """

    files: Mapping[str, CaseFiles]
    outputs: Outputs
    order: Record
    settled: dict[str, Record] = field(default_factory=dict)
    _held: dict[str, FileLock] = field(default_factory=dict)

    def __enter__(self) -> SharedCases:
        """Takes part in the work.

        Raises:
            UserError: calls of another order have not ended theirs, or the file system has no locks.
        """
        with self._house():
            path = self._folder / _ORDER
            found = read_json(path) if path.is_file() else None
            if found not in (None, self.order):
                raise UserError(
                    f"{self.outputs.folder} holds the unfinished work of calls of another order "
                    f"({_difference(found, self.order)}); let them end, name another {self.outputs.option}, or remove "
                    f"{self._folder} to give their work up"
                )
            merged = self._merged()
            if found is None and any("refused" in one for one in merged.values()):
                # What was refused in work that has ended is tried again.
                merged = {case: one for case, one in merged.items() if "refused" not in one}
                self._merge(merged)
            write_json(path, self.order)
            for case in self.files:
                record = self._noted(case) or merged.get(case)
                if record and self._holds(case, record):
                    self.settled[case] = record
                else:
                    self._place(case).unlink(missing_ok=True)
        return self

    def __exit__(self, *error: object) -> None:
        for case in list(self._held):
            self._give_up(case)

    def rounds(self) -> Iterator[Iterable[CaseFiles]]:
        while True:
            yield self._claimed()
            if self.settled.keys() >= self.files.keys():
                return
            time.sleep(_LOOK_AGAIN_S)

    def settle(self, case: str, names: Iterable[str], note: Any) -> None:
        digests = {name: file_digest(self.outputs.folder / name) for name in names}
        self._note(case, {"files": digests, "note": note})

    def refuse(self, case: str, sentence: str) -> None:
        self._note(case, {"refused": sentence})

    def end(self, close: Callable[[], None]) -> None:
        """Merges what all calls have settled; the first that comes calls `close`, and the others find it done."""
        with self._house():
            if any(map(self._noted, self.files)) or not self._merged().keys() >= self.files.keys():
                close()
                self._merge(self.settled)
            shutil.rmtree(self._folder, ignore_errors=True)

    def told(self) -> str:
        """Says how many cases are settled."""
        return f"{len(self.settled)} of {len(self.files)} cases are done already; all calls share the others"

    @property
    def _folder(self) -> Path:
        return self.outputs.folder / FOLDER

    def _house(self) -> AbstractContextManager[None]:
        return claims.alone(self._folder / _HOUSE)

    def _place(self, case: str) -> Path:
        return self._folder / f"{case}.json"

    def _lock(self, case: str) -> Path:
        return self._folder / f"{case}.lock"

    def _claimed(self) -> Iterator[CaseFiles]:
        """Claims one case after the other, each when it is asked for."""
        for case, files in self.files.items():
            if case in self._held or self._settled_elsewhere(case):
                continue
            if (lock := claims.claim(self._lock(case))) is None:
                continue
            self._held[case] = lock
            if self._settled_elsewhere(case):  # between the look and the claim
                self._give_up(case)
            else:
                yield files

    def _settled_elsewhere(self, case: str) -> bool:
        """Looks whether a case is settled by now, also by calls that have merged everything."""
        if case not in self.settled:
            record = self._noted(case)
            if record is None and not (self._folder / _ORDER).is_file():  # all are done, and were merged
                record = self._merged().get(case)
            if record and record["stamp"] == _stamp(self.files[case]):
                self.settled[case] = record
        return case in self.settled

    def _note(self, case: str, record: Record) -> None:
        self.settled[case] = {"stamp": _stamp(self.files[case]), **record}
        write_json(self._place(case), self.settled[case])
        self._give_up(case)

    def _give_up(self, case: str) -> None:
        if lock := self._held.pop(case, None):
            claims.give_up(lock, self._lock(case))

    def _noted(self, case: str) -> Record | None:
        """The record of a case while the work goes on."""
        with suppress(OSError, UserError):
            return read_json(self._place(case))
        return None

    def _merge(self, records: Mapping[str, Record]) -> None:
        write_json(self.outputs.folder / RECORD, {"order": self.order, "cases": records})

    def _merged(self) -> Mapping[str, Record]:
        """The records of all cases of this order, once the work is done."""
        with suppress(OSError, UserError):
            found = read_json(self.outputs.folder / RECORD)
            return found["cases"] if found["order"] == self.order else {}
        return {}

    def _holds(self, case: str, record: Record) -> bool:
        """Whether a record is true of the files on disk: those that were read, and those that were written."""
        if record.get("stamp") != _stamp(self.files[case]):
            return False
        with suppress(OSError):
            return all(file_digest(self.outputs.folder / name) == one for name, one in record.get("files", {}).items())
        return False


def writing_apart(outputs: Outputs) -> Outputs:
    """Returns outputs that several processes write: each prepares its files in the folder of the shared work.

    They appear, and are noted, one process at a time.
    """
    folder = outputs.folder / FOLDER
    return replace(outputs, staged_in=folder, guard=lambda: claims.alone(folder / _HOUSE))


def order_of(runs: Iterable[tuple[str, str]], root: Path, cases: Iterable[str], options: Mapping[str, Any]) -> Record:
    """Returns what decides the files of a call, as JSON has it.

    Args:
        runs: the name of each, and the digest of its weights.
        cases: all that are there, also those that cannot be done.
    """
    listed = hashlib.sha256("\n".join(cases).encode()).hexdigest()[:16]
    order = {"runs": list(runs), "input": str(root.resolve()), "cases": listed, **options}
    return json.loads(json.dumps(order))


def _stamp(files: CaseFiles) -> list[list[Any]]:
    """Names, sizes and times of a case's images, which tell whether they have changed since."""
    found = []
    for name, image in sorted(files.images.items()):
        state = image.path.stat() if image.path.exists() else None
        found.append([name, image.path.name, *([state.st_size, state.st_mtime_ns] if state else [])])
    return found


def _difference(there: Record | None, own: Record) -> str:
    there = there or {}
    names = [name for name in sorted({**there, **own}) if there.get(name) != own.get(name)]
    return "; ".join(f"{name}: {there.get(name)!r} there, {own.get(name)!r} now" for name in names)
