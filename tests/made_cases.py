"""Made cases for all tests: volumes on disk in any geometry, cases of every layout, heads, prepared cases."""

from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import nibabel as nib
import numpy as np
from nibabel.orientations import axcodes2ornt, ornt_transform
from numpy.typing import ArrayLike

from jaxfuse.data.cache import prepare
from jaxfuse.data.cases import CaseFiles, Image
from jaxfuse.data.facts import CaseFacts
from jaxfuse.data.intensities import BRAIN, Normalization
from jaxfuse.data.prepared import CachedCase, PreparedCase, PreparedSlice
from jaxfuse.data.slices import AXIAL, slice_name
from jaxfuse.io.analyze import write_analyze
from jaxfuse.io.nifti import read_volume
from jaxfuse.labels import LabelScheme

MODALITIES = ("t1", "t1ce", "t2", "flair")
# Names of the files of a case, for each spelling of BraTS.
SUFFIXES = {
    "brats": {name: f"_{name}" for name in (*MODALITIES, "seg")},
    "brats2023": {"t1": "-t1n", "t1ce": "-t1c", "t2": "-t2w", "flair": "-t2f", "seg": "-seg"},
}
ISLES_KINDS = {"t1": "MR_T1", "t2": "MR_T2", "flair": "MR_Flair", "dwi": "MR_DWI", "lesion": "OT"}


def channels_of(image: np.ndarray) -> list[np.ndarray]:
    """Returns the channels of an image, as a `Case` has them."""
    return list(np.moveaxis(image, -1, 0))


def placed(
    spacing_mm: Sequence[float] = (1.0, 1.0, 1.0),
    origin_mm: Sequence[float] = (0.0, 0.0, 0.0),
    rotation: ArrayLike | None = None,
) -> np.ndarray:
    """Returns the affine (4 4), in mm, of voxels of these sides, the first at `origin_mm`."""
    affine = np.eye(4)
    affine[:3, :3] = np.asarray(np.eye(3) if rotation is None else rotation) * np.asarray(spacing_mm)
    affine[:3, 3] = origin_mm
    return affine


def save_volume(
    path: Path,
    array: np.ndarray,
    *,
    affine: ArrayLike | None = None,
    spacing_mm: Sequence[float] = (1.0, 1.0, 1.0),
    origin_mm: Sequence[float] = (0.0, 0.0, 0.0),
    axes: str = "RAS",
    sform_code: int | None = None,
    qform_code: int | None = None,
    description: bytes = b"",
) -> Path:
    """Writes a NIfTI volume of the type of `array`, and the folders above it; returns `path`.

    The affine is by default that of `spacing_mm` and `origin_mm`, its codes what nibabel says. `axes`: how an array
    whose axes are those of the affine is stored; "RAS" stores it as it is.
    """
    grid = placed(spacing_mm, origin_mm) if affine is None else np.asarray(affine, np.float64)
    image = nib.Nifti1Image(array, grid)
    if axes != "RAS":
        image = image.as_reoriented(ornt_transform(axcodes2ornt("RAS"), axcodes2ornt(tuple(axes))))
    stored = image.affine.copy()  # nibabel changes its own
    if sform_code is not None:
        image.set_sform(stored, sform_code)
    if qform_code is not None:
        image.set_qform(stored, qform_code)
    if description:
        image.header["descrip"] = description
    path.parent.mkdir(parents=True, exist_ok=True)
    image.to_filename(path)
    return path


def read_like(made: Path, like: Path, dtype: type = np.uint8) -> np.ndarray:
    """Asserts that a file has the geometry of another and this type; returns its values on the canonical axes."""
    found, given = nib.load(made), nib.load(like)
    np.testing.assert_array_equal(found.affine, given.affine)
    assert (found.shape, found.header.get_zooms()) == (given.shape, given.header.get_zooms())
    for code in ("qform_code", "sform_code"):
        assert found.header[code] == given.header[code]
    assert found.get_data_dtype() == dtype
    return read_volume(made).array


def save_pair(path: Path, array: np.ndarray) -> Path:
    """Writes an Analyze pair of voxels of 1 mm, and the folders above it; returns the name of its header."""
    path.parent.mkdir(parents=True, exist_ok=True)
    write_analyze(path, array, (1.0, 1.0, 1.0))
    return path


def write_case(
    root: Path, name: str, arrays: Mapping[str, np.ndarray | None], *, spelling: str = "", **geometry: Any
) -> Path:
    """Writes a folder of one case, as of BraTS or of stroke, which it returns.

    `arrays`: by modality, and "seg" or "lesion" for the label; None leaves a file out. `spelling`: a key of `SUFFIXES`;
    by default a file ends in the name of its modality. `geometry`: of `save_volume`, for all files.
    """
    for suffix, array in arrays.items():
        if array is not None:
            end = SUFFIXES[spelling][suffix] if spelling else f"_{suffix}"
            save_volume(root / name / f"{name}{end}.nii.gz", array, **geometry)
    return root / name


