"""nnU-Net raw data sets."""

import json
import shutil

import pytest

from jaxfuse.data.sources.volumes import detect_layout, volume_root
from jaxfuse.data.verify import verify
from jaxfuse.scoring.pairing import find_references
from tests.made_cases import MODALITIES
from tests.made_layouts import made_case, write_nnunet


@pytest.fixture(scope="module")
def published(tmp_path_factory):
    root = tmp_path_factory.mktemp("raw") / "Dataset001_Tumor"
    return write_nnunet(root, {"p2": made_case(2), "p1": made_case(1)}, {"q": made_case(3)})


def test_a_data_set_is_read_from_every_level(published):
    for root, ids in (
        (published, ["p1", "p2", "q"]),
        (published.parent, ["p1", "p2", "q"]),
        (published / "imagesTs", "q"),
    ):
        there = volume_root(root, source="brats")
        assert (there.layout, there.modalities, there.scheme) == ("nnunet", MODALITIES, "decathlon")
        files = there.find(("flair", "t1"), labels_required=True)
        assert [one.id for one in files] == list(ids)
        assert [files[-1].side, files[-1].label, files[-1].images["flair"].path.name] == ["test", None, "q_0003.nii.gz"]
    assert files[-1].images["t1"].path == published / "imagesTs" / "q_0000.nii.gz"
    assert str(there.place("q", "t2")) == "q_0002.nii.gz"


def test_version_1_is_told_by_its_numbered_files(published, tmp_path):
    root = shutil.copytree(published, tmp_path / "Task500_Tumor")
    told = json.loads((root / "dataset.json").read_text())
    told["modality"] = told.pop("channel_names")
    told["labels"] = {str(value): name for name, value in told["labels"].items()}
    del told["file_ending"]
    told |= {"training": [{"image": "./imagesTr/p1.nii.gz", "label": "./labelsTr/p1.nii.gz"}], "test": []}
    (root / "dataset.json").write_text(json.dumps(told))
    assert detect_layout(root) == "nnunet"
    assert [one.id for one in volume_root(root).find(MODALITIES, labels_required=True)] == ["p1", "p2", "q"]


def test_labels_that_are_regions_make_a_class_of_each_value(tmp_path):
    labels = {"background": 0, "organ": [1, 2, 5], "lesion": [2, 5], "cyst": [5]}
    root = write_nnunet(tmp_path, {"a": made_case(0)}, labels=labels, regions_class_order=[1, 2, 5])
    assert volume_root(root).scheme == "organ 1=1,lesion 2=2,cyst=5;organ=1+2+5,lesion=2+5,cyst=5"


def test_voxels_to_be_ignored_are_of_no_class(tmp_path):
    labels = {"background": 0, "organ": 1, "lesion": 2, "ignore": 3}
    root = write_nnunet(tmp_path / "classes", {"a": made_case(0)}, labels=labels)
    assert volume_root(root).scheme == "organ=1,lesion=2,ignore=3"
    assert verify(root).count("fatal") == 0
    labels = {"background": 0, "organ": [1, 2], "lesion": [2], "ignore": 3}
    root = write_nnunet(tmp_path / "regions", {"a": made_case(0)}, labels=labels, regions_class_order=[1, 2])
    assert volume_root(root).scheme == "organ 1=1,lesion=2,ignore=3;organ=1+2,lesion=2"


def test_files_may_be_listed_anywhere(published, tmp_path):
    told = json.loads((published / "dataset.json").read_text())
    images = [str(published / "imagesTr" / f"p1_{number:04d}.nii.gz") for number in range(4)]
    told["dataset"] = {"x": {"images": images, "label": str(published / "labelsTr" / "p1.nii.gz")}}
    root = tmp_path / "Dataset002_Listed"
    (root / "imagesTr").mkdir(parents=True)
    (root / "dataset.json").write_text(json.dumps(told))
    (one,) = volume_root(root).find(("t2",), labels_required=True)
    assert (one.id, one.images["t2"].path.name, one.label.name) == ("x", "p1_0002.nii.gz", "p1.nii.gz")


def test_a_data_set_is_verified(published, tmp_path):
    verdict = verify(published)
    assert (verdict.cases, verdict.scheme, verdict.problems) == (("p1", "p2", "q"), "decathlon", ())
    root = shutil.copytree(published, tmp_path / "other")
    shutil.copy(root / "labelsTr" / "p1.nii.gz", root / "labelsTr" / "p3.nii.gz")
    for path in root.glob("imagesTr/p1_*"):
        path.unlink()
    assert [problem.message for problem in verify(root).problems] == [
        "dataset.json says numTraining 2, and 1 cases are there",
        "labelsTr holds 2 labels without images, the first of them p1",
    ]


def test_the_labels_of_a_folder_are_told_by_the_file_above_it(published):
    assert find_references(published / "labelsTr")[1] == "decathlon"
    assert find_references(published) == find_references(published / "labelsTr")
