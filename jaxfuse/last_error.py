"""The last error of a command, kept for `jaxfuse env`, in the folder of the user's own caches; nothing leaves it."""

from __future__ import annotations

import datetime
import json
import os
from collections.abc import Mapping
from pathlib import Path

import jaxfuse
from jaxfuse import surroundings
from jaxfuse.errors import OutputError
from jaxfuse.io.whole_file import utf8, write_whole

_FILE = "last_error.json"
_LENGTH = 20_000


def place() -> Path | None:
    """Returns the file; None where no home folder is known.

    It does not lie in JAXFUSE_CACHE, which several users may share.
    """
    try:
        return Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "jaxfuse" / _FILE
    except RuntimeError:
        return None


def keep(told: str) -> None:
    """Keeps a sentence or a traceback in place of the one before, with the command, the time and the version."""
    file = place()
    if file is None:
        return
    noted = {
        "time": datetime.datetime.now(datetime.UTC).isoformat(timespec="seconds"),
        "version": jaxfuse.__version__,
        "command": surroundings.command(),
        "told": told[-_LENGTH:],
    }
    try:
        write_whole(file, utf8(json.dumps(noted, indent=1) + "\n"))
    except OutputError:
        return  # the error that is told is another, and it has been told: a full or read-only home adds nothing


def kept() -> Mapping[str, str]:
    """Returns what was kept last; empty where nothing was, or what lies there cannot be read."""
    file = place()
    try:
        noted = json.loads(file.read_text(encoding="utf-8")) if file else {}
    except (OSError, ValueError):
        return {}
    return noted if isinstance(noted, dict) else {}
