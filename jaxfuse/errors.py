"""The exceptions that a user is meant to read, and failures of the machine in the same words."""

from __future__ import annotations

import errno
import os
import traceback

_NO_SPACE = {errno.ENOSPC, errno.EDQUOT, errno.EFBIG}
# What a run exits with that has lost one of its processes: the same command goes on (EX_TEMPFAIL of sysexits.h).
PROCESS_LOST = 75
# What a disk, its rights or its limits refuse. Other errors of the operating system are the program's own.
_OF_THE_DISK = _NO_SPACE | {errno.EROFS, errno.EACCES, errno.EPERM, errno.EIO, errno.EMFILE, errno.ESTALE}
_OF_THE_DISK |= {errno.ENAMETOOLONG}


class UserError(ValueError):
    """A mistake at the border: one plain sentence says what came, what was expected and what to do.

    Commands print it on standard error, without traceback, and exit with code 2. Whoever uses the library may catch
    it as a ValueError.
    """


class OutputError(UserError):
    """A place that cannot be written, such as a full disk: other cases would meet it as well."""


class Unfinished(Exception):
    """Work that ends before its end, with a code of exit; what was done stays.

    Commands print the message on standard error.
    """

    def __init__(self, message: str, exit_code: int) -> None:
        super().__init__(message)
        self.exit_code = exit_code


class Stopped(Unfinished):
    """A run that ends before its end and can be resumed.

    Its exit code is 128 + the number of the signal that stopped it; `PROCESS_LOST` where another of its processes is
    gone; or 1, because its numbers are no longer finite.
    """


class CasesLeftOut(Unfinished):
    """A batch of which some cases could not be done; the message lists all of them.

    Its exit code is 1, or 2 where none was done.
    """


def machine_sentence(error: BaseException) -> str:
    """Returns a sentence for a failure of the machine: its disk, its memory or its devices; "" for another error."""
    told = " ".join(str(error).split())
    if isinstance(error, OSError) and error.errno in _OF_THE_DISK:
        where, reason = error.filename or "a file", error.strerror or os.strerror(error.errno)
        advice = "free space" if error.errno in _NO_SPACE else "mend that, or name another folder"
        return f"{where} cannot be read or written ({reason}); {advice}, and call again: what was saved is kept"
    if isinstance(error, MemoryError) or "RESOURCE_EXHAUSTED" in told:
        said = f" ({told.removeprefix('RESOURCE_EXHAUSTED: ')[:200]})" if told else ""
        return f"memory is too small{said}; use a smaller patch, batch or tile_batch, and call again"
    if "nable to initialize backend" in told or _raised_in(error, "jax._src.xla_bridge"):
        asked = os.environ.get("JAX_PLATFORMS", "")
        return (
            f"JAX_PLATFORMS is {asked!r}, which this machine or installation lacks; unset it, set it to cpu, or "
            "install jaxfuse[cuda] for an NVIDIA GPU"
        )
    return ""


def _raised_in(error: BaseException, module: str) -> bool:
    """Tells whether an error began in a module; JAX asserts that it found the platform that was asked for."""
    *_, (frame, _) = [(None, 0), *traceback.walk_tb(error.__traceback__)]
    return frame is not None and frame.f_globals.get("__name__") == module
