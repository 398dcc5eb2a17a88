"""Data sets that describe themselves, where description and files do not agree."""

import json
import shutil
from pathlib import Path
from typing import Any

import pytest

from jaxfuse.data.sources.volumes import volume_root
from jaxfuse.io.tables import write_json
from tests.faults.catalogue import given, table
from tests.made_cases import MODALITIES
from tests.made_layouts import made_case, write_decathlon, write_nnunet
from tests.refusals import refused

GONE = object()
CASES = {"a": made_case(0), "b": made_case(1)}


@pytest.fixture(scope="module")
def sound(tmp_path_factory):
    """Returns data sets by their layouts, as they are published."""
    root = tmp_path_factory.mktemp("sound")
    held_out = {"c": made_case(2)}
    return {
        "nnunet": write_nnunet(root / "nnunet", CASES, held_out),
        "decathlon": write_decathlon(root / "decathlon", CASES, held_out),
    }


def changed(root: Path, folder: Path, **entries: Any) -> Path:
    """Returns a copy of a data set with other entries in its `dataset.json`, some of them gone."""
    copy = shutil.copytree(root, folder / root.name)
    told = json.loads((root / "dataset.json").read_text()) | entries
    write_json(copy / "dataset.json", {key: value for key, value in told.items() if value is not GONE})
    return copy


def opened(root: Path, modalities: tuple[str, ...] = MODALITIES) -> Any:
    return volume_root(root, source="brats").find(modalities, labels_required=True)


@table(
    "entries, message",
    (
        "`dataset.json` without `channel_names`",
        "refused",
        {"channel_names": GONE},
        "neither channel_names nor modality",
    ),
    (
        "channel_names as a list",
        "refused",
        {"channel_names": ["T1"]},
        r"channel_names is \['T1'\]; a name for each number",
    ),
    (
        "channels numbered from 1",
        "refused",
        {"channel_names": {"1": "T1"}},
        "a name for each number from 0 is expected",
    ),
    ("two channels of one name", "refused", {"channel_names": {"0": "T1", "1": "T1w"}}, "which are 't1', 't1' here"),
    (
        "a case with fewer images than channels",
        "refused",
        {"channel_names": dict(enumerate("abcde"))},
        "choose from a, b",
    ),
    ("no labels", "refused", {"labels": GONE}, "labels is None; names and values are expected"),
    ("labels as a list", "refused", {"labels": ["tumor"]}, r"labels is \['tumor'\]"),
    ("labels without background", "refused", {"labels": {"tumor": 1}}, "labels has no background"),
    ("a label of 1.5", "refused", {"labels": {"background": 0, "tumor": 1.5}}, "label 'tumor' has the value 1.5"),
    ("a label of an empty list", "refused", {"labels": {"background": 0, "tumor": []}}, r"'tumor' has the value \[\]"),
    ("two labels of one value", "refused", {"labels": {"background": 0, "a": 1, "b": 1}}, "one value to two classes"),
    ("a label of 300", "refused", {"labels": {"background": 0, "tumor": 300}}, "beyond 0 to 255"),
    (
        "a class and `ignore` of one value",
        "refused",
        {"labels": {"background": 0, "a": 1, "ignore": 1}},
        "one value to two classes",
    ),
    ("only background", "refused", {"labels": {"background": 0}}, "no class besides the background"),
    (
        "images of .mha",
        "refused",
        {"file_ending": ".mha"},
        "file_ending is '.mha'; volumes are read from .nii.gz and .nii",
    ),
    (
        "a listed case without label",
        "refused",
        {"dataset": {"a": {"images": ["x"] * 4}}},
        "case a of dataset is not an",
    ),
    ("a list of cases in place of an object", "refused", {"dataset": ["a"]}, r"dataset is \['a'\]; an object of cases"),
)
def test_what_nnunets_dataset_json_cannot_mean(sound, tmp_path, entries, message):
    refused(message, opened, changed(sound["nnunet"], tmp_path, **entries))


def _entry(image: Any, label: Any = "labelsTr/a.nii.gz") -> dict[str, Any]:
    return {"training": [{"image": image, "label": label}]}


