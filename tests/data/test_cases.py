"""Reading one case."""

from pathlib import Path

import nibabel as nib
import numpy as np
import pytest

from jaxfuse.data.cases import CaseFiles, load_case
from jaxfuse.labels import label_scheme
from tests.made_cases import case_files, save_volume
from tests.refusals import refused

LPS = np.diag([-1.0, -1.0, 2.0, 1.0])
SHAPE = (4, 5, 6)


def make(folder: Path, label: np.ndarray | None = None, *, flair: np.ndarray | None = None, affine=LPS) -> CaseFiles:
    t1 = np.arange(np.prod(SHAPE), dtype=np.int16).reshape(SHAPE)
    files = case_files(folder, "c", {"t1": t1, "flair": t1 * 2, "seg": label}, affine=LPS)
    save_volume(files.images["flair"].path, t1 * 2 if flair is None else flair, affine=affine)
    return files


def label_of(*values: float, dtype: type = np.uint8) -> np.ndarray:
    label = np.zeros(SHAPE, dtype)
    label.flat[: len(values)] = values
    return label


def test_image_and_label_share_the_canonical_grid_and_the_class_indices(tmp_path):
    case = load_case(make(tmp_path, label_of(1, 2, 4)), ("flair", "t1"), label_scheme("brats"))
    assert (case.image.shape, case.image.dtype) == ((*SHAPE, 2), np.float32)
    np.testing.assert_array_equal(case.image[..., 0], 2 * case.image[..., 1])
    assert case.label is not None
    assert case.label.dtype == np.uint8
    # Stored voxel (0, 0, 0..2) of an LPS file is canonical (-1, -1, 0..2); 4 is class 3.
    np.testing.assert_array_equal(case.label[-1, -1, :4], [1, 2, 3, 0])
    np.testing.assert_array_equal(case.image[-1, -1, :3, 1], [0, 1, 2])
    assert (case.spacing_mm, nib.aff2axcodes(case.affine)) == ((1, 1, 2), ("R", "A", "S"))


@pytest.mark.parametrize(
    ("scheme", "values", "dtype", "classes"),
    [
        ("brats2023", (1, 2, 3), np.uint8, [1, 2, 3]),
        ("decathlon", (1, 2, 3), np.uint8, [2, 1, 3]),
        ("brats", (1, 0.99999997, 4), np.float64, [1, 1, 3]),
    ],
)
def test_values_become_classes_by_the_scheme(tmp_path, scheme, values, dtype, classes):
    case = load_case(make(tmp_path, label_of(*values, dtype=dtype)), ("t1",), label_scheme(scheme))
    assert case.label[-1, -1, :3].tolist() == classes


def test_label_is_left_unread_without_a_scheme(tmp_path):
    assert load_case(make(tmp_path, label_of(77)), ("t1",), None).label is None


STRANGE = "case c: c_seg.nii.gz holds the label values 0, 1, 2, 3, scheme brats knows 0, 1, 2, 4.*"


@pytest.mark.parametrize(
    ("files", "message"),
    [
        ({"label": label_of(1, 2, 3)}, f"{STRANGE}brats2023, brats2015, decathlon, brats2024, brats2024_ped would fit"),
        ({"label": label_of(0.5, 1, dtype=np.float32)}, r"1 voxels that are not whole numbers \(the first is 0.5\)"),
        ({"label": label_of(np.nan, dtype=np.float32)}, "NaN"),
        ({"label": label_of(-1, dtype=np.int16)}, "no known scheme fits"),
        ({"label": np.zeros((4, 5, 7), np.uint8)}, r"\(4, 5, 7\)"),
        ({"flair": np.zeros((4, 5, 7), np.int16)}, r"\(4, 5, 7\)"),
        ({"affine": np.diag([-1.0, -1.0, 3.0, 1.0])}, "affine"),
        ({"flair": np.full(SHAPE, np.nan, np.float32)}, "120 voxels that are NaN or infinite"),
        ({"flair": np.full(SHAPE, np.inf, np.float32)}, "120 voxels that are NaN or infinite"),
    ],
)
def test_bad_files_are_refused(tmp_path, files, message):
    scheme = label_scheme("brats") if "label" in files else None
    refused(message, load_case, make(tmp_path, **files), ("t1", "flair"), scheme)
