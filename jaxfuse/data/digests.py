"""Content digests of files, remembered beside what was made from them."""

from __future__ import annotations

import hashlib
import json
import warnings
from pathlib import Path

from jaxfuse.data.cases import Image
from jaxfuse.errors import UserError
from jaxfuse.io.analyze import files_of
from jaxfuse.io.claims import in_turn
from jaxfuse.io.whole_file import write_whole


class Digests:
    """Digests by path, size and time of change, so that a restart reads no image; they are kept in the file `path`."""

    def __init__(self, path: Path):
        self._path = path
        self._known = self._read()
        self._new: dict[str, list] = {}

    def of(self, path: Path) -> str:
        """Stands for the content of a volume, which may be stored as a pair of files."""
        return "+".join(self._of_file(part) for part in files_of(path))

    def of_image(self, image: Image) -> str:
        """Stands for the content of an image: of its file and of twins, and the channel where the file has several."""
        channel = "" if image.channel is None else f"#{image.channel}"
        return "+".join(map(self.of, (image.path, *image.twins))) + channel

    def _of_file(self, path: Path) -> str:
        try:
            status = path.stat()
            where, state = str(path.resolve()), [status.st_size, status.st_mtime_ns]
            if where not in self._known or self._known[where][:2] != state:
                with path.open("rb") as file:
                    digest = hashlib.file_digest(file, lambda: hashlib.blake2b(digest_size=20)).hexdigest()
                self._known[where] = self._new[where] = [*state, digest]
        except OSError as error:
            raise UserError(f"{path} cannot be read ({error.strerror}); check the path") from error
        return self._known[where][2]

    def save(self) -> None:
        if self._new:
            # One process after the other, and read again: another may have added its own meanwhile.
            with in_turn(self._path):
                write_whole(self._path, json.dumps(self._read() | self._new).encode("utf-8"))
            self._new = {}

    def _read(self) -> dict[str, list]:
        if not self._path.is_file():
            return {}
        try:
            found = json.loads(self._path.read_text())
            if not isinstance(found, dict):
                raise ValueError("no object")
        except ValueError as error:
            warnings.warn(f"{self._path} is damaged ({error}); it is made anew", stacklevel=3)
            self._path.unlink()
            return {}
        return found
