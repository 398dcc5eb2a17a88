import numpy as np
import pytest

from jaxfuse.io.tables import write_json
from jaxfuse.labels import label_scheme
from jaxfuse.scoring.label_maps import label_pictures
from tests.made_cases import head, nested_cubes, save_pair, save_volume, write_case, write_iseg

SHAPE, SCHEME, CASE = (10, 9, 8), label_scheme("brats"), "Brats18_A_1"


@pytest.fixture
def folders(tmp_path):
    """A data set of one case and two methods, of which one predicted half."""
    write_case(tmp_path / "ref", CASE, head(SHAPE, 0) | {"seg": nested_cubes(SHAPE)}, spacing_mm=(1, 1, 2))
    for name, label in (("a", nested_cubes(SHAPE)), ("b", nested_cubes(SHAPE, {2: 2}))):
        save_volume(tmp_path / name / f"{CASE}.nii.gz", label, spacing_mm=(1, 1, 2))
    return {name: tmp_path / name for name in "ab"}, tmp_path / "ref"


def test_a_case_has_its_last_modality_its_truth_and_its_predictions(folders):
    preds, ref = folders
    found = label_pictures(preds, ref, SCHEME)(CASE, ["a", "b"])
    assert (found.beneath, found.spacing_mm) == ("flair", (1, 1, 2))
    np.testing.assert_array_equal(found.image, head(SHAPE, 0)["flair"])
    np.testing.assert_array_equal(np.unique(found.truth), [0, 1, 2, 3])
    np.testing.assert_array_equal(found.predictions["a"], found.truth)
    np.testing.assert_array_equal(np.unique(found.predictions["b"]), [0, 2])
    # A method that did not come to a score of the case is not read.
    assert list(label_pictures(preds, ref, SCHEME)(CASE, ["b"]).predictions) == ["b"]


def test_an_image_that_cannot_be_shown_is_told_and_left_out(folders):
    preds, ref = folders
    path = ref / CASE / f"{CASE}_flair.nii.gz"
    save_volume(path, head((4, 4, 4), 0)["flair"])
    found = label_pictures(preds, ref, SCHEME)(CASE, ["a"])
    assert found.image is None
    assert "shape (4, 4, 4)" in found.beneath
    path.write_bytes(b"no volume")
    assert str(path) in label_pictures(preds, ref, SCHEME)(CASE, ["a"]).beneath


def test_voxels_that_are_not_scored_are_shown_as_background(tmp_path):
    save_volume(tmp_path / "ref" / "c.nii.gz", nested_cubes(SHAPE, {9: 4, 1: 2}))
    save_volume(tmp_path / "a" / "c.nii.gz", nested_cubes(SHAPE, {1: 2}))
    found = label_pictures({"a": tmp_path / "a"}, tmp_path / "ref", label_scheme("tumor=1,ignore=9"))("c", ["a"])
    np.testing.assert_array_equal(found.truth, nested_cubes(SHAPE, {1: 2}))


def test_label_volumes_alone_have_no_image(folders):
    preds, _ = folders
    found = label_pictures({"b": preds["b"]}, preds["a"], SCHEME)(CASE, ["b"])
    assert (found.image, found.beneath) == (None, "")


def test_images_beside_the_labels_of_a_data_set_are_found(tmp_path):
    label = nested_cubes(SHAPE, {10: 4, 150: 2})
    write_iseg(tmp_path / "ref", 1, {"T1": label + 1, "T2": label + 2, "label": label})
    save_pair(tmp_path / "pred" / "subject-1-label.hdr", label)
    found = label_pictures({"a": tmp_path / "pred"}, tmp_path / "ref", label_scheme("iseg"))("subject-1", ["a"])
    assert found.beneath == "t2"
    np.testing.assert_array_equal(found.image, label + 2)
    # Files of an nnU-Net: the labels lie in a folder beside that of the images.
    nnunet = tmp_path / "Dataset001_A"
    document = {"channel_names": {"0": "T1"}, "labels": {"background": 0, "tumor": 1}, "file_ending": ".nii.gz"}
    write_json(nnunet / "dataset.json", document | {"numTraining": 1})
    truth = nested_cubes(SHAPE, {1: 2})
    save_volume(nnunet / "labelsTr" / "c.nii.gz", truth)
    save_volume(nnunet / "imagesTr" / "c_0000.nii.gz", truth + 3)
    scheme = label_scheme("tumor=1")
    found = label_pictures({"a": nnunet / "labelsTr"}, nnunet / "labelsTr", scheme)("c", ["a"])
    np.testing.assert_array_equal(found.image, truth + 3)
