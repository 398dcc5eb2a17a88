"""Claims on names in a folder that processes share, on one machine or several: locks of the operating system.

A claim ends with the process that holds it, even one that is killed. Its file goes with it where it is given up.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

from filelock import FileLock, Timeout

from jaxfuse.errors import UserError


class _Removed(Exception):
    """The lock's file was removed by its last holder, so that another process may lock a new one of that name."""


def claim(path: Path) -> FileLock | None:
    """Claims what a file stands for; None where another process, or another caller in this one, holds it.

    The folder is made if need be. The claim is given up by `give_up`.

    Raises:
        UserError: the file system has no locks.
    """
    return _acquired(path, blocking=False)


def give_up(lock: FileLock, path: Path) -> None:
    """Ends a claim and removes its file."""
    path.unlink(missing_ok=True)
    lock.release()


@contextmanager
def alone(path: Path) -> Iterator[None]:
    """Waits until no other process is inside, and keeps others out; the file stays.

    Raises:
        UserError: the file system has no locks.
    """
    lock = _acquired(path, blocking=True)
    try:
        yield
    finally:
        if lock is not None:
            lock.release()


@contextmanager
def claimed(path: Path) -> Iterator[bool]:
    """Claims what is to be made at a path, and says whether no other process has; its lock lies beside it meanwhile.

    A file system without locks lets all: each makes it then.
    """
    beside = _beside(path)
    try:
        lock = claim(beside)
    except UserError:
        yield True
        return
    try:
        yield lock is not None
    finally:
        if lock is not None:
            give_up(lock, beside)


@contextmanager
def in_turn(path: Path) -> Iterator[None]:
    """Waits until no other process is at a file, and keeps others waiting, where the file system has locks."""
    beside = _beside(path)
    try:
        lock = _acquired(beside, blocking=True)
    except UserError:
        lock = None
    try:
        yield
    finally:
        if lock is not None:
            give_up(lock, beside)


def _beside(path: Path) -> Path:
    return path.with_name(f".{path.name}.lock")


def _acquired(path: Path, *, blocking: bool) -> FileLock | None:
    while True:
        # Without the fallback: a file in place of a lock would outlive a process that is killed.
        lock = FileLock(
            path, thread_local=False, fallback_to_soft=False, preserve_lock_file=True, on_acquired=_there(path)
        )
        try:
            path.parent.mkdir(parents=True, exist_ok=True)
            lock.acquire(blocking=blocking)
        except Timeout:
            return None
        except (_Removed, FileNotFoundError):
            continue
        except OSError as error:
            raise UserError(
                f"the lock {path} cannot be had ({error.strerror}), without which calls cannot share a folder; name "
                "another folder, or let one call do all cases"
            ) from error
        return lock


def _there(path: Path) -> Callable[[int], None]:
    """Returns a check that a lock's file is still the one of its name."""

    def check(descriptor: int) -> None:
        try:
            named = os.stat(path)
        except FileNotFoundError:
            raise _Removed from None
        if not os.path.samestat(named, os.fstat(descriptor)):
            raise _Removed

    return check
