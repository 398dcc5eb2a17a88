"""Folds and splits that cannot be made, or are listed otherwise than they can be meant."""

import json
from dataclasses import replace

from jaxfuse.data.cases import CaseFiles
from jaxfuse.data.sides import sides_of
from tests.data.opening import settings
from tests.faults.catalogue import given, table
from tests.refusals import refused

FILES = [CaseFiles("a", {}), CaseFiles("b", {})]


@table(
    "content, message",
    ("a `splits_final.json` without folds", "refused", [], "has no fold"),
    ("a fold that is a list", "refused", [["a"]], "fold 0 of .* is not an object with the lists train and val"),
    ("a fold without val", "refused", [{"train": ["a"]}], "is not an object with the lists"),
    ("a case in place of a list", "refused", [{"train": "a", "val": ["b"]}], "is not an object with the lists"),
    ("a fold of other data", "refused", [{"train": ["a"], "val": ["x"]}], "names cases that are not in the data: x"),
    ("a fold with a case twice", "refused", [{"train": ["a", "a"], "val": ["b"]}], "names a case twice"),
    ("a fold that trains nobody", "refused", [{"train": [], "val": ["b"]}], "has nobody to train on"),
    (
        "a case that trains and validates",
        "refused",
        [{"train": ["a", "b"], "val": ["b"]}],
        "subject b is in both train",
    ),
    ("fold 2 of one", "refused", [{"train": ["a"], "val": ["b"]}], "has 1 folds; choose one by data.fold, 1 to 1"),
    (
        "fold 2 of a split that is no list",
        "refused",
        {"train": ["a"], "val": ["b"]},
        "holds one split, and data.fold is 2",
    ),
)
def test_lists_that_are_no_folds(tmp_path, content, message):
    path = tmp_path / "splits_final.json"
    path.write_text(json.dumps(content))
    refused(message, sides_of, replace(settings(tmp_path), split=str(path), fold=2), FILES, tmp_path)


@given("three folds of two subjects", "refused")
def test_more_folds_than_subjects(tmp_path):
    data = replace(settings(tmp_path), folds=3, fold=1)
    refused("3 folds were asked for; with 2 subjects, 2 to 2 can be made", sides_of, data, FILES, tmp_path)


@given("strata by a column that the data set lacks, or by labels that are not there", "refused")
def test_strata_of_nothing(tmp_path):
    for stratify, message in (("sex", "the data set tells nothing of case a"), ("volume", "case a has no label")):
        refused(message, sides_of, replace(settings(tmp_path), stratify=stratify), FILES, tmp_path)


@given("a datalist that tells the fold of some cases only", "refused")
def test_folds_of_some(tmp_path):
    files = [replace(FILES[0], told={"fold": "0"}), FILES[1]]
    refused("tells the fold '' of case b", sides_of, replace(settings(tmp_path), fold=1), files, tmp_path)
