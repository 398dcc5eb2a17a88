"""Compiled programs kept on disk by JAX, without those that a kill or a full disk has cut short.

JAX writes an entry in place, warns of one that it cannot read, compiles its program anew, and keeps the entry that is
there: a program that was cut once would be compiled in every start from then on.
"""

from __future__ import annotations

import importlib
import zlib
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path

from jaxfuse.errors import UserError
from jaxfuse.io.tables import read_json, write_json

# The ending of JAX's entries, and the file that notes the size of each that was found whole.
_ENTRY, NOTED = "-cache", "whole.json"


def remove_cut(folder: Path) -> list[str]:
    """Removes entries that JAX cannot read, and returns their names. Each entry is looked at once, when it is new.

    A folder that cannot be read or written stays as it is: without its entries all goes on, if later.
    """
    try:
        sizes = {path.name: path.stat().st_size for path in folder.glob(f"*{_ENTRY}")}
        known = _noted(folder / NOTED)
        cut = [name for name, size in sizes.items() if known.get(name) != size and not _is_whole(folder / name)]
        for name in cut:
            (folder / name).unlink(missing_ok=True)
        whole = {name: size for name, size in sizes.items() if name not in cut}
        if whole != known:
            write_json(folder / NOTED, whole)
    except (OSError, UserError):
        return []
    return cut


def _noted(path: Path) -> dict[str, int]:
    found = read_json(path) if path.is_file() else {}
    return found if isinstance(found, dict) else {}


def _is_whole(path: Path) -> bool:
    content = path.read_bytes()
    try:
        _decompressor()(content)
    except Exception:  # each library has errors of its own
        return False
    return True


def _decompressor() -> Callable[[bytes], bytes]:
    """Returns the function by which JAX reads its entries: it takes Zstandard where that is installed."""
    for name in ("compression.zstd", "zstandard"):
        with suppress(ImportError):
            return importlib.import_module(name).decompress
    return zlib.decompress
