"""Files of weights, by their ends: of PyTorch, of NumPy, and safetensors."""

from __future__ import annotations

import zipfile
from pathlib import Path

import numpy as np

from jaxfuse.errors import UserError
from jaxfuse.io.safetensors import read_safetensors
from jaxfuse.weights.lines import Arrays
from jaxfuse.weights.pickled import read_pickled

TORCH = (".pth", ".pt", ".pkl", ".ckpt", ".bin", ".tar")


def read_weights_file(path: Path) -> Arrays:
    """Reads all tensors of a file by their names; nothing that the file says is run.

    Raises:
        UserError: the file is not there, damaged, of no kind that is known, or asks for more than tensors.
    """
    if path.suffix == ".safetensors":
        return read_safetensors(path).arrays
    if path.suffix == ".npz":
        return _read_npz(path)
    if path.suffix in TORCH:
        return read_pickled(path)
    raise UserError(
        f"{path} ends in {path.suffix or 'nothing'!r}; weights are read of .safetensors, .npz, and PyTorch's "
        f"{', '.join(TORCH)}"
    )


def _read_npz(path: Path) -> Arrays:
    try:
        with path.open("rb") as opened, np.load(opened, allow_pickle=False) as file:
            return {name: file[name] for name in file.files}
    except OSError as error:
        raise UserError(f"{path} cannot be read ({error.strerror or error}); name a file of weights") from error
    except (ValueError, EOFError, KeyError, zipfile.BadZipFile) as error:
        raise UserError(
            f"{path} is no whole file of arrays ({' '.join(str(error).split())[:100]}); fetch it again, or name a file "
            "of weights"
        ) from error
