"""The place of prepared cases: a folder, the precision of the images in it, and the processes that fill it.

Half precision halves files and what training holds in memory. Images are rounded once, when they are written, and are
float32 again in every window that is cut from them. Normalized to mean 0 and deviation 1, an intensity below 8 changes
by at most 0.002 in float16 (11 bits) and 0.016 in bfloat16 (8 bits); one in [0, 1] by 0.00025 and 0.002.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

import ml_dtypes
import numpy as np
from jaxtyping import Float, Shaped

from jaxfuse.errors import UserError

FLOAT32, FLOAT16, BFLOAT16 = "float32", "float16", "bfloat16"
PRECISIONS: Mapping[str, np.dtype] = {
    FLOAT32: np.dtype(np.float32),
    FLOAT16: np.dtype(np.float16),
    BFLOAT16: np.dtype(ml_dtypes.bfloat16),
}
# A .npy file knows no bfloat16.
_TWO_BYTES = np.dtype("V2")


@dataclass(frozen=True)
class Shelf:
    """The place of prepared cases.

    Attributes:
        folder: of the cache.
        precision: of the images in it, a name of `PRECISIONS`.
        workers: processes that prepare what is missing; 1: this one alone; 0: as many as there are cores, memory and
            work for.
    """

    folder: Path
    precision: str = FLOAT32
    workers: int = 1


def shelf_of(cache: str | Path | Shelf) -> Shelf:
    """The shelf in a folder; one that is given is returned as it is."""
    return cache if isinstance(cache, Shelf) else Shelf(Path(cache))


def check_precision(where: str, name: object) -> None:
    """Refuses a precision that is not known; `where` names the option."""
    if name not in PRECISIONS:
        raise UserError(f"{where} is {name!r}; choose one of {', '.join(PRECISIONS)}")


def as_written(image: Float[np.ndarray, "*space m"], precision: str) -> Shaped[np.ndarray, "*space m"]:
    """An image in the form of its file."""
    rounded = image.astype(PRECISIONS[precision], copy=False)
    return rounded.view(_TWO_BYTES) if precision == BFLOAT16 else rounded


def as_read(array: Shaped[np.ndarray, ...]) -> Shaped[np.ndarray, ...]:
    """The inverse of `as_written`, up to rounding: an array of the precision that its file has, as a view."""
    return array.view(PRECISIONS[BFLOAT16]) if array.dtype == _TWO_BYTES else array
