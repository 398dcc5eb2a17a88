"""Who keeps the length that it had."""

import pytest

from jaxfuse.engine.run_folder.phase_lengths import check_lengths, note_length, noted_lengths
from jaxfuse.errors import UserError


def test_lengths_are_kept_by_phase(tmp_path):
    assert noted_lengths(tmp_path) == {}
    for phase, steps in (("first", 5), ("second", 7), ("first", 6)):
        note_length(tmp_path, phase, steps)
    assert noted_lengths(tmp_path) == {"first": 6, "second": 7}


def test_a_phase_keeps_its_length_once_one_of_a_later_training_has_begun(tmp_path):
    note_length(tmp_path, "first", 5)
    check_lengths(tmp_path, [{"first": 9}, {"second": 7}])  # nothing was built on it yet
    note_length(tmp_path, "second", 7)
    check_lengths(tmp_path, [{"first": 5}, {"second": 20}])
    told = "phase first was trained for 5 steps and phase second has begun from it; 9 steps are asked for"
    with pytest.raises(UserError, match=told):
        check_lengths(tmp_path, [{"first": 9}, {"second": 7}])


def test_phases_side_by_side_may_all_become_longer(tmp_path):
    for phase in ("first", "second"):
        note_length(tmp_path, phase, 5)
    check_lengths(tmp_path, [{"first": 9, "second": 9}, {"third": 4}])
    note_length(tmp_path, "third", 4)
    with pytest.raises(UserError, match="phase first was trained for 5 steps and phase third has begun"):
        check_lengths(tmp_path, [{"first": 9, "second": 9}, {"third": 4}])
