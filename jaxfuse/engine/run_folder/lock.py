"""The lock on a workdir: one run at a time writes into it."""

from __future__ import annotations

import os
import platform
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from filelock import FileLock, Timeout

from jaxfuse.errors import UserError
from jaxfuse.io.folders import writable_folder
from jaxfuse.io.tables import read_json, write_json

# The lock itself, which stays, and what its holder says of itself, which goes with it.
LOCK, HOLDER = ".lock", ".lock.json"


@contextmanager
def locked(workdir: Path) -> Iterator[Path]:
    """Holds the lock on a workdir, which is made if need be, and gives its absolute path.

    It is a lock of the operating system, which ends with its holder, even one that is killed.

    Raises:
        UserError: another run holds the lock, or none can be had there; nothing in the folder was changed.
    """
    workdir = workdir.absolute()
    # Without the fallback: a file in place of a lock would outlive a run that is killed.
    lock = FileLock(workdir / LOCK, fallback_to_soft=False)
    try:
        workdir.mkdir(parents=True, exist_ok=True)
        lock.acquire(blocking=False)
    except Timeout:
        raise UserError(
            f"another run is going on in {workdir}{_holder(workdir)}; name another --workdir, or wait until it has "
            "ended"
        ) from None
    except OSError as error:
        writable_folder(workdir, "--workdir")  # says so where the folder is the reason
        raise UserError(
            f"the lock {workdir / LOCK} cannot be had ({error.strerror}), without which two runs could write into one "
            "folder; name another --workdir"
        ) from error
    try:
        write_json(workdir / HOLDER, {"process": os.getpid(), "host": platform.node()})
        yield workdir
    finally:
        (workdir / HOLDER).unlink(missing_ok=True)
        lock.release()


def _holder(workdir: Path) -> str:
    """Names the process that holds the lock, once it has said so."""
    try:
        holder = read_json(workdir / HOLDER)
    except (OSError, UserError):
        return ""
    return f" (process {holder['process']} on {holder['host']})"
