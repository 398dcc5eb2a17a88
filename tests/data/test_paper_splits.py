"""Splits that papers tell."""

import pytest

from configs import cmff, fuse4seg, hinet, hyperfusion, infinet
from jaxfuse.data.paper_splits import PAPER_SPLITS, paper_split
from jaxfuse.data.splits import Split
from jaxfuse.data.subject_names import subject_of
from tests.refusals import refused

ISEG = [f"subject-{number}" for number in range(1, 11)]
ISLES = [*(f"training_{n}" for n in range(1, 29)), *(f"testing_{n}" for n in range(1, 18))]


def split(name: str, ids: list[str], seed: int = 0) -> Split:
    return paper_split(name).of([(id_, "") for id_ in ids], seed=seed, subject=subject_of)


def sizes(sides: Split) -> tuple[int, ...]:
    return tuple(len(sides[side]) for side in ("train", "val", "test"))


@pytest.mark.parametrize(
    ("name", "ids", "expected"),
    [
        ("infinet", ISEG, (8, 0, 2)),
        ("hyperfusion_iseg", ISEG, (6, 1, 3)),
        ("hyperfusion_stroke", [f"s{n:03}" for n in range(120)], (80, 10, 30)),
        ("hinet_isles", ISLES, (28, 0, 17)),
        ("hinet_brats", [f"b{n:03}" for n in range(285)], (228, 0, 57)),
        ("cmff", [f"b{n:03}" for n in range(285)], (285, 0, 0)),
    ],
)
def test_every_case_is_on_one_side(name, ids, expected):
    sides = split(name, ids)
    assert sizes(sides) == expected
    assert sorted(case for side in sides.values() for case in side) == sorted(ids)
    assert split(name, ids[::-1]) == sides


def test_named_subjects_test_and_others_are_drawn():
    assert split("infinet", ISEG)["test"] == ("subject-9", "subject-10")
    assert all(case.startswith("testing_") for case in split("hinet_isles", ISLES)["test"])
    assert len({split("hyperfusion_iseg", ISEG, seed)["test"] for seed in range(5)}) > 1


@pytest.mark.parametrize(
    ("name", "ids", "message"),
    [
        (
            "infinet",
            ISEG[:3],
            "of which 9 and 10 test; 3 cases are here, and subject-10 is not among them",
        ),
        ("hyperfusion_iseg", [*ISEG, "subject-11"], "11 cases are here, and subject-11 is none of the paper's"),
        ("hyperfusion_stroke", ["a", "b"], "120 subjects, 30 of which test; 2 cases of 2 subjects are here"),
        ("hinet_isles", ISLES[:28], "28 cases are here, and testing_1 is not among them"),
        ("", ISEG, "the paper of this recipe tells no split"),
    ],
)
def test_other_data_are_refused(name, ids, message):
    refused(message, split, name, ids)


@pytest.mark.parametrize(
    ("config", "text", "name"),
    [
        (cmff, "", "cmff"),
        (fuse4seg, "", ""),
        (hinet, "", "hinet_brats"),
        (hinet, "paper,data=isles", "hinet_isles"),
        (hyperfusion, "", "hyperfusion_iseg"),
        (hyperfusion, "paper,row=baseline_2d,data=stroke", "hyperfusion_stroke"),
        (infinet, "", "infinet"),
    ],
)
def test_recipes_name_the_split_of_their_paper(config, text, name):
    assert config.get_config(text).data.paper_split == name
    assert name in {"", *PAPER_SPLITS}
