"""Zip files of results, as online evaluations take them: flat, each file by its own name."""

from __future__ import annotations

import zipfile
from collections.abc import Iterable
from pathlib import Path

from jaxfuse.errors import UserError

# Nothing in the zip tells when it was made, so that equal files give equal bytes.
_NO_TIME = (1980, 1, 1, 0, 0, 0)


def check_name(path: Path, option: str) -> None:
    """Refuses a file that is not called a zip file."""
    if path.suffix.lower() != ".zip":
        raise UserError(f"{option} {path} does not end in .zip; name the zip file to write")


def write_zip(path: Path, files: Iterable[Path]) -> None:
    """Writes these files into a new zip file, without folders and in the order of their names.

    They are stored as they are: label maps are compressed already.
    """
    with zipfile.ZipFile(path, "w", zipfile.ZIP_STORED) as archive:
        for file in sorted(files, key=lambda file: file.name):
            archive.writestr(zipfile.ZipInfo(file.name, _NO_TIME), file.read_bytes())
