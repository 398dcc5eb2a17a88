"""Subjects of iSeg: what is found, in which order, as Analyze pairs and as NIfTI, and what is refused."""

from pathlib import Path

import numpy as np
import pytest

from jaxfuse.data.cache import prepare
from jaxfuse.data.cases import Image, load_case
from jaxfuse.data.sources import iseg
from jaxfuse.data.sources.volumes import VOLUMES
from jaxfuse.labels import label_scheme
from tests.made_cases import write_iseg
from tests.refusals import refused

SCHEME = label_scheme("iseg")
BOTH = ("t1", "t2")
SHAPE = (4, 5, 6)
find = VOLUMES["iseg"].find


def volume(seed: int = 0, shape: tuple[int, ...] = SHAPE) -> np.ndarray:
    return np.random.default_rng(seed).integers(1, 900, shape).astype(np.int16)


def make(root: Path, number: int, *, nifti: bool = False, shape: tuple[int, ...] = SHAPE, odd=0, **arrays) -> None:
    """A whole subject; `arrays` replace parts, None leaves one out; `odd` is one more value of the label."""
    label = np.zeros(shape, np.uint8)
    label[1, 1, 1:4], label[0, 0, 0] = [10, 150, 250], odd
    whole = {"T1": volume(number, shape), "T2": volume(number + 50, shape), "label": label}
    write_iseg(root, number, {**whole, **arrays}, nifti=nifti)


def test_subjects_come_by_number_from_any_level(tmp_path):
    for number in (10, 2, 1):
        make(tmp_path / "iSeg-2017-Training", number)
    make(tmp_path / "iSeg-2017-Testing", 11, label=None)
    cases = find(tmp_path, BOTH, labels_required=False)
    assert [case.id for case in cases] == ["subject-1", "subject-2", "subject-10", "subject-11"]
    training = tmp_path / "iSeg-2017-Training"
    assert cases[2].images == {m: Image(training / f"subject-10-{m.upper()}.hdr") for m in ("t1", "t2")}
    assert [case.label and case.label.name for case in cases[2:]] == ["subject-10-label.hdr", None]


@pytest.mark.parametrize("nifti", [False, True])
def test_a_subject_is_read_with_its_classes(tmp_path, nifti):
    make(tmp_path, 3, nifti=nifti)
    (files,) = find(tmp_path, BOTH, labels_required=True)
    case = load_case(files, BOTH, SCHEME)
    assert case.image.shape == (*SHAPE, 2)  # the trailing axis of length 1 is dropped
    np.testing.assert_array_equal(case.image[..., 1], volume(53))
    expected = np.zeros(SHAPE)
    expected[1, 1, 1:4] = [1, 2, 3]
    np.testing.assert_array_equal(case.label, expected)


def test_subjects_may_differ_in_shape_and_the_files_of_one_may_not(tmp_path):
    make(tmp_path, 1)
    make(tmp_path, 23, shape=(5, 5, 7))
    cases = [load_case(files, BOTH, SCHEME) for files in find(tmp_path, BOTH, labels_required=True)]
    assert [case.image.shape for case in cases] == [(4, 5, 6, 2), (5, 5, 7, 2)]
    make(tmp_path / "other", 2, T2=volume(shape=(4, 5, 7)))
    (files,) = find(tmp_path / "other", BOTH, labels_required=True)
    refused(r"case subject-2: shape \(4, 5, 7\) of subject-2-T2\.hdr differs", load_case, files, BOTH, SCHEME)


def test_what_is_missing_is_named(tmp_path):
    make(tmp_path, 1, T2=None)
    (found,) = iseg.survey(tmp_path, BOTH)
    assert found.missing == {"t2": "subject-1-T2.hdr (or .nii.gz)"}
    message = r"case subject-1 has no t2 image: subject-1-T2\.hdr \(or \.nii\.gz\) is not in"
    refused(message, find, tmp_path, BOTH, labels_required=False)
    assert [tuple(case.images) for case in find(tmp_path, ("t1",), labels_required=True)] == [("t1",)]
    make(tmp_path / "unlabeled", 2, label=None)
    refused("case subject-2 has no label file", find, tmp_path / "unlabeled", BOTH, labels_required=True)


def test_what_is_no_subject_is_refused(tmp_path):
    message = "no subject lies under .*; files such as subject-1-T1.hdr are expected"
    refused(message, find, tmp_path, BOTH, labels_required=False)
    for folder in "ab":
        make(tmp_path / folder, 1, odd=100)
    refused("subject 1 lies twice under", find, tmp_path, BOTH, labels_required=False)
    refused("choose from t1, t2", find, tmp_path, ("t1", "flair"), labels_required=False)
    (files,) = find(tmp_path / "a", BOTH, labels_required=True)
    message = "holds the label values 0, 10, 100, 150, 250, scheme iseg knows 0, 10, 150, 2"
    refused(message, load_case, files, BOTH, SCHEME)


def test_both_files_of_a_pair_count_in_the_cache(tmp_path):
    def key():
        files = find(tmp_path / "data", BOTH, labels_required=True)
        return prepare(files, BOTH, SCHEME, cache=tmp_path / "cache")[0].key

    make(tmp_path / "data", 1)
    keys = [key()]
    for ending in ("img", "hdr"):
        path = tmp_path / "data" / f"subject-1-T2.{ending}"
        content = bytearray(path.read_bytes())
        content[200] ^= 1  # of the header a byte of free text
        path.write_bytes(bytes(content))
        keys.append(key())
    assert len(set(keys)) == 3


def test_real_volumes_in_this_layout(shared_data):
    (files,) = find(shared_data / "iseg_like_mni152", BOTH, labels_required=True)
    case = load_case(files, BOTH, SCHEME)
    assert (case.image.shape, case.spacing_mm) == ((91, 109, 91, 2), (2, 2, 2))
    # As the data set's description counts them.
    assert np.bincount(case.label.ravel())[1:].tolist() == [29816, 139129, 73956]
