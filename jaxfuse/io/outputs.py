"""Files that a command writes: never among what it reads, and never over a file that it did not write.

A hidden record in the output folder lists each file that was written there, by the digest of its content. A file that
somebody else put there, or has changed since, is not in it, and is kept unless the user says otherwise. The same
command may so be called over its own outputs again.
"""

from __future__ import annotations

import errno
import json
import os
import platform
import re
import secrets
import shutil
import threading
from collections.abc import Callable, Collection, Iterable, Iterator, Mapping, Sequence
from contextlib import AbstractContextManager, contextmanager, nullcontext, suppress
from dataclasses import dataclass, field, replace
from pathlib import Path

from jaxfuse.errors import OutputError, UserError
from jaxfuse.io.whole_file import at, file_digest

RECORD = ".jaxfuse-written"
OVERWRITE = "overwrite"
OVERWRITE_HELP = "Replace files in the output folder that are there and were not written by jaxfuse, or were changed."

# What a sentence calls a place -> the file or folder that is read there.
Read = tuple[str, Path]

_STAGED = re.compile(r"\.unfinished-(.+)-(\d+)-[0-9a-f]{8}")
_NO_ROOM = {errno.ENOSPC, errno.EDQUOT, errno.EROFS, errno.EFBIG, errno.EIO}


@dataclass(frozen=True)
class Outputs:
    """The files that one call may write, all of which were found to be absent or its own.

    Threads may write at once, each its own files.

    Attributes:
        folder: absolute path of the folder that they lie in; it is made with the first of them.
        option: the option that names it, for sentences.
        names: paths of the files, relative to the folder, with forward slashes.
        overwrite: also replace files that are not its own.
        staged_in: the folder in which files are prepared, where it is not that in which they will lie.
        guard: gives what is held while files take their places, where other processes write into the folder.
    """

    folder: Path
    option: str
    names: frozenset[str]
    overwrite: bool
    staged_in: Path | None = None
    guard: Callable[[], AbstractContextManager[None]] = nullcontext
    _turn: threading.RLock = field(default_factory=threading.RLock, repr=False, compare=False)
    _made: list[Path] = field(default_factory=list, repr=False, compare=False)

    @contextmanager
    def together(self) -> Iterator[Path]:
        """Gives an empty folder for files that appear in the output folder together, once all are written.

        Where anything is raised none of them appears, and the output folder is as it was.

        Raises:
            OutputError: the disk is full, or cannot be written any more.
            UserError: somebody has put a file into the place of one of them meanwhile.
        """
        place = self.staged_in or self.folder
        staged = place / f".unfinished-{platform.node()}-{os.getpid()}-{secrets.token_hex(4)}"
        try:
            with self._turn:  # another thread may be about to remove a folder that was made in vain
                self._made.extend(folder for folder in (place, *place.parents) if not folder.exists())
                staged.mkdir(parents=True)
            yield staged
            with self._turn, self.guard():
                self._move(staged)
        except UserError as error:
            raise type(error)(str(error).replace(str(staged), str(self.folder))) from error
        except OSError as error:
            if error.errno not in _NO_ROOM:
                raise
            raise OutputError(_unwritable(self.folder, error, self.option)) from error
        finally:
            shutil.rmtree(staged, ignore_errors=True)
            with self._turn, suppress(OSError):  # of a folder that holds something
                for folder in self._made:
                    folder.rmdir()

    def check(self) -> None:
        """Refuses to go on where one of the files is there and is not our own."""
        if self.overwrite:
            return
        # Looked at twice, as another process may write into the folder: it notes its files before they are there.
        if foreign := self._foreign(self._foreign(sorted(self.names))):
            foreign = [self.folder / name for name in foreign]
            more = f" (and {len(foreign) - 1} more)" if len(foreign) > 1 else ""
            raise UserError(
                f"{foreign[0]}{more} is there and was not written by jaxfuse, or was changed since; move it, name "
                f"another {self.option}, or pass --{OVERWRITE} to replace it"
            )

    def _foreign(self, names: Sequence[str]) -> list[str]:
        """Names those of the files that are there and not our own."""
        record = _recorded(self.folder) if names else {}
        places = {name: self.folder / name for name in names}
        return [
            name for name, path in places.items() if os.path.lexists(path) and not _is_own(path, record.get(name, ()))
        ]

    def _move(self, staged: Path) -> None:
        files = sorted(path for path in staged.rglob("*") if path.is_file())
        moved = {path.relative_to(staged).as_posix(): path for path in files}
        if unknown := moved.keys() - self.names:
            raise ValueError(f"files were written that were not announced: {', '.join(sorted(unknown))}")
        replace(self, names=frozenset(moved)).check()
        # Noted before they are there: a call that is killed in between still knows its own.
        _note(self.folder, {name: file_digest(path) for name, path in moved.items()})
        for name, path in moved.items():
            (self.folder / name).parent.mkdir(parents=True, exist_ok=True)
            os.replace(path, self.folder / name)


