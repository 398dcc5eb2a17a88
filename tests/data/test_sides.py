"""Sides of a data set by its settings, and heads that stand on two of them."""

import json
from dataclasses import replace
from pathlib import Path

import numpy as np
from PIL import Image as Picture

from jaxfuse.data.cases import CaseFiles, Image
from jaxfuse.data.sides import sides_of, subject_counts
from jaxfuse.data.subject_names import subject_of
from tests.data.opening import settings
from tests.made_cases import head, save_volume
from tests.refusals import refused


def files_of(folder: Path, *names: str) -> list[CaseFiles]:
    made = {name: head((12, 12, 12), seed)["t1"] for seed, name in enumerate(names)}
    return [
        CaseFiles(name, {"t1": Image(save_volume(folder / f"{name}_t1.nii.gz", array))}) for name, array in made.items()
    ]


def test_settings_choose_how_cases_are_split(tmp_path):
    files, data = files_of(tmp_path, *"abcd"), settings(tmp_path, val_fraction=0.25)
    assert len(sides_of(data, files, tmp_path / "cache")["val"]) == 1
    assert sides_of(replace(data, fold=2), files, tmp_path / "cache")["val"] == ("b",)
    assert len(sides_of(replace(data, bootstrap=1), files, tmp_path / "cache")["train"]) == 4
    (tmp_path / "s.json").write_text(json.dumps({"train": ["a"], "val": ["b"], "test": ["d"]}))
    split = sides_of(replace(data, split=str(tmp_path / "s.json")), files, tmp_path / "cache")
    assert split == {"train": ("a",), "val": ("b",), "test": ("d",)}
    assert subject_counts(split, subject_of) == {"train": 1, "val": 1, "test": 1}
    refused("tells no split", sides_of, replace(data, split="paper"), files, tmp_path / "cache")


def test_cases_that_are_left_out_may_be_copies(tmp_path):
    files, data = files_of(tmp_path, *"abc"), settings(tmp_path)
    (tmp_path / "c_t1.nii.gz").write_bytes((tmp_path / "a_t1.nii.gz").read_bytes())
    (tmp_path / "s.json").write_text(json.dumps({"train": ["a"], "val": ["b"]}))
    sides_of(replace(data, split=str(tmp_path / "s.json")), files, tmp_path / "cache")
    (tmp_path / "s.json").write_text(json.dumps({"train": ["a"], "val": ["c"]}))
    refused("same image", sides_of, replace(data, split=str(tmp_path / "s.json")), files, tmp_path / "cache")


def test_pictures_are_compared_as_well(tmp_path):
    files = []
    for name in "ab":
        Picture.fromarray(np.arange(64, dtype=np.uint8).reshape(8, 8)).save(tmp_path / f"{name}.png")
        files.append(CaseFiles(name, {"mri": Image(tmp_path / f"{name}.png")}))
    refused("a.png of case a .* and b.png of case b", sides_of, settings(tmp_path), files, tmp_path / "cache")
    for name in "ab":
        Picture.fromarray(np.zeros((8, 8), np.uint8)).save(tmp_path / f"{name}.png")
    assert sides_of(settings(tmp_path), files, tmp_path / "cache")["val"]
