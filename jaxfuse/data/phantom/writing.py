"""Writing phantoms of volumes: a checked grid, files of repeatable bytes, a data set in one piece."""

from __future__ import annotations

import gzip
import io
import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Protocol, runtime_checkable

import nibabel as nib
import numpy as np
from jaxtyping import Float, Shaped, UInt8

from jaxfuse.data.phantom.fields import Grid
from jaxfuse.data.phantom.record import write_once
from jaxfuse.errors import UserError
from jaxfuse.io.whole_file import at


def check_view(shape: Sequence[int], spacing_mm: float, least_mm: Sequence[float]) -> None:
    """Refuses a grid that is not three-dimensional, or whose leading axes do not span `least_mm`."""
    if len(shape) != 3 or min(shape) < 1 or not spacing_mm > 0:
        raise UserError(
            f"a phantom needs three sizes and a positive spacing; came shape {tuple(shape)} and {spacing_mm} mm"
        )
    seen = shape[: len(least_mm)]
    if any(n * spacing_mm < least for n, least in zip(seen, least_mm, strict=True)):
        # Rounded up: the spacing that is told must do.
        need = math.ceil(100 * max(least / n for n, least in zip(seen, least_mm, strict=True)) - 1e-6) / 100
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
        with at(path):
            path.write_bytes(image.to_bytes())
        return
    packed = io.BytesIO()
    with gzip.GzipFile(filename="", mode="wb", fileobj=packed, mtime=0, compresslevel=4) as stream:
        stream.write(image.to_bytes())
    with at(path):
        path.write_bytes(packed.getvalue())


@runtime_checkable
class Make(Protocol):
    """Draws one case: images by modality, and the label in the values of its files."""

    def __call__(
        self, seed: int, index: int, *, shape: tuple[int, int, int], spacing_mm: float
    ) -> tuple[Mapping[str, Float[np.ndarray, "d h w"]], UInt8[np.ndarray, "d h w"]]: ...


# Folder of the data set, number of the case, its arrays by modality and "label", and its grid: writes the files.
Save = Callable[[Path, int, Mapping[str, Shaped[np.ndarray, "d h w"]], Grid], None]


@dataclass(frozen=True, kw_only=True)
class VolumePhantoms:
    """A phantom data set of volumes, written by calling it.

    Attributes:
        generator: name of the module that draws it, for `phantom.json`.
        version: number of the current cases; raised where they change.
        view_mm: least spans of the leading axes of the grid, so that they hold a head.
        shape, spacing_mm: the grid unless another is asked for.
        make: draws a case.
        save: writes its files. Images come as whole numbers, int16.
        place: number of a case -> its folder, or its first file, below the data set's folder.
        options: further settings that decide the cases, for `phantom.json`.
    """

    generator: str
    version: int
    view_mm: tuple[float, ...]
    shape: tuple[int, int, int]
    spacing_mm: float
    make: Make
    save: Save
    place: Callable[[int], Path]
    options: Mapping[str, float | str] = field(default_factory=dict)

    def __call__(
        self,
        root: Path,
        *,
        cases: int,
        seed: int,
        shape: tuple[int, int, int] | None = None,
        spacing_mm: float | None = None,
        on_case: Callable[[int, int], None] | None = None,
    ) -> list[Path]:
        """Writes `cases` phantoms under `root`, or finds them there; returns the `place` of each.

        The set is written into a hidden sibling folder and renamed when it is whole, with `phantom.json` beside the
        data. `on_case(done, total)` is called after every case.

        Raises:
            UserError: `root` holds something else, or an argument is out of range.
        """
        shape, spacing_mm = shape or self.shape, self.spacing_mm if spacing_mm is None else spacing_mm
        check_view(shape, spacing_mm, self.view_mm)
        if cases < 1 or seed < 0:
            raise UserError(f"phantoms need at least 1 case and a seed of at least 0; came {cases} and {seed}")
        grid = Grid((int(shape[0]), int(shape[1]), int(shape[2])), float(spacing_mm))
        request = {
            "generator": self.generator,
            "version": self.version,
            "cases": cases,
            "seed": seed,
            "shape": list(grid.shape),
            "spacing_mm": grid.spacing_mm,
            **self.options,
        }

        def fill(partial: Path) -> None:
            for index in range(cases):
                images, label = self.make(seed, index, shape=grid.shape, spacing_mm=grid.spacing_mm)
                whole = {modality: np.rint(image).astype(np.int16) for modality, image in images.items()}
                self.save(partial, index, {**whole, "label": label}, grid)
                if on_case is not None:
                    on_case(index + 1, cases)

        write_once(Path(root), request, fill)
        return [Path(root) / self.place(index) for index in range(cases)]


def _sides(values: Sequence[float]) -> str:
    return " x ".join(f"{value:g}" for value in values)