def write_iseg(root: Path, number: int, arrays: Mapping[str, np.ndarray | None], *, nifti: bool = False) -> None:
    """Writes a subject of iSeg: `arrays` by "T1", "T2" and "label", as Analyze pairs or as NIfTI of four axes."""
    for part, array in arrays.items():
        stem = root / f"subject-{number}-{part}"
        if array is None:
            continue
        if nifti:
            save_volume(stem.with_suffix(".nii.gz"), array[..., None])
        else:
            save_pair(stem.with_suffix(".hdr"), array)


def write_isles(case: Path, kind: str, number: int, array: np.ndarray, suffix: str = ".nii") -> Path:
    """Writes one file of a case of ISLES 2015 in a folder of its own, which it returns; `kind` as in `ISLES_KINDS`."""
    name = f"VSD.Brain.XX.O.{kind}.{number}"
    return save_volume(case / name / f"{name}{suffix}", array, affine=np.diag([-1.0, -1, 1, 1])).parent


def case_files(
    folder: Path, name: str, arrays: Mapping[str, np.ndarray | None], *, group: str = "", **geometry: Any
) -> CaseFiles:
    """Writes the files of one case in one folder and lists them; the array "seg" is its label."""
    paths = {
        suffix: save_volume(folder / f"{name}_{suffix}.nii.gz", array, **geometry)
        for suffix, array in arrays.items()
        if array is not None
    }
    label = paths.pop("seg", None)
    return CaseFiles(name, {suffix: Image(path) for suffix, path in paths.items()}, label, group)


def prepared_cases(
    root: Path,
    cases: Mapping[str, Mapping[str, np.ndarray | None]],
    scheme: LabelScheme | None,
    *,
    normalize: Normalization = BRAIN,
    **geometry: Any,
) -> list[PreparedCase]:
    """Writes cases as `case_files` does, and prepares them in the cache `root/cache`."""
    listed = [case_files(root, name, arrays, **geometry) for name, arrays in cases.items()]
    return list(prepare(listed, tuple(listed[0].images), scheme, normalize=normalize, cache=root / "cache"))


def without_arrays(*ids: str, slices: int = 0) -> tuple[PreparedCase, ...]:
    """Returns prepared cases of these names that have no arrays; with `slices` so many axial slices of each."""
    facts = CaseFacts("", "", ("t1",), (), (1.0,) * 2, (8, 8), (0, 0), (8, 8), (), (), ())
    if not slices:
        return tuple(CachedCase(Path(name), name, replace(facts, id=name)) for name in ids)
    return tuple(
        PreparedSlice(Path(name), name, replace(facts, id=slice_name(name, AXIAL, place)), place, AXIAL, False)
        for name in ids
        for place in range(slices)
    )


def ellipsoid(shape: tuple[int, int, int], half_axes: ArrayLike) -> np.ndarray:
    """Marks the voxels of an ellipsoid around the middle, its half axes in voxels."""
    axes = np.ogrid[tuple(slice(side) for side in shape)]
    halves = np.broadcast_to(half_axes, len(shape))
    terms = [((axis - (side - 1) / 2) / half) ** 2 for axis, side, half in zip(axes, shape, halves, strict=True)]
    return sum(terms) < 1


def head(shape: tuple[int, int, int], seed: int) -> dict[str, np.ndarray]:
    """Makes four modalities, from 100 to 400 in an ellipsoid, with a brighter ball in it, and 0 around."""
    rng = np.random.default_rng(seed)
    brain, ball = ellipsoid(shape, np.array(shape) / 2 - 1), ellipsoid(shape, np.array(shape) / 5)
    made = {name: rng.integers(100, 200, shape) + 50 * number * ball for number, name in enumerate(MODALITIES, start=1)}
    return {name: np.where(brain, image, 0).astype(np.int16) for name, image in made.items()}


def nested_cubes(
    shape: tuple[int, int, int],
    reaches: Mapping[int, int] | None = None,
    center: Sequence[int] | None = None,
) -> np.ndarray:
    """Makes a label of cubes around `center`: each value reaches so many voxels, later ones over earlier ones.

    By default edema (2), core (1) and enhancing tumor (4), the values of BraTS, around the middle.
    """
    label = np.zeros(shape, np.uint8)
    middle = [side // 2 for side in shape] if center is None else center
    for value, reach in (reaches or {2: 4, 1: 3, 4: 2}).items():
        label[tuple(slice(place - reach, place + reach) for place in middle)] = value
    return label
