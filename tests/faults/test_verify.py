"""Files that look sound one by one and not beside each other.

A copy, a twin or a made image is found by what the files hold, whatever their names, types and headers are.
"""

import shutil
from collections.abc import Callable
from pathlib import Path

import nibabel as nib
import numpy as np
import pytest

from jaxfuse.data.cases import load_case
from jaxfuse.data.dataset import open_dataset
from jaxfuse.data.sources.volumes import VOLUMES
from jaxfuse.data.verify import Verdict, verify
from jaxfuse.io.nifti import write_like
from jaxfuse.io.tables import write_json
from jaxfuse.labels import label_scheme
from tests.data.opening import quiet, settings
from tests.faults.catalogue import given, table
from tests.made_cases import MODALITIES, head, nested_cubes, save_pair, save_volume, write_case, write_iseg
from tests.refusals import refused

SHAPE = (12, 12, 12)


def make(root: Path, *names: str) -> Path:
    """Writes sound cases, no file of which equals another."""
    for number, name in enumerate(names):
        label = np.roll(nested_cubes(SHAPE, {2: 3, 1: 2, 4: 1}), number % 3 - 1, axis=0)
        write_case(root, name, head(SHAPE, len(name) + number) | {"seg": label})
    return root


def file(root: Path, case: str, part: str) -> Path:
    return root / case / f"{case}_{part}.nii.gz"


def stored(path: Path) -> np.ndarray:
    return np.asarray(nib.load(path).dataobj)


def copied(root: Path, source: tuple[str, str], target: tuple[str, str]) -> None:
    shutil.copy(file(root, *source), file(root, *target))


def said(verdict: Verdict) -> list[tuple[str, str, str]]:
    return [(p.case, p.severity, p.message) for p in verdict.problems]


def only(root: Path, **options: object) -> tuple[str, str, str]:
    """The one problem of a data set."""
    (problem,) = said(verify(root, **options))
    return problem


def a_copy(root: Path) -> None:
    copied(root, ("A", "t1"), ("A", "t2"))


def a_copy_of_another_type(root: Path) -> None:
    save_volume(file(root, "A", "t2"), stored(file(root, "A", "t1")).astype(np.float32))


def a_copy_stored_in_other_axes(root: Path) -> None:
    save_volume(file(root, "A", "t2"), stored(file(root, "A", "t1")), axes="LPS")


def a_copy_compressed_anew(root: Path) -> None:
    nib.save(nib.load(file(root, "A", "t1")), root / "copy.nii")
    file(root, "A", "t2").write_bytes((root / "copy.nii").read_bytes())
    (root / "copy.nii").unlink()


@table(
    "change",
    ("T2 a copy of T1", "both are named", a_copy),
    ("T2 a copy of T1 as float32", "both are named", a_copy_of_another_type),
    ("T2 a copy of T1, its axes stored in another order", "both are named", a_copy_stored_in_other_axes),
    ("T2 a copy of T1, not compressed", "both are named", a_copy_compressed_anew),
)
def test_a_modality_that_is_a_copy_is_named(tmp_path, unchanged, change: Callable[[Path], None]):
    root = make(tmp_path, "A", "B")
    change(root)
    with unchanged(root):
        case, severity, text = only(root)
    assert (case, severity) == ("A", "warning")
    assert text == "A_t2.nii.gz: equal in every voxel to A_t1.nii.gz: one modality is a copy of another"


