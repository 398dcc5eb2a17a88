"""Several arrays by name in one compressed file."""

from __future__ import annotations

import io
import os
import secrets
from pathlib import Path

import numpy as np

from jaxfuse.errors import UserError


def write_npz(path: str | Path, **arrays: np.ndarray) -> None:
    """Writes the arrays under their names; the folder is made if need be.

    The file appears in one piece or not at all, and equal arrays give equal bytes.
    """
    path = Path(path)
    packed = io.BytesIO()
    np.savez_compressed(packed, allow_pickle=False, **arrays)
    partial = path.with_name(f".{path.name}.{os.getpid()}.{secrets.token_hex(4)}")
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        try:
            partial.write_bytes(packed.getvalue())
            os.replace(partial, path)
        finally:
            partial.unlink(missing_ok=True)
    except OSError as error:
        raise UserError(f"{path} cannot be written ({error.strerror}); free space or name another folder") from error
