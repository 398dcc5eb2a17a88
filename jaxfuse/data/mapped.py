"""Arrays on disk, mapped into memory."""

from __future__ import annotations

import threading
from pathlib import Path

import numpy as np

_ONE_AT_A_TIME = threading.Lock()


def open_mapped(path: Path) -> np.ndarray:
    """The array of a .npy file, read-only and mapped: only what is looked at is read.

    One thread at a time: NumPy parses a file's header with `ast`, which in CPython 3.11 fails now and then where two
    threads parse at once (python/cpython#106905).
    """
    with _ONE_AT_A_TIME:
        return np.load(path, mmap_mode="r")
