"""Files that appear in one piece or not at all, and the digest that tells one content from another."""

from __future__ import annotations

import hashlib
import os
import re
import secrets
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from jaxfuse.errors import OutputError

# Name of a file that is being written: its own, the number of a process, and four random bytes.
_BEGUN = re.compile(r"\..+\.\d+\.[0-9a-f]{8}")


def write_whole(path: Path, content: bytes) -> None:
    """Writes beside the place and renames, so that no reader meets half a file; makes the folder if need be.

    Raises:
        OutputError: the place cannot be written; the old file is kept.
    """
    partial = path.with_name(f".{path.name}.{os.getpid()}.{secrets.token_hex(4)}")
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        try:
            partial.write_bytes(content)
            os.replace(partial, path)
        finally:
            partial.unlink(missing_ok=True)
    except OSError as error:
        raise OutputError(f"{path} cannot be written ({error.strerror}); free space or name another folder") from error


@contextmanager
def at(path: Path) -> Iterator[None]:
    """Gives errors of the disk their path: of one that fills while a file is written Python tells none."""
    try:
        yield
    except OSError as error:
        if error.filename is None:
            error.filename = str(path)
        raise


def remove_begun(folder: Path) -> None:
    """Removes files below a folder that a process which was killed had begun to write; nobody may be writing there."""
    for path in folder.rglob(".*"):
        if _BEGUN.fullmatch(path.name) and path.is_file():
            path.unlink(missing_ok=True)


def utf8(text: str) -> bytes:
    """Returns text in UTF-8, also where Python read names of files or arguments as ASCII and kept their bytes apart."""
    return text.encode("utf-8", "surrogateescape").decode("utf-8", "replace").encode("utf-8")


def file_digest(path: Path) -> str:
    """Returns the SHA-256 of a file's content, in hexadecimal."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()
