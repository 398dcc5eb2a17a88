"""Cases that are to be judged elsewhere, or at the very end.

What a run holds out is never trained on nor validated on, and what a portal is sent is whole.
"""

import json
import re
import zipfile
from pathlib import Path

import numpy as np
import pytest

from jaxfuse import predict
from jaxfuse.data.dataset import open_dataset
from jaxfuse.errors import CasesLeftOut
from jaxfuse.io.tables import read_json, write_json
from tests.commands import call_here
from tests.data.opening import quiet, settings
from tests.faults.catalogue import given, table
from tests.made_cases import MODALITIES, head, nested_cubes, write_case, write_iseg
from tests.refusals import refused
from tests.untrained_run import labeling_run

SHAPE = (12, 12, 12)
NAMES = ("BraTS-GLI-00001-000", "BraTS-GLI-00002-000", "BraTS-GLI-00003-000")


@pytest.fixture(scope="module")
def run(tmp_path_factory) -> Path:
    folder = tmp_path_factory.mktemp("held-out")
    made = labeling_run(folder / "run")
    facts = read_json(made / "dataset.json")
    write_json(made / "dataset.json", {**facts, "test": [NAMES[0], NAMES[2]]})
    return made


def write(root: Path, *, spelling: str = "brats2023", label: bool = False) -> Path:
    for seed, name in enumerate(NAMES):
        arrays = head(SHAPE, seed) | ({"seg": nested_cubes(SHAPE, {2: 3, 1: 2, 3: 1})} if label else {})
        write_case(root, name, arrays, spelling=spelling)
    return root


@given("predict --zip FILE", "a flat zip of the label maps, named as the portal of BraTS wants them")
def test_label_maps_are_zipped_for_a_portal(run, tmp_path, unchanged):
    root = write(tmp_path / "in")
    with unchanged(root):
        call_here(predict, workdir=run, input=root, output=tmp_path / "out", zip=tmp_path / "all.zip")
    with zipfile.ZipFile(tmp_path / "all.zip") as archive:
        assert archive.namelist() == [f"{name}.nii.gz" for name in NAMES]
        # The form that the evaluation of BraTS 2023 and 2024 looks for.
        assert all(re.search(r"\d{5}-\d{3}\.nii\.gz$", name) for name in archive.namelist())
        for name in archive.namelist():
            assert archive.read(name) == (tmp_path / "out" / name).read_bytes()


@given("predict --zip where one case cannot be labeled", "the others are labeled; no zip, and exit code 1")
def test_an_incomplete_zip_is_not_written(run, tmp_path, capsys):
    root = write(tmp_path / "in")
    (root / NAMES[1] / f"{NAMES[1]}-t1n.nii.gz").write_bytes(b"broken")
    with pytest.raises(CasesLeftOut, match="left out 1 of 3 cases"):
        call_here(predict, workdir=run, input=root, output=tmp_path / "out", zip=tmp_path / "all.zip")
    assert not (tmp_path / "all.zip").exists()
    assert "all.zip is not written, for cases were left out" in capsys.readouterr().out.replace("\n", "")
    assert len(list((tmp_path / "out").glob("*.nii.gz"))) == 2


@table(
    "place, message",
    ("predict --zip NAME.tar", "refused", "all.tar", "does not end in .zip"),
    ("predict --zip among the cases", "refused", "in/all.zip", "nothing is written among what is read"),
    ("predict --zip over a file of somebody else", "refused; it is kept", "own.zip", "was not written by jaxfuse"),
)
def test_a_zip_is_guarded_like_all_outputs(run, tmp_path, unchanged, sentence_of, place, message):
    write(tmp_path / "in")
    (tmp_path / "own.zip").write_bytes(b"mine")
    with unchanged(tmp_path):
        given_ = {"workdir": run, "input": tmp_path / "in", "output": tmp_path / "out", "zip": tmp_path / place}
        assert message in sentence_of(predict, **given_)


