"""Folds: those of nnU-Net, by subject, stratified, listed, and written again."""

import json

import pytest

from jaxfuse.data.folds import drawn_folds, fold_numbered, listed_folds, ranks, read_folds, write_folds
from jaxfuse.data.subject_names import subject_of, subject_rule
from tests.refusals import refused


@pytest.mark.parametrize(
    ("cases", "count", "expected"),
    [
        # By sklearn.model_selection.KFold(count, shuffle=True, random_state=12345) of scikit-learn 1.7.
        (10, 5, ["07", "39", "46", "18", "25"]),
        (7, 3, ["346", "01", "25"]),
    ],
)
def test_folds_are_those_of_nnunet(cases, count, expected):
    ids = [f"case_{number}" for number in reversed(range(cases))]
    folds = drawn_folds(ids, count, seed=12345)
    assert [fold["val"] for fold in folds] == [tuple(f"case_{one}" for one in part) for part in expected]
    for fold in folds:
        assert sorted((*fold["train"], *fold["val"])) == sorted(ids)


def test_cases_of_one_subject_stay_in_one_fold():
    ids = [f"sub-{number}_ses-{visit}" for number in range(5) for visit in "ab"]
    for fold in drawn_folds(ids, 5, seed=0):
        (one,) = {subject_of(case) for case in fold["val"]}
        assert fold["val"] == (f"{one}_ses-a", f"{one}_ses-b")


def test_folds_hold_alike_many_of_each_stratum():
    ids = [f"p{number:02d}" for number in range(22)]
    grade = {case: "HGG" if number < 12 else "LGG" for number, case in enumerate(ids)}
    folds = drawn_folds(ids, 4, seed=3, strata=grade)
    assert sorted(len(fold["val"]) for fold in folds) == [5, 5, 6, 6]
    assert {sum(grade[case] == "HGG" for case in fold["val"]) for fold in folds} == {3}
    volume = {case: float(number**2) for number, case in enumerate(ids[:20])}
    for fold in drawn_folds(ids[:20], 4, seed=3, strata=ranks(volume, 4)):
        assert sorted(int(case[1:]) // 4 for case in fold["val"]) == [0, 1, 2, 3, 4]


def test_listed_folds_are_counted_from_0():
    folds = listed_folds({"a": "0", "b": "1", "c": "0"}, said_by="the data set")
    assert folds == ({"train": ("b",), "val": ("a", "c")}, {"train": ("a", "c"), "val": ("b",)})
    assert fold_numbered(folds, 2, said_by="x") is folds[1]
    refused("x has 2 folds; choose one by data.fold, 1 to 2", fold_numbered, folds, 3, said_by="x")
    refused("tells the fold '' of case b", listed_folds, {"a": "0", "b": ""}, said_by="the data set")


def test_what_is_written_is_read_again(tmp_path):
    ids = [f"p{number}" for number in range(6)]
    folds, path = drawn_folds(ids, 3, seed=1), tmp_path / "splits_final.json"
    write_folds(path, folds)
    assert read_folds(path, json.loads(path.read_text()), set(ids), subject=subject_of) == folds
    refused("is there already; name another file", write_folds, path, folds)


@pytest.mark.parametrize("count", [0, 1, 4])
def test_more_folds_than_subjects_are_refused(count):
    refused(
        "with 3 subjects, 2 to 3 can be made",
        drawn_folds,
        ["a1", "b1", "c1", "c2"],
        count,
        seed=0,
        subject=subject_rule("(.)"),
    )