def open_outputs(
    folder: Path | str, option: str, *, reads: Sequence[Read], names: Iterable[str], overwrite: bool = False
) -> Outputs:
    """Checks all that can be checked of the files that a call is to write in a folder; nothing is written.

    Args:
        option: the option that names the folder, such as "--output".
        reads: the files and folders that the call reads.
        names: the files that it writes, relative to the folder.

    Raises:
        UserError: the folder is, holds or lies within a folder that is read, two files have one name, a file is there
            that is not our own, is a folder, or is read; or nothing can be written there.
    """
    names, folder = list(names), Path(folder).absolute()
    outputs = Outputs(folder, option, frozenset(names), overwrite)
    keep_apart(folder, option, reads)
    if twice := sorted({name for name in names if names.count(name) > 1} if len(outputs.names) < len(names) else ()):
        raise UserError(f"two cases would be written to {folder / twice[0]}; give their files different names")
    check_writable(folder, option)
    _check_places(outputs, reads)
    outputs.check()
    _remove_leavings(folder)
    return outputs


def keep_apart(folder: Path, option: str, reads: Sequence[Read]) -> None:
    """Refuses an output folder that is, holds or lies within a folder that is read.

    Links and `..` are followed, and folders compared as the file system does, which may not heed upper and lower case.
    """
    own = _identities(folder)
    for what, read in reads:
        other = _identities(read)
        if not Path(read).is_dir():
            continue
        if other[0] == own[0]:
            relation = "is"
        elif other[0] in own:
            relation = "lies within"
        elif own[0] is not None and own[0] in other:
            relation = "holds"
        else:
            continue
        raise UserError(
            f"{option} {folder} {relation} {what} {read}, and nothing is written among what is read; name a folder "
            "elsewhere"
        )


def keep_whole(folder: Path, option: str, *, own: bool, kind: str) -> None:
    """Refuses a folder that something else is in already, where a command is to own the whole folder.

    Args:
        own: whether what is there is the command's own.
        kind: what the folder would have to hold then, such as "run of jaxfuse".
    """
    if own or not folder.is_dir():
        return
    if others := sorted(path.name for path in folder.iterdir() if not path.name.startswith(".")):
        more = f" and {len(others) - 5} more" if len(others) > 5 else ""
        raise UserError(
            f"{folder} holds {', '.join(others[:5])}{more} and no {kind}; name a new or empty folder as {option}"
        )


def standing(folder: Path, names: Iterable[str]) -> dict[str, tuple[int, int]]:
    """The files of these names that are there, each with what tells whether it has been written since."""
    found = {}
    for name in names:
        with suppress(OSError):
            state = os.stat(folder / name)
            found[name] = state.st_ino, state.st_mtime_ns
    return found


def wrote(folder: Path, name: str) -> bool:
    """Whether a call has written a file of this name, which is there."""
    return (folder / name).is_file() and name in _recorded(folder)


def remove_outdated(folder: Path, before: Mapping[str, tuple[int, int]]) -> tuple[list[str], list[str]]:
    """Removes files that an earlier call has written, and that stand as they did before this one.

    Returns:
        The names of those removed, and of those kept: somebody has changed them.
    """
    record, removed, kept = _recorded(folder), list[str](), list[str]()
    for name in (name for name, state in standing(folder, before).items() if state == before[name] and name in record):
        own = _is_own(folder / name, record[name])
        if own:
            (folder / name).unlink()
        (removed if own else kept).append(name)
    return removed, kept