@given("predict --side test", "only the cases that the split of the run holds out")
def test_the_cases_of_a_side_are_labeled(run, tmp_path, capsys):
    call_here(predict, workdir=run, input=write(tmp_path / "in"), output=tmp_path / "out", side="test")
    assert sorted(path.name for path in (tmp_path / "out").glob("*.gz")) == [f"{NAMES[i]}.nii.gz" for i in (0, 2)]
    assert "2 cases of the side test by" in capsys.readouterr().out


@given("predict --side test without one of these cases", "refused; the case is named")
def test_a_missing_case_of_a_side_is_named(run, tmp_path, sentence_of):
    root = write(tmp_path / "in")
    for path in (root / NAMES[2]).iterdir():
        path.unlink()
    (root / NAMES[2]).rmdir()
    sentence = sentence_of(predict, workdir=run, input=root, output=tmp_path / "out", side="test")
    assert f"case {NAMES[2]} is not below --input" in sentence
    assert "(1 of 2 are not)" in sentence


@given("predict --side val of a run that validated on other cases", "refused; nothing is labeled in their place")
def test_a_side_is_never_replaced(run, tmp_path, sentence_of):
    sentence = sentence_of(predict, workdir=run, input=write(tmp_path / "in"), output=tmp_path / "out", side="val")
    assert "is not below --input" in sentence


@given("a split file with the side test", "its cases are listed, but neither trained on nor validated on")
def test_held_out_cases_are_not_prepared(tmp_path):
    root, (held, train, val) = write(tmp_path / "root", label=True), NAMES
    (tmp_path / "split.json").write_text(json.dumps({"train": [train], "val": [val], "test": [held]}))
    data = open_dataset(settings(tmp_path, root=str(root), split=str(tmp_path / "split.json")), quiet)
    assert [case.id for case in (*data.train, *data.val)] == [train, val]
    assert (data.facts.test, data.facts.told("test")) == ((held,), "1 case of 1 subject")
    assert not [path for path in (tmp_path / "cache").rglob("case.json") if held in path.parent.name]


@given("data.split=paper of InfiNet on iSeg-2017", "subjects 1 to 8 train; 9 and 10 are held out")
def test_the_split_of_a_paper_is_its_own(tmp_path):
    for number in range(1, 11):
        image = np.pad(np.random.default_rng(number).integers(1, 90, (4, 4, 4)).astype(np.int16), 1)
        label = np.zeros_like(image)
        label[2, 2, 2:5] = (10, 150, 250)
        write_iseg(tmp_path / "iseg", number, {"T1": image, "T2": image + (image > 0), "label": label})
    asked = {"source": "iseg", "modalities": ("t1", "t2"), "split": "paper", "paper_split": "infinet"}
    facts = open_dataset(settings(tmp_path, root=str(tmp_path / "iseg"), **asked), quiet).facts
    assert (len(facts.train), facts.val, facts.test) == (8, (), ("subject-9", "subject-10"))
    refused(
        "10 cases are here, and subject-10 is not among them",
        open_dataset,
        settings(tmp_path, root=str(removed(tmp_path)), **asked),
        quiet,
    )


def removed(folder: Path) -> Path:
    """Gives subject 10 the number 11."""
    for path in (folder / "iseg").glob("subject-10-*"):
        path.rename(path.with_name(path.name.replace("10", "11")))
    return folder / "iseg"


@table(
    "share, sides",
    ("data.val_fraction=0 with three cases", "three train, none validates", 0.0, (3, 0)),
    ("data.val_fraction=0.34 with three cases", "two train, one validates", 0.34, (2, 1)),
)
def test_a_share_of_zero_is_exact(tmp_path, share, sides):
    data = open_dataset(settings(tmp_path, root=str(write(tmp_path / "root", label=True)), val_fraction=share), quiet)
    assert (len(data.train), len(data.val)) == sides
    refused("between 0 and 1, or be 0", settings_of_share, -0.1)


def settings_of_share(share: float) -> None:
    from jaxfuse.data.settings import read_data
    from jaxfuse.recipes import volume_data

    config = volume_data(source="brats", modalities=MODALITIES, shape=(8, 8, 8), cases=2, spacing_mm=1)
    config.val_fraction = share
    read_data("data", config)
