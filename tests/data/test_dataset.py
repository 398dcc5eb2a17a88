"""From the data section of a config to prepared cases of both sides of the split."""

import dataclasses
import json
import shutil
from pathlib import Path

import nibabel as nib
import numpy as np
import pytest

from jaxfuse.data.dataset import open_dataset, read_facts
from jaxfuse.data.phantom.roots import phantom_root
from jaxfuse.data.settings import Data, Phantom
from jaxfuse.io.tables import write_json
from tests.data import opening
from tests.made_cases import MODALITIES, save_volume, write_case
from tests.refusals import refused


def write_cases(root: Path, ids: str = "abcde") -> Path:
    label = np.zeros((6, 6, 6), np.uint8)
    label[2, 2, 2:5] = [1, 2, 4]
    for id_ in ids:
        inner = np.random.default_rng(ord(id_)).integers(1, 100, (4, 4, 4, 4)).astype(np.int16)
        images = [np.pad(one, 1) for one in inner]
        write_case(root, f"case_{id_}", dict(zip(MODALITIES, images, strict=True)) | {"seg": label})
    return root


def settings(tmp_path: Path, **changes) -> Data:
    phantom = Phantom(cases=2, seed=0, shape=(32, 32, 32), spacing_mm=5.75)
    return opening.settings(tmp_path, **{"modalities": MODALITIES, "val_fraction": 0.2, "phantom": phantom, **changes})


@pytest.fixture
def given(tmp_path) -> Data:
    """Settings of the cases a to e on disk."""
    return settings(tmp_path, root=str(write_cases(tmp_path / "root")))


def write_split(folder: Path, train: list[str], val: list[str]) -> str:
    (folder / "split.json").write_text(json.dumps({"train": train, "val": val}))
    return str(folder / "split.json")


class Heard(list[tuple[str, int, int]]):
    """The reports made while the data were opened."""

    def __call__(self, what: str, done: int, total: int, worked: int | None = None) -> None:
        self.append((what, done, total))


def fingerprint(data: Data) -> str:
    return open_dataset(data, Heard()).document()["fingerprint"]


def test_cases_are_split_prepared_and_counted(given):
    heard = Heard()
    data = open_dataset(given, heard)
    assert (len(data.train), len(data.val), data.overfit_check) == (4, 1, False)
    assert {case.id for case in (*data.train, *data.val)} == {f"case_{id_}" for id_ in "abcde"}
    assert data.scheme is not None
    assert data.scheme.name == "brats"
    assert data.facts.voxels_per_class == (4 * (4**3 - 3), 4, 4, 4)
    assert heard == [("preparing cases", done, 5) for done in range(1, 6)]


def test_home_is_understood_in_the_root(tmp_path, monkeypatch):
    monkeypatch.setenv("HOME", str(write_cases(tmp_path / "home" / "root").parent))
    assert len(open_dataset(settings(tmp_path, root="~/root"), Heard()).train) == 4


def test_one_case_trains_and_validates_and_that_is_said(tmp_path):
    data = open_dataset(settings(tmp_path, root=str(write_cases(tmp_path / "root", "a"))), Heard())
    assert data.overfit_check
    assert data.facts.train == data.facts.val == ("case_a",)
    assert data.document()["overfit_check"] is True


def test_document_is_json_and_gives_the_facts_back(given, tmp_path):
    data = open_dataset(given, Heard())
    write_json(tmp_path / "dataset.json", data.document())
    assert read_facts(tmp_path) == data.facts
    refused("has no dataset.json: its training has not begun; train it first", read_facts, tmp_path / "root")


def test_equal_data_share_a_fingerprint_wherever_they_lie_and_in_any_order_of_modalities(given, tmp_path):
    shutil.copytree(given.root, tmp_path / "copy")
    equal = ({"root": str(tmp_path / "copy")}, {"cache": str(tmp_path / "other")}, {"modalities": MODALITIES[::-1]})
    assert {fingerprint(dataclasses.replace(given, **changes)) for changes in equal} == {fingerprint(given)}


