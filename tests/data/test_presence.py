"""Presence of modalities: subsets by name, and tables of them."""

import re

import pytest
from ml_collections import ConfigDict

from jaxfuse.data.presence import (
    ModalityDropout,
    all_subsets,
    present,
    read_dropout,
    read_subset,
    subset_name,
    weighted_subsets,
)
from tests.refusals import refused

FOUR = ("t1", "t1ce", "t2", "flair")


def test_four_modalities_have_fifteen_subsets_the_smallest_first():
    subsets = all_subsets(FOUR)
    assert len(set(subsets)) == len(subsets) == 15
    assert [sum(one) for one in subsets] == [1] * 4 + [2] * 6 + [3] * 4 + [4]
    assert all(read_subset(subset_name(one, FOUR), FOUR) == one for one in subsets)


def test_names_say_what_is_there_in_the_order_of_the_data():
    assert read_subset("flair+t1", FOUR) == present(FOUR, {"t1", "flair"}) == (True, False, False, True)
    assert subset_name(read_subset("flair+t1", FOUR), FOUR) == "t1+flair"
    assert subset_name((False,) * 4, FOUR) == "none"


def test_a_table_has_all_subsets_alike_or_those_named_with_their_weights():
    assert weighted_subsets((), ("a", "b")) == (((True, False), (False, True), (True, True)), (1.0, 1.0, 1.0))
    assert weighted_subsets(("b=2.5", "a+b"), ("a", "b")) == (((False, True), (True, True)), (2.5, 1.0))


@pytest.mark.parametrize(
    ("asked", "sentence"),
    [
        (("t1+dwi",), "the subset 't1+dwi' names dwi; the modalities are t1, t1ce, t2, flair"),
        (("t1+t1",), "the subset 't1+t1' names a modality twice"),
        (("t1+t2", "t2+t1"), "the subset 't2+t1' stands twice"),
        (("t1=0",), "the subset 't1=0' has no positive number behind ="),
        (("t1=often",), "the subset 't1=often' has no positive number behind ="),
        (("t1=nan",), "the subset 't1=nan' has no positive number behind ="),
        (("",), "the subset '' names ; the modalities"),
    ],
)
def test_a_table_that_makes_no_sense_is_refused(asked, sentence):
    refused(re.escape(sentence), weighted_subsets, asked, FOUR)


def test_more_modalities_than_a_table_holds_are_refused():
    refused("9 modalities have 511 subsets", all_subsets, tuple("abcdefghi"))


def test_the_options_of_a_phase():
    def read(**options):
        return read_dropout("net", ConfigDict(options))

    assert read_dropout("net", None) is None
    assert read(probability=0.0, subsets=()) is None
    assert read(probability=0.5, subsets=("t1",)) == ModalityDropout(0.5, ("t1",))
    refused("subsets is .* and its probability 0, by which none is drawn", read, probability=0.0, subsets=("t1",))
    refused("net.modality_dropout lacks subsets", read, probability=0.5)
