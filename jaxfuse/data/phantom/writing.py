"""What the writers of volume phantoms share: a checked grid, files of repeatable bytes, a data set in one piece."""

from __future__ import annotations

import gzip
import io
from collections.abc import Callable, Sequence
from pathlib import Path

import nibabel as nib
import numpy as np
from jaxtyping import Float, Shaped

from jaxfuse.data.phantom.record import write_once
from jaxfuse.errors import UserError


def check_view(shape: Sequence[int], spacing_mm: float, least_mm: Sequence[float]) -> None:
    """Refuses a grid that is not three-dimensional, or whose leading axes do not span `least_mm`."""
    if len(shape) != 3 or min(shape) < 1 or not spacing_mm > 0:
        raise UserError(
            f"a phantom needs three sizes and a positive spacing; came shape {tuple(shape)} and {spacing_mm} mm"
        )
    seen = shape[: len(least_mm)]
    if any(n * spacing_mm < least for n, least in zip(seen, least_mm, strict=True)):
        need = max(least / n for n, least in zip(seen, least_mm, strict=True))
        raise UserError(
            f"a phantom head needs {_sides(least_mm)} mm; {_sides(seen)} voxels of {spacing_mm:g} mm span "
            f"{_sides([n * spacing_mm for n in seen])}: use a spacing of at least {need:.2f} mm"
        )


def write_nifti(path: Path, array: Shaped[np.ndarray, "d h w"], affine: Float[np.ndarray, "4 4"]) -> None:
    """Writes NIfTI-1, `.nii.gz` gzipped without time or name, so that equal voxels give equal bytes; `.nii` plainly."""
    image = nib.Nifti1Image(array, affine)  # pyright: ignore[reportPrivateImportUsage]
    image.header.set_xyzt_units("mm")
    image.set_sform(affine, code=1)
    image.set_qform(affine, code=1)
    if path.suffix == ".nii":
        path.write_bytes(image.to_bytes())
        return
    packed = io.BytesIO()
    with gzip.GzipFile(filename="", mode="wb", fileobj=packed, mtime=0, compresslevel=4) as stream:
        stream.write(image.to_bytes())
    path.write_bytes(packed.getvalue())


def write_cases(
    root: Path,
    write_case: Callable[[Path, int], None],
    *,
    generator: str,
    version: int,
    cases: int,
    seed: int,
    shape: tuple[int, int, int],
    spacing_mm: float,
    on_case: Callable[[int, int], None] | None,
) -> None:
    """Has `write_case(folder, index)` write every case of a data set, in one piece (`record.write_once`).

    Raises `UserError` where `root` holds something else, for no case and for a negative seed.
    """
    if cases < 1 or seed < 0:
        raise UserError(f"phantoms need at least 1 case and a seed of at least 0; came {cases} and {seed}")
    request = {
        "generator": generator,
        "version": version,
        "cases": cases,
        "seed": seed,
        "shape": [int(n) for n in shape],
        "spacing_mm": float(spacing_mm),
    }

    def fill(partial: Path) -> None:
        for index in range(cases):
            write_case(partial, index)
            if on_case is not None:
                on_case(index + 1, cases)

    write_once(root, request, fill)


def _sides(values: Sequence[float]) -> str:
    return " x ".join(f"{value:g}" for value in values)
