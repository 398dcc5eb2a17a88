"""Verification of subjects of iSeg and of folders of stroke cases."""

import numpy as np

from jaxfuse.data.phantom.infant import write_infant_phantoms
from jaxfuse.data.phantom.stroke import write_stroke_phantoms
from jaxfuse.data.verify import ALL_CASES, verify
from tests.made_cases import write_case, write_iseg
from tests.refusals import refused


def test_iseg_phantoms_are_sound_but_for_an_orientation_that_is_assumed(tmp_path):
    write_infant_phantoms(tmp_path / "set", cases=2, seed=0, shape=(32, 36, 28), spacing_mm=4.6)
    verdict = verify(tmp_path / "set")
    told = (verdict.layout, verdict.scheme, verdict.modalities, verdict.cases)
    assert told == ("iseg", "iseg", ("t1", "t2"), ("subject-1", "subject-2"))
    (problem,) = verdict.problems
    assert (problem.case, problem.severity) == (ALL_CASES, "warning")
    assert problem.message.startswith("headers tell no orientation (cases: 2): array axis 0")


def test_stroke_phantoms_are_sound(tmp_path):
    folders = write_stroke_phantoms(tmp_path / "set", cases=2, seed=0, shape=(36, 40, 16), spacing_mm=4.6)
    verdict = verify(tmp_path / "set")
    assert (verdict.layout, verdict.scheme, verdict.problems) == ("stroke", "stroke", ())
    (folders[0] / f"{folders[0].name}_dwi_b0.nii.gz").unlink()
    (problem,) = verify(tmp_path / "set").problems
    said = "no dwi_b0 image: stroke_phantom_000_dwi_b0.nii.gz is missing"
    assert (problem.severity, problem.message) == ("fatal", said)
    assert verify(tmp_path / "set", modalities=("t2",)).problems == ()


def test_problems_of_subjects_are_said(tmp_path):
    image = np.pad(np.arange(1, 28, dtype=np.int16).reshape(3, 3, 3), 1)
    label = np.zeros((5, 5, 5), np.uint8)
    label[1, 1, 1:4] = [10, 150, 251]
    write_iseg(tmp_path, 7, {"T1": image, "T2": image[:4], "label": label})
    shapes, labels = (problem.message for problem in verify(tmp_path).problems if problem.severity == "fatal")
    assert "shape (4, 5, 5) of subject-7-T2.hdr differs" in shapes
    assert "subject-7-label.hdr holds the label values 0, 10, 150, 251, scheme iseg knows 0, 10, 150, 250" in labels
    (tmp_path / "subject-7-T1.img").unlink()
    assert any("subject-7-T1.img cannot be read" in problem.message for problem in verify(tmp_path).problems)


def test_a_layout_that_is_named_wins(tmp_path):
    write_case(tmp_path, "a", dict.fromkeys(("t2", "dwi_b1000"), np.pad(np.ones((2, 2, 2), np.int16), 1)))
    assert verify(tmp_path).layout == "stroke"
    assert verify(tmp_path, layout="generic", modalities=("t2",)).scheme == "brats"
    refused("no subject lies under", verify, tmp_path, layout="iseg")


def test_real_volumes_in_the_layout_of_iseg(shared_data):
    verdict = verify(shared_data / "iseg_like_mni152")
    assert (verdict.layout, verdict.cases, verdict.count("fatal")) == ("iseg", ("subject-1",), 0)
