"""Several arrays by name in one file."""

from __future__ import annotations

import io
from pathlib import Path

import numpy as np

from jaxfuse.io.whole_file import write_whole


def write_npz(path: str | Path, **arrays: np.ndarray) -> None:
    """Writes the arrays under their names; the folder is made if need be.

    The file appears in one piece or not at all, and equal arrays give equal bytes.
    """
    path = Path(path)
    packed = io.BytesIO()
    # However they lie in memory.
    ordered = {name: np.asarray(array, order="C") for name, array in arrays.items()}
    np.savez_compressed(packed, allow_pickle=False, **ordered)
    write_whole(path, packed.getvalue())


def write_loose_npz(path: Path, /, **arrays: np.ndarray) -> None:
    """Writes as `write_npz` does, but does not compress: for files that are soon read and removed."""
    packed = io.BytesIO()
    np.savez(packed, allow_pickle=False, **arrays)
    write_whole(path, packed.getvalue())