@table(
    "entries, message",
    ("a training list that is an object", "refused", {"training": {}}, "training is {}; a list of images"),
    ("a training image without label", "refused", {"training": [{"image": "a"}]}, 'an object with "image" and "label"'),
    ("a number for a path", "refused", _entry(3), "the image of entry 0 of training is 3; a path relative to"),
    ("an image outside the data set", "refused", _entry("../a.nii.gz"), "leads out of .*; list files within it"),
    (
        "a label by an absolute path",
        "refused",
        _entry("imagesTr/a.nii.gz", "/a.nii.gz"),
        "'/a.nii.gz', which leads out of",
    ),
    (
        "a listed image that is not there",
        "refused",
        _entry("imagesTr/x.nii.gz"),
        "case x has no t1 image: x.nii.gz is not",
    ),
    ("a listed label that is not there", "refused", _entry("imagesTr/a.nii.gz", "x"), "case a has no label file"),
    ("one case twice", "refused", {"training": _entry("imagesTr/a.nii.gz")["training"] * 2}, "lists case a twice"),
    ("a case that trains and tests", "refused", {"test": ["imagesTr/a.nii.gz"]}, "lists case a twice"),
    ("no case at all", "refused", {"training": [], "test": []}, "no case lies under"),
)
def test_what_the_decathlons_dataset_json_cannot_mean(sound, tmp_path, entries, message):
    refused(message, opened, changed(sound["decathlon"], tmp_path, **entries))


@given("`dataset.json` cut short, of other bytes, or a list", "refused, with the file's name")
@pytest.mark.parametrize("content", [b'{"channel_names": {"0": "T1"', b"\xff\xfe\x00", b"[" * 100_000, b"[]"])
@pytest.mark.parametrize("layout", ["nnunet", "decathlon"])
def test_a_description_that_is_none(sound, tmp_path, layout, content):
    root = shutil.copytree(sound[layout], tmp_path / "copy")
    (root / "dataset.json").write_bytes(content)
    refused(r"dataset\.json (is not valid JSON|holds \[\]; an object)", opened, root)


@given("numbered images without `dataset.json` beside or above them", "refused: what they are is not guessed")
def test_images_alone(sound, tmp_path):
    root = shutil.copytree(sound["nnunet"] / "imagesTs", tmp_path / "cases")
    refused("has no dataset.json, which tells what the images are; copy that", opened, root)
    shutil.copy(sound["nnunet"] / "dataset.json", root)
    assert [one.id for one in volume_root(root).find(MODALITIES, labels_required=False)] == ["c"]


@given("a folder of two data sets", "refused, with the names of both")
def test_two_data_sets(sound, tmp_path):
    for name in ("one", "two"):
        shutil.copytree(sound["nnunet"], tmp_path / name)
    refused(r"holds 2 data sets \(one, two\); give the folder of one", opened, tmp_path)


@given("a data set of nnU-Net beside one of the Decathlon", "refused, with the names of both layouts")
def test_two_layouts(sound):
    refused("holds cases of the layouts decathlon, nnunet; give one of the folders", opened, sound["nnunet"].parent)


@given("a modality that the data set does not name", "refused, with those that it names")
def test_an_unknown_modality(sound):
    refused(
        "choose from t1, t1ce, t2, flair, which is all that cases of layout nnunet have",
        opened,
        sound["nnunet"],
        ("ct",),
    )


@given("a case with more images than `dataset.json` names", "refused")
def test_more_images_than_channels(sound, tmp_path):
    root = changed(sound["nnunet"], tmp_path, channel_names={"0": "T1", "1": "T2"})
    refused(r"case a has the image a_0002 in .* names 2 \(t1, t2\); name all of them", opened, root, ("t1",))


@given("a case that trains and is held out", "refused")
def test_a_case_on_both_sides(sound, tmp_path):
    root = shutil.copytree(sound["nnunet"], tmp_path / "copy")
    for path in (root / "imagesTr").glob("a_*"):
        shutil.copy(path, root / "imagesTs")
    refused("case a lies in imagesTr and in imagesTs of .*; keep it in one", opened, root)


@given("links in a circle", "refused or passed over, in one sentence")
def test_links_in_a_circle(sound, tmp_path):
    root = shutil.copytree(sound["nnunet"], tmp_path / "copy")
    (root / "imagesTr" / "a_0002.nii.gz").unlink()
    (root / "imagesTr" / "a_0002.nii.gz").symlink_to("a_0002.nii.gz")
    (root / "around").symlink_to("around")
    refused("case a has no t2 image: a_0002.nii.gz is not in", opened, root)
    (root / "again").symlink_to(".")
    refused("case a has no t2 image", opened, root)
    shutil.copy(root / "imagesTr" / "a_0001.nii.gz", root / "imagesTr" / "a_0002.nii")
    assert len(opened(root)) == 3
