"""Cases of one subject on two sides of a split.

A head that was trained on and then validates tells nothing of other heads.
"""

import json
from pathlib import Path

import numpy as np
import pytest

from jaxfuse import verify
from jaxfuse.data.dataset import open_dataset
from jaxfuse.data.settings import read_data
from jaxfuse.data.subject_names import subject_of
from jaxfuse.recipes import volume_data
from tests.commands import call_here
from tests.data.opening import quiet, settings
from tests.faults.catalogue import given, table
from tests.made_cases import MODALITIES, head, nested_cubes, write_case
from tests.refusals import refused

SHAPE = (12, 12, 12)


def write(root: Path, *names: str, seeds: dict[str, int] | None = None) -> Path:
    """Writes labeled cases; two of one seed are equal byte for byte."""
    for number, name in enumerate(names):
        arrays = head(SHAPE, (seeds or {}).get(name, number))
        write_case(root, name, arrays | {"seg": nested_cubes(SHAPE, {2: 3, 1: 2, 4: 1})})
    return root


def sides(folder: Path, root: Path, **changes: object) -> dict[str, tuple[str, ...]]:
    facts = open_dataset(settings(folder, root=str(root), **changes), quiet).facts
    return {"train": facts.train, "val": facts.val, "test": facts.test}


@table(
    "first, second",
    ("sub-01_ses-1 and sub-01_ses-2", "one subject, sub-01", "sub-01_ses-1", "sub-01_ses-2"),
    ("sub-01 and sub-01_ses-2_run-1", "one subject, sub-01", "sub-01", "sub-01_ses-2_run-1"),
    ("UPENN-GBM-00001_11 and _21", "one subject", "UPENN-GBM-00001_11", "UPENN-GBM-00001_21"),
    ("BraTS-GLI-00000-000 and -001", "one subject", "BraTS-GLI-00000-000", "BraTS-GLI-00000-001"),
    ("BraTS-MET-00761-000 and -003", "one subject", "BraTS-MET-00761-000", "BraTS-MET-00761-003"),
    ("BraTS-MEN-RT-0002-1 and -2", "one subject", "BraTS-MEN-RT-0002-1", "BraTS-MEN-RT-0002-2"),
    ("TCGA-CS-4941_1996.09.09 and 1997.01.01", "one subject", "TCGA-CS-4941_1996.09.09", "TCGA-CS-4941_1997.01.01"),
    ("002_S_0295_M00 and 002_S_0295_M12", "one subject", "002_S_0295_M00", "002_S_0295_M12"),
    ("OAS30001_MR_d0129 and _d0757", "one subject", "OAS30001_MR_d0129", "OAS30001_MR_d0757"),
    ("UCSF-PDGM-0429 and UCSF-PDGM-0429_FU001d", "one subject", "UCSF-PDGM-0429", "UCSF-PDGM-0429_FU001d"),
    ("PatientID_0003_Timepoint_1 and _2", "one subject", "PatientID_0003_Timepoint_1", "PatientID_0003_Timepoint_2"),
    ("Patient-001_week-000-1 and _week-044", "one subject", "Patient-001_week-000-1", "Patient-001_week-044"),
    ("p7-20190131 and p7-20200229", "one subject", "p7-20190131", "p7-20200229"),
)
def test_examinations_are_of_one_subject(first, second):
    assert subject_of(first) == subject_of(second) != ""


@table(
    "first, second",
    ("BraTS20_Training_001 and _002", "two subjects", "BraTS20_Training_001", "BraTS20_Training_002"),
    ("Brats18_2013_10_1 and Brats18_2013_11_1", "two subjects", "Brats18_2013_10_1", "Brats18_2013_11_1"),
    ("subject-1 and subject-10 of iSeg", "two subjects", "subject-1", "subject-10"),
    ("hospital_session_01 and _02, no number before", "two subjects", "hospital_session_01", "hospital_session_02"),
    ("TCGA-02-0003 and TCGA-02-0006", "two subjects", "TCGA-02-0003", "TCGA-02-0006"),
    ("BraTS-GLI-00001-000 and BraTS-GLI-00002-000", "two subjects", "BraTS-GLI-00001-000", "BraTS-GLI-00002-000"),
)
def test_numbers_that_tell_no_examination_part_subjects(first, second):
    assert subject_of(first) != subject_of(second)


@given("three sessions of each of four subjects, split by any seed", "all sessions of a subject on one side")
def test_sessions_stay_together(tmp_path):
    root = write(tmp_path / "root", *(f"sub-{number}_ses-{session}" for number in range(4) for session in range(3)))
    for seed in range(3):
        split = sides(tmp_path, root, split_seed=seed)
        subjects = [{case[:5] for case in split[side]} for side in ("train", "val")]
        assert (len(split["train"]), len(split["val"]), subjects[0] & subjects[1]) == (9, 3, set())


@given("images of sub-01_ses-1 and sub-01_ses-2 equal byte for byte", "one subject, one side")
def test_equal_sessions_stay_together(tmp_path, unchanged):
    seeds = {"sub-01_ses-1": 7, "sub-01_ses-2": 7}
    root = write(tmp_path / "root", *seeds, "sub-02_ses-1", seeds=seeds)
    with unchanged(root):
        split = sides(tmp_path, root)
    assert set(seeds) in (set(split["train"]), set(split["val"]))


