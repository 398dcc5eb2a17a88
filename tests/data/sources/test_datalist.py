"""Datalists, as JSON and as CSV."""

import json

import numpy as np
import pytest

from jaxfuse.data.sources.volumes import volume_root
from jaxfuse.data.verify import verify
from tests.made_cases import MODALITIES, save_volume
from tests.made_layouts import coded, made_case, write_datalist

TABLE = """\
case,image_T1w,image_flair,label,side,subject,group,fold
b,stack.nii#0,stack.nii#3,,test,,,
a,{root}/a/t1.nii.gz,a/flair.nii.gz,a/seg.nii.gz,train,p1,HGG,1
"""


@pytest.fixture(scope="module")
def listed(tmp_path_factory):
    root = tmp_path_factory.mktemp("lists")
    return write_datalist(root, {"p": made_case(0), "q": made_case(1)}, {"r": made_case(2)})


def test_a_json_list_names_files_of_each_form(listed):
    there = volume_root(listed, source="iseg")
    assert (there.layout, there.modalities, there.scheme) == ("datalist", MODALITIES, "decathlon")
    files = there.find(("flair", "t1"), labels_required=True)
    assert [(one.id, one.side, one.told) for one in files] == [
        ("p", "", {"fold": "0"}),
        ("q", "", {"fold": "1"}),
        ("r", "test", {}),
    ]
    assert [(one.path.name, one.channel) for one in files[0].images.values()] == [("p.nii", 3), ("p.nii", 0)]
    assert [(one.path.name, one.channel) for one in files[1].images.values()] == [
        ("flair.nii.gz", None),
        ("t1.nii.gz", None),
    ]
    assert verify(listed).problems == ()


def test_images_may_be_listed_by_modality_and_cases_may_validate(listed):
    told = json.loads(listed.read_text())
    told["validation"] = [{"case": "v", "image": {"T1w": "q/t1.nii.gz"}, "subject": 7}]
    path = listed.with_name("other.json")
    path.write_text(json.dumps(told))
    (found,) = (one for one in volume_root(path).look(("t1", "flair")) if one.id == "v")
    assert (found.side, found.told, list(found.images), found.missing) == (
        "val",
        {"subject": "7"},
        ["t1"],
        {"flair": "a file in its entry"},
    )


def test_a_table_says_the_same(tmp_path):
    arrays = made_case(0)
    save_volume(tmp_path / "stack.nii", np.stack([arrays[m] for m in MODALITIES], -1))
    for name in ("t1", "flair"):
        save_volume(tmp_path / "a" / f"{name}.nii.gz", arrays[name])
    save_volume(tmp_path / "a" / "seg.nii.gz", coded(arrays, (0, 1, 1, 1)))
    (tmp_path / "list.csv").write_text(TABLE.format(root=tmp_path))
    first, second = volume_root(tmp_path / "list.csv").find(("flair", "t1"), labels_required=True)
    assert (first.id, first.side, first.group, first.told) == (
        "a",
        "",
        "HGG",
        {"subject": "p1", "group": "HGG", "fold": "1"},
    )
    assert (second.side, second.label, second.images["flair"].channel) == ("test", None, 3)
    verdict = verify(tmp_path / "list.csv", scheme="lesion")
    assert (verdict.modalities, list(verdict.subjects)) == (("t1", "flair"), ["p1", "b"])
