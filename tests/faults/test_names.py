"""Cases under names and label values of other years and tasks.

The values alone never tell what a label means; the name does, or the user.
"""

from pathlib import Path

import numpy as np

from jaxfuse import evaluate
from jaxfuse.data.cases import load_case
from jaxfuse.data.sources.volumes import VOLUMES
from jaxfuse.data.verify import ALL_CASES, verify
from jaxfuse.io.tables import read_rows
from jaxfuse.labels import label_scheme
from tests.commands import call_here
from tests.faults.catalogue import given, table
from tests.made_cases import MODALITIES, head, nested_cubes, save_volume, write_case
from tests.refusals import refused

SHAPE = (16, 16, 16)
find = VOLUMES["brats"].find
REACHES = {1: 4, 2: 3, 3: 2, 4: 1}


def label(*values: int) -> np.ndarray:
    """A cube in a cube for each of these values."""
    return nested_cubes(SHAPE, {value: REACHES[place] for place, value in enumerate(values, start=1)})


def write(root: Path, name: str, *values: int, seed: int = 0) -> Path:
    arrays = head(SHAPE, seed) | {"seg": label(*values)}
    return write_case(root, name, arrays, spelling="brats2023")


def messages(root: Path, **options: str) -> list[str]:
    return [problem.message for problem in verify(root, **options).problems if problem.severity == "fatal"]


@table(
    "name, values, layout, scheme",
    ("BraTS-SSA-00002-000", "read as brats2023", "BraTS-SSA-00002-000", (1, 2, 3), "brats2023", "brats2023"),
    ("BraTS-MEN-00004-000", "read as brats2023", "BraTS-MEN-00004-000", (1, 2, 3), "brats2023", "brats2023"),
    ("BraTS-MET-00761-003", "read as brats2023", "BraTS-MET-00761-003", (1, 2, 3), "brats2023", "brats2023"),
    ("BraTS-GoAT-00063, without examination", "read", "BraTS-GoAT-00063", (1, 2, 3), "brats2023", "brats2023"),
    (
        "BraTS-GLI-02405-100, after treatment",
        "brats2024",
        "BraTS-GLI-02405-100",
        (1, 2, 3, 4),
        "brats2024",
        "brats2024",
    ),
    ("BraTS-PED-00002-000", "ET 1, NET 2, CC 3, ED 4", "BraTS-PED-00002-000", (1, 2, 3, 4), *["brats2024_ped"] * 2),
    ("BraTS-MEN-RT-0002-1 with four modalities", "read", "BraTS-MEN-RT-0002-1", (1, 2, 3), "generic2023", "brats2023"),
    (
        "ours-7, its files named like those of 2023",
        "read as brats2023",
        "ours-7",
        (1, 2, 3),
        "generic2023",
        "brats2023",
    ),
)
def test_names_of_tasks_are_read(tmp_path, unchanged, name, values, layout, scheme):
    write(tmp_path, name, *values)
    with unchanged(tmp_path):
        verdict = verify(tmp_path)
        assert (verdict.layout, verdict.scheme, verdict.cases, verdict.count("fatal")) == (layout, scheme, (name,), 0)
        (files,) = find(tmp_path, MODALITIES, labels_required=True)
        classes = load_case(files, MODALITIES, label_scheme(scheme)).label
    assert classes is not None
    np.testing.assert_array_equal(np.array(label_scheme(scheme).decode)[classes], label(*values))


@given("BraTS-MEN-RT-0002-1 as published, T1c and gtv alone", "read with data.modalities=('t1ce',); others are refused")
def test_meningiomas_before_radiotherapy_have_one_modality(tmp_path):
    name = "BraTS-MEN-RT-0002-1"
    save_volume(tmp_path / name / f"{name}_t1c.nii.gz", head(SHAPE, 0)["t1ce"])
    save_volume(tmp_path / name / f"{name}_gtv.nii.gz", label(1))
    verdict = verify(tmp_path)
    assert (verdict.layout, verdict.modalities, verdict.problems) == ("brats2024_men_rt", ("t1ce",), ())
    assert [one.id for one in find(tmp_path, ("t1ce",), labels_required=True)] == [name]
    message = "choose from t1ce, which is all that cases of layout brats2024_men_rt have"
    refused(message, find, tmp_path, MODALITIES, labels_required=False)


