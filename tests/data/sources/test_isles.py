"""Folders of ISLES 2015: cases, sequences, what is missing or there twice, and verification."""

import shutil
from pathlib import Path

import numpy as np
import pytest

from jaxfuse.data.cases import CaseFiles, load_case
from jaxfuse.data.sources import isles
from jaxfuse.data.sources.volumes import VOLUMES, detect_layout
from jaxfuse.data.verify import verify
from jaxfuse.labels import label_scheme
from tests.made_cases import write_isles
from tests.refusals import refused

FOUR = ("t1", "t2", "dwi", "flair")
SHAPE = (6, 5, 4)
find = VOLUMES["isles"].find


def add(case: Path, kind: str, number: int, value: int, suffix: str = ".nii") -> Path:
    array = np.zeros(SHAPE, np.int16)
    array[1:4, 1:4, 1:3] = value + np.arange(3)[:, None, None] if kind != "OT" else 0
    if kind == "OT":
        array[1 + number % 3, 2, 1:3] = 1
    else:
        array[3, 3, 2] += number % 89  # no two volumes are equal
    return write_isles(case, kind, number, array, suffix)


def make(case: Path, first: int, *, label: bool = True) -> Path:
    kinds = [*isles.SEQUENCES.values(), *([isles.LESION] if label else [])]
    for place, kind in enumerate(kinds):
        add(case, kind, first + place, 10 * (place + 1))
    return case


@pytest.fixture
def root(tmp_path):
    """Training cases 1, 2 and 10, test case 1."""
    for place, number in enumerate((2, 10, 1)):
        make(tmp_path / "SISS" / "training" / str(number), 70000 + 10 * place)
    make(tmp_path / "SISS" / "testing" / "1", 90000, label=False)
    return tmp_path / "SISS"


def test_cases_are_named_after_their_side_and_number(root):
    every = find(root, FOUR, labels_required=False)
    assert [one.id for one in every] == ["testing_1", "training_1", "training_2", "training_10"]
    assert [one.label is not None for one in every] == [False, True, True, True]
    assert [one.id for one in find(root / "training", FOUR, labels_required=True)] == [one.id for one in every[1:]]
    (alone,) = find(root / "training" / "10", ("flair", "t1"), labels_required=True)
    assert alone == CaseFiles("training_10", {m: every[3].images[m] for m in ("flair", "t1")}, every[3].label)
    case = load_case(every[1], ("flair", "t1", "t2", "dwi"), label_scheme("stroke"))
    assert case.image[4, 3, 1].tolist() == [40, 10, 20, 30]  # stored voxel (1, 1, 1): both first axes turn over
    assert case.label is not None
    assert case.label.sum() == 2


def test_compressed_files_are_found(tmp_path):
    case = make(tmp_path / "training" / "1", 1)
    shutil.rmtree(next(case.glob("*MR_T1*")))
    folder = add(case, "MR_T1", 99, 10, ".nii.gz")
    (found,) = find(tmp_path, FOUR, labels_required=True)
    assert found.images["t1"].path == folder / f"{folder.name}.nii.gz"


def test_what_is_missing_or_there_twice_is_said(root):
    case = root / "training" / "2"
    shutil.rmtree(next(case.glob("*MR_DWI*")))
    missing = r"case training_2 has no dwi image: VSD\.Brain\.XX\.O\.MR_DWI\.NUMBER\.nii is not in .*training/2"
    refused(missing, find, root, FOUR, labels_required=False)
    assert len(find(root, ("t1", "flair"), labels_required=False)) == 4
    for number in (70077, 70078):
        add(case, "MR_DWI", number, 5)
    twice = r"case training_2 has 2 files for dwi: .*MR_DWI\.70077\.nii and .*\.70078\.nii; keep the one"
    refused(twice, find, root, FOUR, labels_required=False)
    refused("case testing_1 has no label file", find, root, ("t1",), labels_required=True)
    refused("choose from t1, t2, dwi, flair", find, root, ("t1", "t1ce"), labels_required=False)
    shutil.copytree(root / "training", root / "copy" / "training")
    refused("case training_1 lies twice under", find, root, ("t1",), labels_required=False)


def test_contrast_enhanced_t1_is_no_t1_and_other_formats_are_no_case(tmp_path):
    case = make(tmp_path / "training" / "1", 1)
    add(case, "MR_T1c", 9, 10)
    assert "MR_T1.1" in str(find(tmp_path, ("t1",), labels_required=False)[0].images["t1"].path)
    other = tmp_path / "brats2015" / "pat1" / "VSD.Brain.XX.O.MR_T1.54"
    other.mkdir(parents=True)
    (other / "VSD.Brain.XX.O.MR_T1.54.mha").touch()
    refused("no case of layout isles2015 lies under", find, tmp_path / "brats2015", ("t1",), labels_required=False)


def test_the_layout_is_recognized_and_verified(root):
    assert detect_layout(root) == detect_layout(root / "training") == "isles2015"
    verdict = verify(root)
    assert (verdict.layout, verdict.scheme, verdict.modalities) == ("isles2015", "stroke", FOUR)
    assert [(p.case, p.severity) for p in verdict.problems] == [("testing_1", "warning")]
    shutil.rmtree(next((root / "training" / "1").glob("*Flair*")))
    fatal = [p.message for p in verify(root).problems if p.severity == "fatal"]
    assert fatal == ["no flair image: VSD.Brain.XX.O.MR_Flair.NUMBER.nii is missing"]
