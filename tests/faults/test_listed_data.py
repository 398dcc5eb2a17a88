"""Datalists and data sets of BIDS that cannot be meant as they are."""

import json
import shutil
from pathlib import Path
from typing import Any

import pytest

from jaxfuse.data.sources.volumes import detect_layout, volume_root
from jaxfuse.data.verify import verify
from tests.faults.catalogue import given, table
from tests.made_layouts import made_case, write_bids, write_datalist
from tests.refusals import refused

IMAGES = {"t1": "p.nii", "t1ce": "p.nii", "t2": "p.nii", "flair": "p.nii"}


@pytest.fixture(scope="module")
def listed(tmp_path_factory):
    return write_datalist(tmp_path_factory.mktemp("list"), {"p": made_case(0), "q": made_case(1)})


@pytest.fixture(scope="module")
def bids(tmp_path_factory):
    return write_bids(tmp_path_factory.mktemp("bids") / "ds", {"sub-01": made_case(0), "sub-02": made_case(1)})


def opened(root: Path) -> Any:
    return volume_root(root, source="brats").find(("t1", "flair"), labels_required=True)


def one(**entry: Any) -> dict[str, Any]:
    return {"training": [{"case": "a", "image": IMAGES, **entry}]}


@table(
    "entries, message",
    (
        "a datalist with a key that is not known",
        "refused",
        {"modality": []},
        "it has 'modality', which is not known; choose",
    ),
    (
        "an entry with a key that is not known",
        "refused",
        one(lable="a"),
        "entry 0 of training has 'lable', which is not",
    ),
    ("a datalist without modalities", "refused", {"modalities": None}, "modalities is None; the names of the images"),
    ("two modalities of one name", "refused", {"modalities": ["T1w", "t1"]}, "which are 't1', 't1' here"),
    (
        "a list whose cases are an object",
        "refused",
        {"training": {}},
        "training is {}; a list of cases is expected",
    ),
    (
        "an entry without case",
        "refused",
        {"training": [{"image": "a"}]},
        'an object with "case" and "image" is expected',
    ),
    ("a case called ../a", "refused", one(case="../a"), "a case is called '../a'; a name of letters"),
    ("one case twice in a list", "refused", {"testing": [{"case": "p", "image": "p.nii"}]}, "lists case p twice"),
    (
        "three files for four modalities",
        "refused",
        one(image=["a", "b", "c"]),
        "a file is expected for each of t1, t1ce",
    ),
    ("a file of a modality that is not listed", "refused", one(image={"ct": "a"}), "a file is expected for each of"),
    ("a file by its number", "refused", one(image=[1, 2, 3, 4]), "a file is expected for each of"),
    (
        "a label that is a list",
        "refused",
        one(label=["a"]),
        r"label of entry 0 of training is \['a'\]; a text is expected",
    ),
    ("an image that is not there", "refused", one(image={"t1": "x.nii"}), "case a has no t1 image: .*/x.nii is not in"),
    ("a label that is not there", "refused", one(label="x.nii"), "the label of case a, .*x.nii, is not there"),
    (
        "a path that leaves the list's folder",
        "refused",
        one(image={"t1": "../x.nii"}),
        "leads out of .*; write the absolute",
    ),
    ("labels that are a number", "refused", {"labels": 3}, "labels is 3; a label scheme or names and values"),
    ("labels of a scheme that is not known", "refused", {"labels": "brast"}, "label scheme 'brast' is not known"),
    ("two labels of one value in a list", "refused", {"labels": {"a": 1, "b": 1}}, "gives one value to two classes"),
    ("no case", "refused", {"training": [], "testing": []}, "lists no case; list at least one"),
)
def test_what_a_list_cannot_mean(listed, entries, message):
    path = listed.with_name("changed.json")
    path.write_text(json.dumps(json.loads(listed.read_text()) | entries))
    refused(message, opened, path)


@table(
    "text, message",
    ("a table without `case`", "refused", "name,image_t1\na,b\n", "case and a column for each modality are expected"),
    ("a table without images", "refused", "case,label\na,b\n", "case and a column for each modality are expected"),
    (
        "a column that is not known",
        "refused",
        "case,image_t1,t2\na,b,c\n",
        "it has 't2', which is not known; choose from",
    ),
    ("a column twice", "refused", "case,image_t1,image_t1\na,b,c\n", "such as image_t1, each once"),
    ("a row with too many values", "refused", "case,image_t1\na,b,c\n", "rows with more or fewer values than columns"),
    (
        "a side called training",
        "refused",
        "case,image_t1,side\na,b,training\n",
        "case a has the side 'training'; choose",
    ),
    ("an empty table", "refused", "", "has the columns none; case and a column"),
)
def test_what_a_table_cannot_mean(tmp_path, text, message):
    (tmp_path / "list.csv").write_text(text)
    refused(message, opened, tmp_path / "list.csv")


