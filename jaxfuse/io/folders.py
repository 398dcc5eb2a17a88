"""Folders that a command writes to."""

from __future__ import annotations

import os
from pathlib import Path

from jaxfuse.errors import UserError


def writable_folder(path: Path | str, option: str) -> Path:
    """The absolute path of a folder, made if need be; refuses one that cannot be written, and names the `option`."""
    folder = Path(path).absolute()
    try:
        folder.mkdir(parents=True, exist_ok=True)
        probe = folder / f".probe-{os.getpid()}"
        probe.touch()
        probe.unlink()
    except OSError as error:
        raise UserError(
            f"the folder {folder} cannot be written ({error.strerror}); name another with {option}"
        ) from error
    return folder
