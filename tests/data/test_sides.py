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


def told_files(folder: Path, **told: tuple[str, dict[str, str]]) -> list[CaseFiles]:
    """Cases whose data set tells a side and more of each."""
    made = {one.id: one for one in files_of(folder, *told)}
    return [replace(made[name], side=side, told=more) for name, (side, more) in told.items()]


def test_what_the_data_set_tells_of_its_cases_counts(tmp_path):
    cache = tmp_path / "cache"
    cache.mkdir()
    two = {"a": ("", {"fold": "0"}), "b": ("", {"fold": "1"}), "c": ("", {"fold": "1"}), "t": ("test", {})}
    files, data = told_files(tmp_path, **two), settings(tmp_path)
    assert sides_of(data, files, cache)["test"] == ("t",)
    assert sides_of(replace(data, fold=2), files, cache) == {"train": ("a",), "val": ("b", "c"), "test": ("t",)}
    refused("the data set has 2 folds; choose one by data.fold", sides_of, replace(data, fold=3), files, cache)
    whole = sides_of(replace(data, folds=3, fold=1, split_seed=12345), files, cache)
    assert (len(whole["train"]), len(whole["val"]), whole["test"]) == (2, 1, ("t",))
    refused("tells fold of case a", sides_of, replace(data, stratify="sex"), files, cache)
    told = [replace(one, side="val" if one.id == "b" else one.side) for one in files]
    assert sides_of(data, told, cache) == {"train": ("a", "c"), "val": ("b",), "test": ("t",)}
    assert sides_of(replace(data, val_fraction=0.0), told, cache)["val"] == ()
    same = [replace(one, told={"subject": "s"}) if one.id in "bt" else one for one in files]
    refused("the data set, which holds 1 cases out: subject s is in both", sides_of, data, same, cache)


def test_folds_of_nnunet_are_chosen_by_number(tmp_path):
    cache, files = tmp_path / "cache", told_files(tmp_path, a=("", {}), b=("", {}), t=("test", {}))
    cache.mkdir()
    listed = [{"train": ["a"], "val": ["b"]}, {"train": ["b"], "val": ["a"]}]
    (tmp_path / "splits_final.json").write_text(json.dumps(listed))
    data = replace(settings(tmp_path), split=str(tmp_path / "splits_final.json"))
    assert sides_of(replace(data, fold=2), files, cache) == {"train": ("b",), "val": ("a",), "test": ("t",)}
    refused(r"splits_final.json has 2 folds; choose one by data.fold, 1 to 2", sides_of, data, files, cache)
    (tmp_path / "splits_final.json").write_text(json.dumps(listed[0]))
    refused("holds one split, and data.fold is 1; leave data.fold 0", sides_of, replace(data, fold=1), files, cache)