@table(
    "first, second, severity, message",
    ("one image under cases A and B", "fatal; both files and cases", "A", "B", "fatal", "one head under two names"),
    (
        "one image under two sessions of a subject",
        "a warning",
        "sub-1_ses-1",
        "sub-1_ses-2",
        "warning",
        "another examination of subject sub-1",
    ),
    (
        "one image under BraTS-GLI-00001-000 and BraTS-GLI-00002-000",
        "fatal",
        "BraTS-GLI-00001-000",
        "BraTS-GLI-00002-000",
        "fatal",
        "one head under two names",
    ),
)
def test_an_image_under_two_cases_is_named(tmp_path, first, second, severity, message):
    root = make(tmp_path, first, second)
    copied(root, (first, "t1"), (second, "flair"))
    case, weight, text = only(root, layout="generic")
    assert (case, weight) == (second, severity)
    assert text.startswith(f"{second}_flair.nii.gz: equal in every voxel to {first}_t1.nii.gz of case {first}")
    assert message in text


@given("all four images of A lie under B as well", "one sentence that names the eight files")
def test_a_whole_case_under_two_names_is_said_once(tmp_path):
    root = make(tmp_path, "A", "B")
    for modality in MODALITIES:
        copied(root, ("A", modality), ("B", modality))
    _, severity, text = only(root)
    names = [", ".join(f"{case}_{modality}.nii.gz" for modality in MODALITIES) for case in "BA"]
    assert text.startswith(f"{names[0]}: equal in every voxel to {names[1]} of case A: one head under two names")
    assert severity == "fatal"


@given("the label of A as the label of B, over other images", "a warning that names both")
def test_a_label_of_another_head_is_named(tmp_path):
    root = make(tmp_path, "A", "B")
    copied(root, ("A", "seg"), ("B", "seg"))
    expected = "B_seg.nii.gz: equal in every voxel to A_seg.nii.gz of case A, which shows another head"
    assert only(root) == ("B", "warning", expected)


@table(
    "target",
    ("the label of A as its FLAIR", "fatal: the label is an image", ("A", "flair")),
    ("the label of A as the T1 of B", "fatal: the label is an image", ("B", "t1")),
)
def test_a_label_that_is_an_image_is_named(tmp_path, target):
    root = make(tmp_path, "A", "B")
    copied(root, ("A", "seg"), target)
    whose = " of case B" if target[0] == "B" else ""
    name = f"{target[0]}_{target[1]}.nii.gz"
    text = f"A_seg.nii.gz: equal in every voxel to {name}{whose}: the label is an image, or the image a label"
    assert ("A", "fatal", text) in said(verify(root))


@given("empty labels and empty images of several cases", "no copies: no word of them")
def test_what_is_alike_everywhere_is_no_copy(tmp_path):
    root = make(tmp_path, "A", "B")
    for case in "AB":
        save_volume(file(root, case, "seg"), np.zeros(SHAPE, np.uint8))
        save_volume(file(root, case, "t1"), np.zeros(SHAPE, np.int16))
    assert not [text for _, _, text in said(verify(root)) if "equal in every voxel" in text]


def twin_of(root: Path, part: str, *, change: int = 0) -> Path:
    """Writes the volume of A again as `.nii`, one voxel of it changed by so much."""
    array = stored(file(root, "A", part)).copy()
    array[6, 6, 6] += change
    return save_volume(file(root, "A", part).with_suffix(""), array)


@given("A_t1.nii beside A_t1.nii.gz, of the same content", "a warning by verify; training reads it")
def test_equal_twins_are_said(tmp_path):
    root = make(tmp_path / "root", "A", "B")
    twin_of(root, "t1")
    assert only(root) == ("A", "warning", "A_t1.nii.gz and A_t1.nii hold the same volume twice")
    assert len(open_dataset(settings(tmp_path, root=str(root)), quiet).train) == 1