@table(
    "split",
    ("a split file with a session of sub-1 in train and in val", "refused", {"train": ["ses-1"], "val": ["ses-2"]}),
    (
        "a split file with a session of sub-1 in val and in test",
        "refused",
        {"train": ["x"], "val": ["ses-1"], "test": ["ses-2"]},
    ),
    (
        "a split file with a session of sub-1 in train and in test",
        "refused",
        {"train": ["ses-1", "x"], "val": [], "test": ["ses-2"]},
    ),
)
def test_a_split_file_that_parts_a_subject_is_refused(tmp_path, unchanged, split):
    root = write(tmp_path / "root", "sub-1_ses-1", "sub-1_ses-2", "sub-2_x")
    full = {side: [f"sub-{2 if name == 'x' else 1}_{name}" for name in names] for side, names in split.items()}
    (tmp_path / "split.json").write_text(json.dumps(full))
    with unchanged(root):
        message = r"split.json: subject sub-1 is in both .* \(sub-1_ses-1 and sub-1_ses-2 are listed\)"
        refused(message, sides, tmp_path, root, split=str(tmp_path / "split.json"))


@given("names that tell nothing, A1 to A3 and B1 to B3, with data.subject='([AB])'", "two subjects, one on each side")
def test_a_pattern_tells_subjects(tmp_path):
    root = write(tmp_path / "root", *(f"{name}{number}" for name in "AB" for number in range(3)))
    split = sides(tmp_path, root, subject="([AB])")
    assert {tuple(case[0] for case in split[side]) for side in ("train", "val")} == {("A",) * 3, ("B",) * 3}
    # Without it a name is a subject.
    assert len({case[0] for case in sides(tmp_path, root, val_fraction=0.17)["train"]}) == 2


@table(
    "pattern, message",
    ("data.subject='sub-.*', without a group", "refused", "sub-.*", r"which has 0 groups; exactly one is expected"),
    ("data.subject with two groups", "refused", "(sub)-(.*)", "which has 2 groups"),
    ("data.subject='(sub', no regular expression", "refused", "(sub", "which is no regular expression"),
)
def test_a_pattern_that_is_none_is_refused_before_anything_is_read(pattern, message):
    config = volume_data(source="brats", modalities=MODALITIES, shape=(8, 8, 8), cases=2, spacing_mm=1)
    config.subject = pattern
    refused(message, read_data, "data", config)


@given("data.subject that one of three cases does not fit", "refused; the case is named")
def test_a_case_without_subject_is_named(tmp_path):
    root = write(tmp_path / "root", "P1_a", "P2_a", "odd")
    refused("case odd has no subject by data.subject", sides, tmp_path, root, subject="(P[0-9])_")


@table(
    "changes",
    ("one image under the names of two subjects on two sides", "refused; both files, cases and sides are named", {}),
    ("the same, with the side test of a split file", "refused", {"test": True}),
    ("the same image as T1 of one and as FLAIR of the other", "refused", {"as_flair": True}),
)
def test_one_image_under_two_subjects_is_named(tmp_path, unchanged, changes):
    root = write(tmp_path / "root", "A", "B", "C")
    copy = "flair" if changes.get("as_flair") else "t1"
    (root / "B" / f"B_{copy}.nii.gz").write_bytes((root / "A" / "A_t1.nii.gz").read_bytes())
    side = "test" if changes.get("test") else "val"
    (tmp_path / "split.json").write_text(json.dumps({"train": ["A"], "val": ["C"], side: ["B"]}))
    with unchanged(root):
        message = rf"A_t1.nii.gz of case A \(train\) and B_{copy}.nii.gz of case B \({side}\) are the same image"
        refused(message, sides, tmp_path, root, split=str(tmp_path / "split.json"))
    # By a pattern they are one subject, whom no split may part.
    refused("subject case is in both", sides, tmp_path, named(root), split=split_of(tmp_path), subject="(case)")


def named(root: Path) -> Path:
    """Writes two further cases beside the root, of names that begin alike."""
    return write(root.parent / "named", "case1", "case2")


def split_of(folder: Path) -> str:
    (folder / "named.json").write_text(json.dumps({"train": ["case1"], "val": ["case2"]}))
    return str(folder / "named.json")


@given("an all-zero placeholder that two cases on two sides share", "refused as empty, not as a copy")
def test_a_placeholder_is_no_copy(tmp_path):
    root = write(tmp_path / "root", "A", "B")
    for name in "AB":
        write_case(root, name, {"t1": np.zeros(SHAPE, np.int16)})
    refused("modality t1 is 0 everywhere", sides, tmp_path, root, val_fraction=0.5)


@given("jaxfuse verify of two sessions of one subject and a third case", "3 cases of 2 subjects")
def test_cases_and_subjects_are_counted(tmp_path, capsys):
    call_here(verify, root=write(tmp_path / "root", "sub-1_ses-1", "sub-1_ses-2", "c"))
    assert "3 cases of 2 subjects" in capsys.readouterr().out
    call_here(verify, root=tmp_path / "root", subject="(.+)")
    assert "3 cases of 3 subjects" in capsys.readouterr().out


@given("all cases are sessions of one subject", "refused; data.subject is named")
def test_one_subject_cannot_be_split(tmp_path):
    root = write(tmp_path / "root", "sub-1_ses-1", "sub-1_ses-2")
    refused("all cases belong to one subject.*data.subject", sides, tmp_path, root)
    assert len(sides(tmp_path, root, subject="(.+)")["train"]) == 1


@pytest.mark.parametrize("side", ["train", "val"])
def test_a_side_is_told_with_its_subjects(tmp_path, side):
    root = write(tmp_path / "root", "sub-1_ses-1", "sub-1_ses-2", "sub-2_ses-1", "sub-2_ses-2")
    facts = open_dataset(settings(tmp_path, root=str(root)), quiet).facts
    assert facts.told(side) == "2 cases of 1 subject"
