"""Splitting subjects."""

import json

import numpy as np
import pytest

from jaxfuse.data.splits import bootstrap_split, leave_one_out, read_split, split_cases
from jaxfuse.data.subject_names import subject_of
from tests.refusals import refused

GRADED = [(f"h{i:02}", "HGG") for i in range(15)] + [(f"l{i:02}", "LGG") for i in range(5)]


def test_split_is_stratified_complete_and_independent_of_order():
    split = split_cases(GRADED, seed=3, val_fraction=0.2)
    assert sorted(split["train"] + split["val"]) == sorted(i for i, _ in GRADED)
    assert [i[0] for i in split["val"]] == ["h", "h", "h", "l"]
    assert split_cases(GRADED[::-1], seed=3, val_fraction=0.2) == split
    assert split_cases(GRADED, seed=4, val_fraction=0.2) != split
    # 3 of 20 places: HGG 2.25, LGG 0.75; the last place goes to the largest remainder.
    assert [i[0] for i in split_cases(GRADED, seed=0, val_count=3)["val"]] == ["h", "h", "l"]


def test_each_side_keeps_one_subject_and_a_single_case_is_on_both_sides():
    for fraction in (0.01, 0.99):
        split = split_cases([("a", ""), ("b", "")], seed=0, val_fraction=fraction)
        assert sorted(split["train"] + split["val"]) == ["a", "b"]
        assert len(split["val"]) == 1
    assert split_cases([("a", "")], seed=0, val_fraction=0.2) == {"train": ("a",), "val": ("a",)}


def test_a_share_of_0_leaves_nobody_to_validate():
    assert split_cases([("b", ""), ("a", "")], seed=0, val_fraction=0) == {"train": ("a", "b"), "val": ()}
    assert split_cases([("a", "")], seed=0, val_fraction=0) == {"train": ("a",), "val": ()}


def test_examinations_of_a_subject_stay_together():
    ids = [f"BraTS-GLI-{s:05}-{t:03}" for s in range(10) for t in range(3)]
    for seed in range(5):
        split = split_cases([(i, "") for i in ids], seed=seed, val_fraction=0.3)
        assert len(split["val"]) == 9
        assert not {subject_of(i) for i in split["train"]} & {subject_of(i) for i in split["val"]}


@pytest.mark.parametrize(
    ("pairs", "size", "message"),
    [
        ([], {"val_count": 1}, "0 cases"),
        ([("a", ""), ("a", "")], {"val_count": 1}, "unique cases"),
        ([("a", ""), ("b", "")], {}, "either"),
        ([("a", ""), ("b", "")], {"val_count": 1, "val_fraction": 0.5}, "either"),
        ([("a", ""), ("b", "")], {"val_count": 2}, "1 to 1"),
        ([("a", ""), ("b", "")], {"val_fraction": 1.0}, "from 0 to below 1"),
        ([("BraTS-GLI-00001-000", ""), ("BraTS-GLI-00001-001", "")], {"val_count": 1}, "one subject"),
    ],
)
def test_impossible_splits_are_refused(pairs, size, message):
    refused(message, split_cases, pairs, seed=0, **size)


ISEG = [f"subject-{number}" for number in range(1, 11)]
EXAMINATIONS = [f"BraTS-GLI-{s:05}-{t:03}" for s in range(6) for t in range(1 + s % 2)]


def test_the_first_three_folds_leave_out_the_first_three_subjects():
    for fold in (1, 2, 3):
        train = tuple(one for one in ISEG if one != f"subject-{fold}")
        assert leave_one_out(ISEG, fold) == {"train": train, "val": (f"subject-{fold}",)}
    assert leave_one_out(EXAMINATIONS, 2)["val"] == ("BraTS-GLI-00001-000", "BraTS-GLI-00001-001")


def test_a_bootstrap_sample_draws_as_many_subjects_as_there_are_and_validates_on_the_others():
    samples = [bootstrap_split(ISEG, seed=0, number=number) for number in range(1, 200)]
    for split in samples:
        assert len(split["train"]) == 10
        assert sorted({*split["train"]} ^ {*split["val"]}) == sorted(ISEG)
        assert len(set(split["val"])) == len(split["val"])
    # Left out is a subject with probability (1 - 1 / 10)^10.
    left_out = np.mean([len(split["val"]) for split in samples]) / 10
    assert left_out == pytest.approx(0.9**10, abs=0.03)


def test_a_subject_that_is_drawn_twice_brings_all_of_its_examinations_twice():
    for number in range(1, 20):
        train = bootstrap_split(EXAMINATIONS, seed=3, number=number)["train"]
        assert len({train.count(one) for one in ("BraTS-GLI-00001-000", "BraTS-GLI-00001-001")}) == 1
        assert len([one for one in train if one.endswith("-000")]) == 6


def test_a_sample_of_two_subjects_always_leaves_one_out():
    splits = [bootstrap_split(["a", "b"], seed=0, number=number) for number in range(1, 30)]
    assert {(split["train"], split["val"]) for split in splits} == {(("a", "a"), ("b",)), (("b", "b"), ("a",))}


@pytest.mark.parametrize(
    ("ids", "fold", "message"),
    [
        (ISEG, 11, "fold 11 was asked for; with 10 subjects, choose 1 to 10"),
        (["a"], 1, "1 cases of 1 subjects"),
        (["BraTS-GLI-00001-000", "BraTS-GLI-00001-001"], 1, "2 cases of 1 subjects"),
        (["a", "a", "b"], 1, "3 cases of 2 subjects were given; .* takes different cases of at least two subjects"),
    ],
)
def test_impossible_members_are_refused(ids, fold, message):
    refused(message, leave_one_out, ids, fold)
    if fold == 1:
        refused(message, bootstrap_split, ids, seed=0, number=1)


@pytest.mark.parametrize(
    "split",
    [
        {"train": ("b", "a"), "val": ("c",)},
        {"train": ("a",), "val": ("a",)},
        {"train": ("a",), "val": ("b",), "test": ("c", "d")},
        {"train": ("a",), "val": (), "test": ("c",)},
    ],
)
def test_explicit_split(tmp_path, split):
    (tmp_path / "s.json").write_text(json.dumps(split))
    assert read_split(tmp_path / "s.json", ["a", "b", "c", "d"]) == split


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ('{"train": ["a"], "val": ["b"], "tset": []}', "train, val, tset"),
        ('{"train": [], "val": ["a"]}', "train is empty"),
        ('{"train": ["a"], "val": "b"}', "val must be a list"),
        ('{"train": ["a"], "val": ["b"], "test": ["a"]}', "subject a is in both train and test"),
        ('{"train": ["a"], "val": ["a"], "test": ["a"]}', "subject a is in both train and val"),
        ('{"train": ["a", "a"], "val": ["b"]}', "each once"),
        ('{"train": ["a"], "val": ["x"]}', "not in the data: x"),
        ('{"train": ["a", "b"], "val": ["b"]}', "subject b is in both"),
        ('{"train": ["BraTS-GLI-00001-000"], "val": ["BraTS-GLI-00001-001"]}', "subject BraTS-GLI-00001 is in both"),
        ("[]", "list"),
        ("{", "cannot be read"),
    ],
)
def test_bad_explicit_splits_are_refused(tmp_path, text, message):
    (tmp_path / "s.json").write_text(text)
    refused(message, read_split, tmp_path / "s.json", ["a", "b", "BraTS-GLI-00001-000", "BraTS-GLI-00001-001"])
