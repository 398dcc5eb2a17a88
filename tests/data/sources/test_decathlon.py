"""Data sets of the Medical Segmentation Decathlon."""

import pytest

from jaxfuse.data.sources.volumes import detect_layout, volume_root
from jaxfuse.data.verify import verify
from tests.made_layouts import made_case, write_decathlon
from tests.refusals import refused

CHANNELS = ("flair", "t1", "t1ce", "t2")


@pytest.fixture(scope="module")
def published(tmp_path_factory):
    root = tmp_path_factory.mktemp("decathlon") / "Task01"
    return write_decathlon(root, {"BRATS_002": made_case(2), "BRATS_001": made_case(1)}, {"BRATS_485": made_case(3)})


def test_a_data_set_is_read_from_every_level(published):
    every = ["BRATS_001", "BRATS_002", "BRATS_485"]
    for root, ids in ((published, every), (published.parent, every), (published / "imagesTs", every[-1:])):
        there = volume_root(root, source="brats")
        assert (there.layout, there.modalities, there.scheme) == ("decathlon", CHANNELS, "decathlon")
        files = there.find(("t2", "flair"), labels_required=True)
        assert [one.id for one in files] == ids
        assert (files[-1].side, files[-1].label) == ("test", None)
        assert [(one.path.name, one.channel) for one in files[-1].images.values()] == [
            ("BRATS_485.nii.gz", 3),
            ("BRATS_485.nii.gz", 0),
        ]
    refused("has no file of its own in the layout decathlon", there.place, "BRATS_485", "t2")


def test_one_image_has_three_axes(tmp_path):
    root = write_decathlon(tmp_path, {"a": made_case(0)}, channels=("t1",), labels={"0": "background", "1": "Left"})
    there = volume_root(root)
    assert (there.scheme, there.find(("t1",), labels_required=True)[0].images["t1"].channel) == ("Left=1", None)


def test_files_of_the_finder_are_left_alone_and_strangers_are_named(published, tmp_path):
    root = write_decathlon(tmp_path, {"a": made_case(0)}, numTraining=484)
    (root / "imagesTr" / "._a.nii.gz").touch()
    assert verify(root).problems[0].message == "dataset.json says numTraining 484, and 1 are listed"
    (root / "imagesTr" / "b.nii.gz").touch()
    told = [problem.message for problem in verify(root).problems]
    assert told[1] == "1 images are not listed in dataset.json, the first of them b.nii.gz"
    assert detect_layout(root) == "decathlon"
    assert verify(published).problems == ()
