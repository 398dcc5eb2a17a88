"""The loop around a toy: intervals of rows, validations and checkpoints, and what stops it."""

import math
import signal
import time

import numpy as np
import pytest

from jaxfuse.engine.devices.placement import one_device
from jaxfuse.engine.run_folder.checkpoints import Checkpoints, read_weights
from jaxfuse.engine.validation import Progress
from tests.engine.toy_loop import Bench, fresh


def test_rows_are_interval_means_written_one_interval_late_and_none_is_lost(tmp_path):
    seen = {}

    def before(number: int) -> None:
        seen[number] = bench.rows("train")
        if number == 6:
            raise OSError("gone")

    bench = Bench(tmp_path / "whole", 5, before=before)
    assert int(bench.run().step) == 5
    assert bench.rows("train") == [(2, 1.5), (4, 3.5), (5, 5.0)]
    # The first interval (steps 1 and 2) is written when the second one has been sent off.
    assert seen == {1: [], 2: [], 3: [], 4: [], 5: [(2, 1.5)]}
    broken = Bench(tmp_path / "broken", 7, before=before)
    with pytest.raises(OSError, match="gone"):
        broken.run()
    assert [stream.closed for stream in (*bench.streams, *broken.streams)] == [True, True]


@pytest.mark.parametrize(("every", "judged", "best"), [(3, [3, 6, 7], 6), (2, [2, 4, 6, 7], 6), (0, [7], 7)])
def test_validations_and_checkpoints_are_at_their_intervals_and_at_the_end(tmp_path, every, judged, best):
    saved = []
    scores = {2: math.nan, 3: 0.1, 4: 0.1, 6: 0.5, 7: 0.5}
    bench = Bench(tmp_path, 7, validate_every=every, checkpoint_every=3, scores=scores)
    write = bench.checkpoints.save
    bench.checkpoints.save = lambda number, *more: (saved.append(number), write(number, *more))  # pyright: ignore
    bench.run()
    assert (bench.judged, saved) == (judged, [3, 6, 7])
    assert bench.rows("val") == [(number, 0.5) for number in judged]
    state, progress = Checkpoints(tmp_path / "checkpoints").restore(fresh())
    assert (progress["best_score"], progress["best_step"]) == (0.5, best)
    kept = read_weights(tmp_path / "checkpoints", fresh(), one_device(), best=True)
    assert (state.params["net"]["w"].tolist(), kept.params["net"]["w"].tolist()) == ([7] * 3, [best] * 3)


@pytest.mark.parametrize(("every", "minutes", "wanted"), [(0, 3.0, [3, 6, 7]), (2, 3.0, [2, 4, 6, 7]), (0, 0.0, [7])])
def test_checkpoints_are_at_most_so_many_minutes_apart(tmp_path, monkeypatch, every, minutes, wanted):
    saved, now = [], [0.0]
    monkeypatch.setattr(time, "monotonic", lambda: now[0])
    bench = Bench(
        tmp_path,
        7,
        before=lambda number: now.append(now.pop() + 60.0),  # a step a minute
        checkpoint_every=every,
        checkpoint_minutes=minutes,
    )
    write = bench.checkpoints.save
    bench.checkpoints.save = lambda number, *more: (saved.append(number), write(number, *more))  # pyright: ignore
    bench.run()
    assert saved == wanted


@pytest.mark.parametrize(
    ("odd", "every", "told", "kept"),
    [
        ({5: {"loss": math.nan}}, 2, "phase toy: net/loss became nan at step 5; the checkpoint of step 4 is kept", 4),
        ({1: {"loss": math.inf}}, 100, "net/loss became inf at step 1; no checkpoint had been written yet", None),
        ({5: {"push": math.nan}}, 4, "no longer finite after step 8; the checkpoint of step 4 is kept", 4),
    ],
)
def test_what_is_not_finite_stops_the_run_before_it_is_saved(tmp_path, odd, every, told, kept):
    bench = Bench(tmp_path, 20, odd=odd, checkpoint_every=every)
    stopped = bench.stopped()
    assert stopped.exit_code == 1
    assert told in str(stopped)
    again = Checkpoints(tmp_path / "checkpoints")
    assert again.latest_step() == kept
    if kept:
        assert np.array_equal(again.restore(fresh())[0].params["net"]["w"], [4, 4, 4])
        assert bench.rows("train") == [(step, step - 0.5) for step in range(2, 9 if "push" in odd[5] else 5, 2)]


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_stop_request_saves_and_the_next_run_goes_on_from_there(tmp_path, number):
    def request(next_step: int) -> None:
        bench.stop.requested = number if next_step == 3 else None

    bench = Bench(tmp_path, 6, before=request)
    stopped = bench.stopped()
    assert stopped.exit_code == 128 + number
    assert str(stopped).startswith(f"{number.name}: stopped after step 3 of 6 of phase toy")
    assert bench.judged == []
    later = Bench(tmp_path, 6, before=lambda step: setattr(later.stop, "requested", number if step == 6 else None))
    assert np.array_equal(later.run().params["net"]["w"], [6, 6, 6])  # at the last step it lets the phase end
    assert (later.streams[0].number, later.judged) == (6, [6])
    assert Checkpoints(tmp_path / "checkpoints").latest_step() == 6
    assert later.rows("train")[-2:] == [(4, 4.0), (6, 5.5)]


def test_a_phase_ends_where_its_judge_has_seen_enough_and_goes_on_where_more_is_asked_for(tmp_path):
    scores = dict(zip(range(1, 8), (0.1, 0.5, 0.4, math.nan, 0.3, 0.9, 0.2), strict=True))
    bench = Bench(tmp_path, 7, scores=scores, validate_every=1, log_every=3, patience=3)
    assert int(bench.run().step) == 5
    assert (bench.judged, bench.judge.ended) == ([1, 2, 3, 4, 5], True)
    assert bench.rows("train") == [(3, 2.0), (5, 4.5)], "the rows of the running interval are written"
    again = Bench(tmp_path, 7, scores=scores, validate_every=1, log_every=3, patience=3)
    assert int(again.run().step) == 5
    assert again.judged == []
    assert again.checkpoints.progress(5) == {"best_score": 0.5, "best_step": 2, "since": 3}
    more = Bench(tmp_path, 7, scores=scores, validate_every=1, log_every=3, patience=4)
    assert int(more.run().step) == 7
    assert more.judge.progress == Progress(0.9, 6, 1)