def folder_read(option: str, root: Path, files: Iterable[Path] = ()) -> list[Read]:
    """Returns the folder `root` as one that is read, and the folders that links among its files lead to."""
    inside = Path(os.path.realpath(root))
    beyond = {Path(os.path.realpath(path)).parent for path in files}
    return [
        (option, root),
        *((f"what a link in {option} leads to,", path) for path in sorted(beyond) if not path.is_relative_to(inside)),
    ]


def check_writable(folder: Path, option: str) -> None:
    """Refuses a folder that cannot be written; it need not be there, and is not made."""
    there = next(path for path in (folder, *folder.parents) if os.path.lexists(path))
    probe = there / f".probe-{os.getpid()}-{secrets.token_hex(4)}"
    try:
        probe.touch()
        probe.unlink()
    except OSError as error:
        raise OutputError(_unwritable(folder, error, option)) from error


def _check_places(outputs: Outputs, reads: Sequence[Read]) -> None:
    """Refuses a file whose place is a folder, is a file that is read, or lies in a folder that is read, by a link."""
    read = {identity: path for _, path in reads if path.is_file() and (identity := _identities(path)[0])}
    paths = [outputs.folder / name for name in sorted(outputs.names)]
    for folder in {path.parent for path in paths} - {outputs.folder}:
        keep_apart(folder, outputs.option, reads)
    for path in paths:
        try:
            found = os.stat(path)
        except (FileNotFoundError, NotADirectoryError):
            continue
        except OSError as error:
            raise OutputError(_unwritable(path, error, outputs.option)) from error
        if path.is_dir():
            raise UserError(f"{path} is a folder, and a file is to be written there; name another {outputs.option}")
        if taken := read.get((found.st_dev, found.st_ino)):
            raise UserError(f"{outputs.option} {path} would replace {taken}, which is read; name another")


def _identities(path: Path) -> list[tuple[int, int] | None]:
    """The file system's own name of a path, and of each folder above it; None where it is not there."""
    real, found = Path(os.path.realpath(path)), []
    for one in (real, *real.parents):
        try:
            state = os.stat(one)
        except OSError:
            found.append(None)
        else:
            found.append((state.st_dev, state.st_ino))
    return found


def _recorded(folder: Path) -> dict[str, set[str]]:
    """Reads the digests of each file that was written in a folder; a line that was cut short is passed over."""
    try:
        lines = (folder / RECORD).read_text(encoding="utf-8", errors="replace").splitlines()
    except OSError:
        return {}
    record: dict[str, set[str]] = {}
    for line in lines:
        with suppress(ValueError, TypeError):
            name, digest = json.loads(line)
            record.setdefault(str(name), set()).add(str(digest))
    return record


def _note(folder: Path, digests: dict[str, str]) -> None:
    known = _recorded(folder)
    # The line's end comes first, so that a line that was cut short spoils no other.
    lines = [f"\n{json.dumps([name, one])}" for name, one in digests.items() if one not in known.get(name, ())]
    path = folder / RECORD
    with at(path), path.open("a", encoding="utf-8") as file:
        file.write("".join(lines))


def _is_own(path: Path, digests: Collection[str]) -> bool:
    try:
        return bool(digests) and path.is_file() and file_digest(path) in digests
    except OSError:
        return False


def _remove_leavings(folder: Path) -> None:
    """Removes what calls on this machine that were killed had not finished."""
    if os.name != "posix" or not folder.is_dir():
        return
    for path in folder.iterdir():
        if (found := _STAGED.fullmatch(path.name)) and found[1] == platform.node() and not _runs(int(found[2])):
            shutil.rmtree(path, ignore_errors=True)


def _runs(process: int) -> bool:
    try:
        os.kill(process, 0)  # asks, and sends nothing
    except ProcessLookupError:
        return False
    except OSError:
        return True
    return True


def _unwritable(path: Path, error: OSError, option: str) -> str:
    advice = "free space or " if error.errno in (errno.ENOSPC, errno.EDQUOT) else ""
    return f"{path} cannot be written ({error.strerror}); {advice}name another with {option}"