@table(
    "part",
    ("A_t1.nii beside A_t1.nii.gz, one voxel differs", "refused by verify, training and prediction", "t1"),
    ("A_flair.nii beside A_flair.nii.gz, one voxel differs", "refused", "flair"),
    ("A_seg.nii beside A_seg.nii.gz, one voxel differs", "refused by verify and training", "seg"),
)
def test_twins_of_other_content_are_refused(tmp_path, unchanged, part):
    root, names = make(tmp_path / "root", "A", "B"), rf"A_{part}.nii.gz has a twin, A_{part}.nii: 1 voxels .* differ"
    open_dataset(settings(tmp_path, root=str(root)), quiet)
    twin_of(root, part, change=1)
    with unchanged(root):
        case, severity, text = only(root)
        assert (case, severity) == ("A", "fatal")
        assert text.endswith(f"1 voxels of A_{part}.nii.gz and A_{part}.nii differ; keep the one that is meant")
        # What was prepared before the twin came is not taken for it.
        refused(names, open_dataset, settings(tmp_path, root=str(root)), quiet)
        files = VOLUMES["brats"].find(root, ("t1", "flair"), labels_required=False)
        if part != "seg":
            refused(names, load_case, files[0], ("t1", "flair"), None)
        else:
            load_case(files[0], ("t1", "flair"), None)


@given("a twin on another grid", "refused; the grids are named")
def test_a_twin_on_another_grid_is_refused(tmp_path):
    root = make(tmp_path, "A")
    save_volume(root / "A" / "A_t1.nii", stored(file(root, "A", "t1")), spacing_mm=(1, 1, 2))
    _, severity, text = only(root)
    assert (severity, "A_t1.nii.gz has a twin, A_t1.nii: affine" in text) == ("fatal", True)


@given("subject-1-T1.nii.gz beside subject-1-T1.hdr of iSeg", "refused: the orientation of one is assumed")
def test_a_pair_beside_a_volume_is_no_equal_twin(tmp_path):
    image = np.pad(np.arange(1, 28, dtype=np.int16).reshape(3, 3, 3), 1)
    write_iseg(tmp_path, 1, {"T1": image, "T2": image * 2}, nifti=True)
    save_pair(tmp_path / "subject-1-T1.hdr", image)
    texts = [text for _, severity, text in said(verify(tmp_path)) if severity == "fatal"]
    assert len(texts) == 1
    assert "subject-1-T1.nii.gz has a twin, subject-1-T1.hdr: the orientation" in texts[0]
    files = VOLUMES["iseg"].find(tmp_path, ("t1", "t2"), labels_required=False)
    refused("has a twin", load_case, files[0], ("t1",), label_scheme("iseg"))


@table(
    "beside",
    ("a FLAIR whose header says 'synthesized by jaxfuse'", "a warning that it was not acquired", False),
    ("a FLAIR with a JSON file beside it that says synthesized", "a warning", True),
)
def test_an_image_made_by_this_program_is_named(tmp_path, beside):
    root = make(tmp_path, "A", "B")
    path = file(root, "A", "flair")
    if beside:
        write_json(path.with_name("A_flair.json"), {"synthesized": True, "target": "flair"})
    else:
        write_like(path, stored(path), file(root, "A", "t1"), description="synthesized by jaxfuse")
    place = "A_flair.json beside it says so" if beside else "its header says 'synthesized by jaxfuse'"
    text = f"A_flair.nii.gz was made by jaxfuse ({place}): it was not acquired, nor drawn"
    assert only(root) == ("A", "warning", text)


@given("a label whose header says that its FLAIR was synthesized by jaxfuse", "a warning that no person drew it")
def test_a_label_made_by_this_program_is_named(tmp_path):
    root = make(tmp_path, "A")
    path = file(root, "A", "seg")
    write_like(path, stored(path), file(root, "A", "t1"), description="flair synthesized by jaxfuse")
    assert only(root)[2].startswith("A_seg.nii.gz was made by jaxfuse (its header says 'flair synthesized by jaxfuse')")


@pytest.mark.parametrize("content", ["{", '{"synthesized": false}', "[]", "\xff"])
def test_a_json_file_of_another_program_says_nothing(tmp_path, content):
    root = make(tmp_path, "A")
    (root / "A" / "A_t1.json").write_text(content, encoding="latin-1")
    assert said(verify(root)) == []
