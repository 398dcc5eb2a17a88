"""Files of weights, by their ends: of PyTorch, of NumPy, and safetensors."""

from __future__ import annotations

from pathlib import Path

import ml_dtypes
import numpy as np

from jaxfuse.errors import UserError
from jaxfuse.io.safetensors import read_safetensors
from jaxfuse.weights.lines import Arrays
from jaxfuse.weights.pickled import read_pickled

TORCH = (".pth", ".pt", ".pkl", ".ckpt", ".bin", ".tar")
# Kinds of NumPy's types: floating point, whole numbers, and truth values.
_NUMBERS = "fiub"


def read_weights_file(path: Path) -> Arrays:
    """Reads all tensors of a file by their names; nothing that the file says is run.

    Raises:
        UserError: the file is not there, damaged, of no kind that is known, or asks for more than tensors.
    """
    if path.suffix == ".safetensors":
        found = read_safetensors(path).arrays
    elif path.suffix == ".npz":
        found = _read_npz(path)
    elif path.suffix in TORCH:
        found = read_pickled(path)
    else:
        raise UserError(
            f"{path} ends in {path.suffix or 'nothing'!r}; weights are read of .safetensors, .npz, and PyTorch's "
            f"{', '.join(TORCH)}"
        )
    for name, array in found.items():
        if array.dtype.kind not in _NUMBERS and array.dtype != ml_dtypes.bfloat16:
            raise UserError(f"{path} holds {name}, an array of {array.dtype}; weights are numbers; name their file")
    return found


def _read_npz(path: Path) -> Arrays:
    try:
        with path.open("rb") as opened, np.load(opened, allow_pickle=False) as file:
            return {name: np.asarray(file[name]) for name in file.files}
    except OSError as error:
        raise UserError(f"{path} cannot be read ({error.strerror or error}); name a file of weights") from error
    # A file that is none, or was cut, can end in any error of NumPy's and its archives'.
    except Exception as error:
        raise UserError(
            f"{path} is no whole file of arrays ({' '.join(str(error).split())[:100]}); fetch it again, or name a file "
            "of weights"
        ) from error
