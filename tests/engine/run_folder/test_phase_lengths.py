"""Who keeps the length that it had."""

from jaxfuse.engine.run_folder.phase_lengths import check_lengths, note_length, noted_lengths
from tests.refusals import refused


def test_a_phase_keeps_its_length_once_one_of_a_later_training_has_begun(tmp_path):
    assert noted_lengths(tmp_path) == {}
    note_length(tmp_path, "first", 6)
    note_length(tmp_path, "first", 5)
    check_lengths(tmp_path, [{"first": 9}, {"second": 7}])  # nothing was built on it yet
    note_length(tmp_path, "second", 7)
    assert noted_lengths(tmp_path) == {"first": 5, "second": 7}
    check_lengths(tmp_path, [{"first": 5}, {"second": 20}])
    told = "phase first was trained for 5 steps and phase second has begun from it; 9 steps are asked for"
    refused(told, check_lengths, tmp_path, [{"first": 9}, {"second": 7}])
    # Phases side by side may all become longer.
    trainings = [{"first": 9, "second": 9}, {"third": 4}]
    check_lengths(tmp_path, trainings)
    note_length(tmp_path, "third", 4)
    refused("phase first was trained for 5 steps and phase third has begun", check_lengths, tmp_path, trainings)
