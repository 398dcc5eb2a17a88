"""Every problem is found, said of its case, and graded."""

from pathlib import Path

import nibabel as nib
import numpy as np
import pytest

from jaxfuse.data.verify import ALL_CASES, Verdict, verify
from tests.made_cases import MODALITIES, save_volume, write_case
from tests.refusals import refused

SHAPE = (5, 6, 7)


def head() -> np.ndarray:
    array = np.zeros(SHAPE, np.float32)
    array[1:4, 1:5, 1:6] = np.arange(60).reshape(3, 4, 5) + 10
    return array


def tumor(*values: int) -> np.ndarray:
    label = np.zeros(SHAPE, np.uint8)
    label[2, 2, 1 : 1 + len(values)] = values
    return label


def make(root: Path, name: str, *, affine: np.ndarray | None = None, **arrays: np.ndarray | None) -> Path:
    """A sound case, no file of which equals one of another; `arrays` replace files by suffix, None leaves one out."""
    own = ord(name[0])
    sound = {m: np.where(head() > 0, head() + own + i / 8, 0) for i, m in enumerate(MODALITIES)}
    sound["seg"] = np.roll(tumor(1, 2, 4), (own % 3 - 1, own % 4 - 1), axis=(0, 1))
    return write_case(root, name, {**sound, **arrays}, affine=affine).parent


def said(verdict: Verdict, case: str = "p") -> list[tuple[str, str]]:
    return [(p.severity, p.message) for p in verdict.problems if p.case == case]


def test_sound_data_have_no_problem(tmp_path):
    verdict = verify(make(tmp_path, "p"))
    assert (verdict.problems, verdict.layout, verdict.scheme, verdict.cases) == ((), "generic", "brats", ("p",))


PROBLEMS = [
    ({"t2": None}, "fatal", "no t2 image: p_t2.nii.gz is missing"),
    ({"t2": head()[:4]}, "fatal", "(4, 6, 7)"),
    ({"t2": np.where(head() > 60, np.nan, head())}, "fatal", "p_t2.nii.gz has 9 voxels that are NaN or infinite"),
    ({"t2": np.zeros(SHAPE, np.int16)}, "fatal", "p_t2.nii.gz is empty"),
    ({"t2": np.full(SHAPE, 3, np.int16)}, "fatal", "p_t2.nii.gz is constant"),
    ({"t2": (head() > 0).astype(np.int16)}, "warning", "one value only besides 0"),
    ({"t2": head() - 5}, "warning", "p_t2.nii.gz has the background -5, not 0"),
    ({"seg": None}, "warning", "no label file"),
    ({"seg": tumor(1, 2, 3)}, "fatal", "brats2023, brats2015, decathlon, brats2024, brats2024_ped would fit"),
    ({"seg": tumor(1, 2, 4) * 0.5}, "fatal", "not whole numbers"),
    ({"seg": tumor(1, 2, 4)[:4]}, "fatal", "(4, 6, 7)"),
    ({"seg": tumor()}, "warning", "marks nothing"),
    ({"seg": tumor(1, 1, 1)}, "warning", "holds only 0 and 1"),
    ({"seg": tumor(1, 2, 4, 1, 1, 1)}, "warning", "marks 1 voxels where every image shows background"),
]


@pytest.mark.parametrize(("arrays", "severity", "message"), PROBLEMS)
def test_each_problem_is_the_only_one_said_of_its_case(tmp_path, arrays, severity, message):
    make(tmp_path, "p", **arrays)
    make(tmp_path, "sound")
    verdict = verify(tmp_path)
    ((found, text),) = said(verdict)
    assert found == severity
    assert message in text
    assert said(verdict, "sound") == said(verdict, ALL_CASES) == []


def test_truncated_file_does_not_stop_the_rest(tmp_path):
    make(tmp_path, "p", t1=None, seg=tumor(7))
    path = tmp_path / "p" / "p_flair.nii.gz"
    path.write_bytes(path.read_bytes()[:50])
    make(tmp_path, "q", t2=np.zeros(SHAPE, np.int16))
    verdict = verify(tmp_path)
    texts = [text for _, text in said(verdict)]
    assert ["no t1" in texts[0], "damaged" in texts[1], "7" in texts[2]] == [True] * 3
    assert len(said(verdict, "q")) == 1
    assert verdict.count("fatal") == 4


def test_affine_of_one_modality_differs_and_forms_disagree(tmp_path):
    make(tmp_path, "p")
    path = save_volume(tmp_path / "p" / "p_t2.nii.gz", head(), spacing_mm=(1, 1, 1.5))
    ((severity, text),) = said(verify(tmp_path))
    assert (severity, "0 0 1.5 0" in text, "p_t1.nii.gz" in text) == ("fatal", True, True)
    image = nib.Nifti1Image(head(), np.eye(4))
    image.set_qform(np.diag([-1.0, 1, 1, 1]), 1)
    nib.save(nib.Nifti1Image(head(), None, image.header), path)
    ((severity, text),) = said(verify(tmp_path))
    assert (severity, "qform and sform" in text) == ("warning", True)


def test_unusual_spacing_is_said_of_the_odd_case(tmp_path):
    for name, side in (("p", 1.0), ("q", 1.0), ("r", 2.0)):
        make(tmp_path, name, affine=np.diag([1, 1, side, 1]))
    (problem,) = verify(tmp_path).problems
    message = (
        "voxels of 1 × 1 × 2 mm, while 2 of 3 cases have 1 × 1 × 1 mm; data.resample_mm=(1, 1, 1) brings all to these"
    )
    assert (problem.case, problem.message) == ("r", message)


def test_a_class_that_no_case_holds_is_said_of_all(tmp_path):
    make(tmp_path, "p", seg=tumor(1, 2))
    make(tmp_path, "q", seg=tumor(2, 2))
    ((severity, text),) = said(verify(tmp_path), ALL_CASES)
    assert (severity, "enhancing tumor" in text) == ("warning", True)


def test_named_scheme_and_modalities_win(tmp_path):
    make(tmp_path, "p", t1=None, t2=None, seg=tumor(1))
    verdict = verify(tmp_path, scheme="lesion", modalities=("t1ce", "flair"))
    assert (verdict.problems, verdict.scheme) == ((), "lesion")


def test_progress_and_refusals(tmp_path):
    for name in "pq":
        make(tmp_path / "data", name)
    seen = []
    verify(tmp_path / "data", on_case=lambda done, total: seen.append((done, total)))
    assert seen == [(1, 2), (2, 2)]
    refused("label scheme 'x' is not known", verify, tmp_path / "data", scheme="x")
    (tmp_path / "empty").mkdir()
    refused("no case lies under", verify, tmp_path / "empty")


@pytest.mark.parametrize(
    ("folder", "options", "fatal", "warnings"),
    [
        ("tcga_lgg_brats", {}, 0, 0),
        # Three lesion voxels lie outside the skull-stripped brain.
        ("ms_lesion_mni", {"scheme": "lesion"}, 0, 1),
        # Four images with a background below zero; labels of both cases reach into it.
        ("brats2015_2mod", {"scheme": "brats2015", "modalities": ("t1ce", "flair")}, 0, 6),
        ("brats2015_2mod", {"modalities": ("t1ce", "flair")}, 2, 4),
    ],
)
def test_real_data(shared_data, folder, options, fatal, warnings):
    if not (shared_data / folder).is_dir():
        pytest.skip(f"sample data are not at {shared_data}")
    verdict = verify(shared_data / folder, **options)
    assert (verdict.count("fatal"), verdict.count("warning")) == (fatal, warnings)
