import pytest

from jaxfuse.io.metric_rows import seconds_of_training


def _row(phase, step, rate, split="train"):
    return {"phase": phase, "step": step, "split": split, "steps_per_s": rate}


def test_steps_at_their_rates_in_all_calls_and_phases():
    """The first ten steps have no rate yet and take that of the next; a second call goes on faster from step 20."""
    rows = [_row("a", 10, 0.0), _row("a", 20, 2.0), _row("a", 20, 9.0, "val"), _row("a", 30, 5.0), _row("b", 4, 1.0)]
    assert seconds_of_training(rows, ("a",)) == pytest.approx(20 / 2 + 10 / 5)
    assert seconds_of_training(rows, ("a", "b")) == pytest.approx(16)
    assert seconds_of_training([_row("a", 1, 0.0)], ("a", "c")) == 0
