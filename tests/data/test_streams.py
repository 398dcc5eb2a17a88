"""Two streams of subjects: drawn once by the seed, without a subject in common."""

import pytest

from jaxfuse.data.streams import check_halves, held_out_streams
from jaxfuse.data.subject_names import subject_rule
from tests.made_cases import without_arrays
from tests.refusals import refused

NAMES = [f"case{number}" for number in range(7)]
CASES = without_arrays(*NAMES)


@pytest.mark.parametrize("seed", range(3))
def test_every_subject_is_in_one_stream_and_of_an_odd_number_the_lower_has_one_more(seed):
    streams = held_out_streams(CASES, seed=seed)
    assert sorted(streams.lower.subjects + streams.upper.subjects) == NAMES
    assert (len(streams.lower.subjects), len(streams.upper.subjects)) == (4, 3)
    for stream in (streams.lower, streams.upper):
        assert [NAMES[place] for place in stream.places] == list(stream.subjects)
    assert streams.told == "3 subjects held out from the follower, which learns from the others"


def test_the_seed_decides_and_the_order_of_cases_does_not():
    first = held_out_streams(CASES, seed=0)
    turned = held_out_streams(CASES[::-1], seed=0)
    assert (turned.lower.subjects, turned.upper.subjects) == (first.lower.subjects, first.upper.subjects)
    assert turned.lower.places != first.lower.places
    assert len({held_out_streams(CASES, seed=seed).lower.subjects for seed in range(9)}) > 4


def test_names_or_a_pattern_tell_subjects_and_slices_go_with_their_volume():
    cases = without_arrays("A1", "A2", "B1", slices=3)
    streams = held_out_streams(cases, seed=0, subject=subject_rule("([AB])"))
    assert {streams.lower.subjects, streams.upper.subjects} == {("A",), ("B",)}
    assert {streams.lower.places, streams.upper.places} == {(0, 1, 2, 3, 4, 5), (6, 7, 8)}


def test_a_bootstrap_sample_keeps_what_it_drew_twice_in_one_stream():
    streams = held_out_streams(without_arrays("a", "b", "a"), seed=0)
    assert {streams.lower.places, streams.upper.places} == {(0, 2), (1,)}


def test_refusals():
    refused(
        "the 2 training cases are of one subject, sub-1; train on cases of at least two",
        held_out_streams,
        without_arrays("sub-1_ses-1", "sub-1_ses-2"),
        seed=0,
    )
    refused("holds out half of each batch, and batch is 1; set it to at least 2", check_halves, 1)