def test_other_content_split_or_preparation_has_another_fingerprint(given, tmp_path):
    split = write_split(tmp_path, ["case_a", "case_b"], ["case_c"])
    others = ({}, {"split": split}, {"normalize": "volume"}, {"modalities": ("t1", "t2")})
    prints = [fingerprint(dataclasses.replace(given, **changes)) for changes in others]
    path = tmp_path / "root" / "case_a" / "case_a_t1.nii.gz"
    save_volume(path, np.asarray(nib.load(path).dataobj) * 2 + 1)
    assert len({*prints, fingerprint(given)}) == 5


def test_split_file_decides_and_leaves_the_rest_unread(given, tmp_path):
    (tmp_path / "root" / "case_e" / "case_e_t1.nii.gz").write_bytes(b"broken")
    heard, split = Heard(), write_split(tmp_path, ["case_d", "case_a"], ["case_b"])
    data = open_dataset(dataclasses.replace(given, split=split), heard)
    assert [[case.id for case in side] for side in (data.train, data.val)] == [["case_d", "case_a"], ["case_b"]]
    assert heard[-1] == ("preparing cases", 3, 3)
    write_split(tmp_path, ["case_a"], ["case_z"])
    message = "val names cases that are not in the data: case_z"
    refused(message, open_dataset, dataclasses.replace(given, split=split), Heard())


def test_folds_and_bootstrap_samples_decide_who_validates(given):
    left_out = open_dataset(dataclasses.replace(given, fold=4), Heard())
    assert ([case.id for case in left_out.val], len(left_out.train)) == (["case_d"], 4)
    sample = open_dataset(dataclasses.replace(given, bootstrap=1), Heard())
    drawn = [case.id for case in sample.train]
    assert len(drawn) == 5 > len(set(drawn))
    assert {case.id for case in sample.val} == {f"case_{id_}" for id_ in "abcde"} - set(drawn)
    # A case that was drawn twice counts twice in the frequencies of the classes.
    assert sample.facts.voxels_per_class == (5 * (4**3 - 3), 5, 5, 5)
    assert sample.document()["fingerprint"] != left_out.document()["fingerprint"]


def test_phantoms_are_made_once_and_prepared_once(tmp_path):
    def stamps():
        return {path: path.stat().st_mtime_ns for path in phantom_root(data, Heard()).rglob("*.nii.gz")}

    data, first, second = settings(tmp_path, val_fraction=0.5), Heard(), Heard()
    opened = open_dataset(data, first)
    assert first[:2] == [("writing phantoms", 1, 2), ("writing phantoms", 2, 2)]
    assert (len(opened.train), len(opened.val)) == (1, 1)
    before = stamps()
    assert len(before) == 2 * 5
    assert open_dataset(data, second).document() == opened.document()
    assert [what for what, _, _ in second] == ["preparing cases"] * 2
    assert stamps() == before
    # Other phantoms lie in another folder.
    other = dataclasses.replace(data, phantom=dataclasses.replace(data.phantom, seed=1))
    assert phantom_root(data, Heard()) != phantom_root(other, Heard())


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"source": "bart"}, "data.source is 'bart'; choose one of brats, iseg"),
        ({"source": "voc"}, "PASCAL VOC folder is not named"),
        ({"root": "nowhere"}, "nowhere is not a folder; give the folder that holds the cases"),
        ({"labels": "brast"}, "label scheme 'brast' is not known"),
        ({"layout": "brats1999"}, "layout 'brats1999' is not known"),
    ],
)
def test_refusals(tmp_path, changes, message):
    root = "" if changes.get("source") == "voc" else str(write_cases(tmp_path / "root", "ab"))
    refused(message, open_dataset, settings(tmp_path, **{"root": root, **changes}), Heard())