@table(
    "name, values, advice",
    (
        "value 4 in a label of BraTS-SSA",
        "refused; value, task and schemes are named",
        "BraTS-SSA-00002-000",
        (1, 2, 4),
        "cases of BraTS-SSA are coded by brats2023; no known scheme fits: correct the file",
    ),
    (
        "value 4 in a label of BraTS-GLI before treatment",
        "refused; brats2024 is advised",
        "BraTS-GLI-00000-000",
        (1, 2, 3, 4),
        "coded by brats2023 or brats2024; the scheme brats2024 would fit: name the one that is meant, by data.labels",
    ),
    (
        "a resection cavity in a label of BraTS-MET",
        "refused; brats2024 is advised",
        "BraTS-MET-00001-000",
        (1, 2, 3, 4),
        "cases of BraTS-MET are coded by brats2023 or brats2024; the scheme brats2024 would fit",
    ),
    (
        "value 5 in a label of BraTS-PED",
        "refused; no scheme fits",
        "BraTS-PED-00001-000",
        (1, 5),
        "cases of BraTS-PED are coded by brats2024_ped or brats2023; no known scheme fits",
    ),
)
def test_labels_of_another_scheme_are_refused(tmp_path, name, values, advice):
    write(tmp_path, name, *values)
    (text,) = messages(tmp_path)
    assert text.startswith(f"{name}-seg.nii.gz holds the label values 0, {', '.join(map(str, values))}, scheme")
    assert advice in text
    (files,) = find(tmp_path, ("t1",), labels_required=True)
    refused(advice, load_case, files, ("t1",), label_scheme(verify(tmp_path).scheme))


@given("labels of BraTS-PED of 2023, 1 to 3 as in gliomas", "a warning: no label holds edema; both schemes are named")
def test_pediatric_labels_of_2023_are_doubted(tmp_path):
    write(tmp_path, "BraTS-PED-00001-000", 1, 2, 3)
    (problem,) = verify(tmp_path).problems
    assert (problem.case, problem.severity) == (ALL_CASES, "warning")
    assert "no label holds the class edema of scheme brats2024_ped" in problem.message
    assert "cases of BraTS-PED are coded by brats2024_ped or brats2023" in problem.message
    assert verify(tmp_path, scheme="brats2023").problems == ()


@given("gliomas before and after treatment in one folder", "refused unless the layout is named; then all are read")
def test_two_years_in_one_folder_are_told_apart(tmp_path):
    for seed, name in enumerate(("BraTS-GLI-00000-000", "BraTS-GLI-02405-100")):
        write(tmp_path, name, 1, 2, 3, seed=seed)
    refused("layouts brats2023, brats2024; .* or name the layout", verify, tmp_path)
    assert len(verify(tmp_path, layout="brats2024").cases) == 2
    assert len(find(tmp_path, ("t1",), labels_required=True, layout="brats2023")) == 2


@table(
    "folder, stem, suffix",
    ("files whose names are not that of their folder", "what lies there is named", "one", "two", "-t1c"),
    (
        "files of UPENN-GBM as published",
        "what lies there is named",
        "UPENN-GBM-00001_11",
        "UPENN-GBM-00001_11",
        "_T1GD",
    ),
    ("files without a folder of their own", "what lies there is named", ".", "case1", "_t1"),
)
def test_names_that_are_not_understood_are_shown(tmp_path, folder, stem, suffix):
    path = save_volume(tmp_path / folder / f"{stem}{suffix}.nii.gz", head(SHAPE, 0)["t1"])
    message = rf"no case lies under .*, where {path.relative_to(tmp_path)} lies; a folder per case is expected"
    refused(message, find, tmp_path, ("t1",), labels_required=False)
    refused(message.partition(";")[0], verify, tmp_path)


@table(
    "name, suffix",
    ("BraTS-SSA-00002-000 with names of 2021", "the names that lie there are told", "BraTS-SSA-00002-000", "_t1"),
    ("BraTS2021_00000 with names of 2023", "the names that lie there are told", "BraTS2021_00000", "-t1n"),
    ("patient1 with T1c alone", "the name that lies there is told", "patient1", "_t1ce"),
)
def test_what_lies_in_a_case_that_lacks_files_is_told(tmp_path, name, suffix):
    save_volume(tmp_path / name / f"{name}{suffix}.nii.gz", head(SHAPE, 0)["t1"])
    message = rf"case {name} has no t1 image: .*, where {name}{suffix}.nii.gz lies; add the file"
    refused(message, find, tmp_path, ("t1",), labels_required=False)


@given(
    "a prediction of BraTS-PED scored by the folders' names", "regions ET, TC, WT, NETC, CC, ED by the values of PED"
)
def test_pediatric_predictions_are_scored_by_their_own_regions(tmp_path):
    name = "BraTS-PED-00002-000"
    write(tmp_path / "ref", name, 4, 3, 2, 1)
    save_volume(tmp_path / "pred" / f"{name}.nii.gz", np.where(label(4, 3, 2, 1) == 1, 2, label(4, 3, 2, 1)))
    options = {"pred": tmp_path / "pred", "ref": tmp_path / "ref", "out": tmp_path / "out"}
    call_here(evaluate, protocol="brats", pictures=0, **options)
    rows = {row["region"]: row for row in read_rows(tmp_path / "out" / "cases.csv")}
    assert list(rows) == ["WT", "TC", "ET", "NETC", "CC", "ED"]
    assert [rows[region]["dice"] for region in ("WT", "TC", "ET", "CC", "ED")] == [1, 1, 0, 1, 1]
    assert (0 < rows["NETC"]["dice"] < 1, rows["ET"]["hd95_mm"]) == (True, 374)