@given("a JSON file that is no datalist, a table of other bytes, a picture for a root", "refused")
def test_files_that_are_no_lists(listed, tmp_path):
    for name, content, message in (
        ("a.json", b"[]", "is no datalist; an object with modalities"),
        ("a.json", b"{", "is not valid JSON"),
        ("a.csv", b"\xff\xfe", "cannot be read"),
        ("a.png", b"", "is a file; give the folder that holds the cases, or a datalist"),
    ):
        (tmp_path / name).write_bytes(content)
        refused(message, opened, tmp_path / name)
    refused("is no file; the layout datalist needs a datalist", volume_root, tmp_path, layout="datalist")


@pytest.fixture
def acquired_twice(bids, tmp_path):
    root = shutil.copytree(bids, tmp_path / "ds")
    anat = root / "sub-01" / "anat"
    shutil.copy(anat / "sub-01_T1w.nii.gz", anat / "sub-01_acq-fast_T1w.nii.gz")
    return root


@given("two T1 images of one session", "refused: which is meant is not guessed, and `data.entities` says it")
def test_two_images_of_one_kind(acquired_twice):
    refused(
        "case sub-01 has 2 files for t1: sub-01_T1w.nii.gz and sub-01_acq-fast_T1w.nii.gz; choose by an entity",
        opened,
        acquired_twice,
    )


@table(
    "entities, message",
    ("entities that none of two T1 images has", "refused", "acq-slow", "2 files for t1, none of them with acq-slow"),
    ("entities that both of two T1 images have", "refused", "sub-01", "2 files for t1, 2 of them with sub-01"),
    ("an entity without a hyphen", "refused", "acq", "'acq' is no entity of BIDS; write entities with their values"),
)
def test_entities_that_choose_nothing(acquired_twice, entities, message):
    refused(message, lambda: volume_root(acquired_twice, entities=entities).look(("t1",)))


@given("entities of BIDS for data in another layout", "refused")
def test_entities_of_other_names(listed):
    refused("the entities acq-a were chosen, and .* has the layout datalist", verify, listed, entities="acq-a")
    # A run's own, for cases kept otherwise that it is to label.
    assert volume_root(listed, entities="acq-a").layout == "datalist"


@given("two label maps of one session", "refused")
def test_two_label_maps(bids, tmp_path):
    root = shutil.copytree(bids, tmp_path / "ds")
    shutil.copytree(root / "derivatives" / "manual", root / "derivatives" / "other")
    refused("case sub-01 has 2 files for the label", opened, root)


@given("images without JSON files beside them", "warned of, once")
def test_no_sidecar(bids, tmp_path):
    root = shutil.copytree(bids, tmp_path / "ds")
    for path in root.glob("*.json"):
        path.unlink()
    (problem,) = verify(root).problems
    assert problem.message.startswith("8 of 8 images have no JSON file that describes them, such as sub-01_")


@table(
    "name, text, message",
    (
        "a table of labels without index",
        "refused",
        "dseg.tsv",
        "value\tname\n1\ta\n",
        "columns index, of whole numbers",
    ),
    ("a table of labels by letters", "refused", "dseg.tsv", "index\tname\nA\ta\n", "columns index, of whole numbers"),
    (
        "a table of labels with two rows on one value",
        "refused",
        "dseg.tsv",
        "index\tname\n1\ta\n1\tb\n",
        "one value to two",
    ),
)
def test_tables_that_are_none(bids, tmp_path, name, text, message):
    root = shutil.copytree(bids, tmp_path / "ds")
    (root / "derivatives" / "manual" / name).write_text(text)
    refused(message, verify, root)


@given("a `participants.tsv` without participant_id, or with rows cut short", "refused")
@pytest.mark.parametrize("text", ["id\tsex\nsub-01\tF\n", "participant_id\tsex\nsub-01\n"])
def test_participants(bids, tmp_path, text):
    root = shutil.copytree(bids, tmp_path / "ds")
    (root / "participants.tsv").write_text(text)
    refused("no column participant_id|rows with more or fewer values", verify, root)


@given("derivatives of two programs as one root", "refused, with the names of both")
def test_two_derivatives(bids, tmp_path):
    for name in ("one", "two"):
        shutil.copytree(bids / "sub-01", tmp_path / "derivatives" / name / "sub-01")
    assert detect_layout(tmp_path) == "bids"
    refused("holds 2 data sets .*; give the folder of one", opened, tmp_path / "derivatives")
