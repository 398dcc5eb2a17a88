"""The loop around a toy: the parameter counts its steps, and each batch says what its loss is."""

import io
import math
import signal
from collections.abc import Callable, Iterator, Mapping
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from rich.console import Console

from jaxfuse.engine.display import Display
from jaxfuse.engine.loop import Loop
from jaxfuse.engine.programs import one_device
from jaxfuse.engine.run_folder.checkpoints import Checkpoints, read_weights
from jaxfuse.engine.run_folder.metric_writer import MetricWriter, read_metrics
from jaxfuse.engine.stop_request import StopRequest
from jaxfuse.engine.validation import PhaseJudge, Progress
from jaxfuse.errors import Stopped
from jaxfuse.learning.state import State


def fresh() -> State:
    w = {"net": {"w": jnp.zeros(3)}}
    return State(jnp.int32(0), jax.random.key(0), w, {"net": {}}, {"net": jnp.zeros(3)}, {})  # pyright: ignore


@jax.jit
def step(state: State, batch: Mapping[str, Any]) -> tuple[State, dict[str, jax.Array]]:
    """Adds the batch's `push` to the parameter, and reports the batch's `loss`."""
    params = {"net": {"w": state.params["net"]["w"] + batch["push"]}}
    return state.replace(params=params).advance(), {"net/loss": batch["loss"]}  # pyright: ignore


class Stream:
    """Batches of steps start + 1, start + 2, ...: the loss is the step's number, the push 1, but for `odd`."""

    def __init__(self, start: int, odd: Mapping[int, Mapping[str, float]], before: Callable[[int], None]) -> None:
        self.number, self.odd, self.before, self.closed = start, odd, before, False

    def __iter__(self) -> Iterator[Mapping[str, Any]]:
        return self

    def __next__(self) -> Mapping[str, Any]:
        self.number += 1
        self.before(self.number)
        values = {"loss": float(self.number), "push": 1.0, **self.odd.get(self.number, {})}
        return {name: np.float32(value) for name, value in values.items()}

    def close(self) -> None:
        self.closed = True


class Bench:
    """A loop in a folder; `options` are those of `Loop` that a test changes."""

    def __init__(self, folder, total: int, *, odd=None, before=lambda number: None, scores=None, **options) -> None:
        self.folder, self.total, self.odd, self.before, self.options = folder, total, odd or {}, before, options
        self.scores, self.streams, self.judged, self.stop = scores or {}, [], [], StopRequest()
        self.checkpoints, self.writer = Checkpoints(folder / "checkpoints"), MetricWriter(folder)
        self.judge = PhaseJudge("toy", self.validate, self.writer, self.checkpoints, Progress())

    def stream(self, start: int) -> Stream:
        self.streams.append(Stream(start, self.odd, self.before))
        return self.streams[-1]

    def validate(self, state: State) -> dict[str, float]:
        self.judged.append(int(state.step))
        return {"net/loss": 0.5, **({"score": self.scores[int(state.step)]} if self.scores else {})}

    def run(self) -> State:
        state = fresh()
        if self.checkpoints.latest_step() is not None:
            state, found = self.checkpoints.restore(state)
            self.judge.recall(found)
        settings = {"validate_every": 0, "checkpoint_every": 100, "log_every": 2, **self.options}
        kept = {"judge": self.judge, "checkpoints": self.checkpoints, "writer": self.writer, "stop": self.stop}
        shown = Display(Console(file=io.StringIO()))
        try:
            return Loop("toy", self.total, step, self.stream, display=shown, **kept, **settings).run(state)
        finally:
            self.writer.close()
            self.checkpoints.close()

    def stopped(self) -> Stopped:
        with pytest.raises(Stopped) as error:
            self.run()
        assert [stream.closed for stream in self.streams] == [True]
        return error.value

    def rows(self, split: str) -> list[tuple[int, float]]:
        return [(row["step"], row["net/loss"]) for row in read_metrics(self.folder) if row["split"] == split]


def test_rows_are_interval_means_written_one_interval_late_and_none_is_lost(tmp_path):
    seen = {}
    bench = Bench(tmp_path, 5, before=lambda number: seen.update({number: bench.rows("train")}))
    assert int(bench.run().step) == 5
    assert bench.rows("train") == [(2, 1.5), (4, 3.5), (5, 5.0)]
    # The first interval (steps 1 and 2) is written when the second one has been sent off.
    assert seen == {1: [], 2: [], 3: [], 4: [], 5: [(2, 1.5)]}
    assert bench.streams[0].closed


@pytest.mark.parametrize(("every", "judged"), [(3, [3, 6, 7]), (7, [7]), (0, [7])])
def test_validation_is_at_its_interval_and_at_the_end(tmp_path, every, judged):
    bench = Bench(tmp_path, 7, validate_every=every)
    bench.run()
    assert bench.judged == judged
    assert bench.rows("val") == [(number, 0.5) for number in judged]


def test_checkpoints_are_at_their_interval_and_at_the_end(tmp_path):
    saved = []
    bench = Bench(tmp_path, 7, checkpoint_every=3)
    write = bench.checkpoints.save
    bench.checkpoints.save = lambda number, *more: (saved.append(number), write(number, *more))  # pyright: ignore
    bench.run()
    assert saved == [3, 6, 7]
    state, progress = Checkpoints(tmp_path / "checkpoints").restore(fresh())
    assert np.array_equal(state.params["net"]["w"], [7, 7, 7])
    assert progress == {"best_score": None, "best_step": None}


def test_best_checkpoint_follows_the_score_and_no_later_equal_one(tmp_path):
    scores = {2: math.nan, 4: 0.1, 6: 0.5, 8: 0.5, 10: 0.3}
    bench = Bench(tmp_path, 10, validate_every=2, scores=scores)
    bench.run()
    for best, pushed in ((True, 6), (False, 10)):
        kept = read_weights(tmp_path / "checkpoints", fresh(), one_device(), best=best)
        assert np.array_equal(kept.params["net"]["w"], [pushed] * 3)
    assert Checkpoints(tmp_path / "checkpoints").restore(fresh())[1] == {"best_score": 0.5, "best_step": 6}


def test_loss_that_is_not_finite_stops_the_run_before_it_is_saved(tmp_path):
    bench = Bench(tmp_path, 20, odd={5: {"loss": math.nan}}, checkpoint_every=2)
    stopped = bench.stopped()
    assert stopped.exit_code == 1
    assert "phase toy: net/loss became nan at step 5; the checkpoint of step 4 is kept" in str(stopped)
    again = Checkpoints(tmp_path / "checkpoints")
    assert again.latest_step() == 4
    assert np.array_equal(again.restore(fresh())[0].params["net"]["w"], [4, 4, 4])
    assert bench.rows("train") == [(2, 1.5), (4, 3.5)]


@pytest.mark.parametrize(
    ("odd", "told", "kept"),
    [
        ({1: {"loss": math.inf}}, "net/loss became inf at step 1; no checkpoint had been written yet", None),
        ({5: {"push": math.nan}}, "no longer finite after step 8; the checkpoint of step 4 is kept", 4),
    ],
)
def test_infinite_losses_and_parameters_that_are_not_finite_stop_a_run(tmp_path, odd, told, kept):
    stopped = Bench(tmp_path, 20, odd=odd, checkpoint_every=4 if kept else 100).stopped()
    assert stopped.exit_code == 1
    assert told in str(stopped)
    assert Checkpoints(tmp_path / "checkpoints").latest_step() == kept


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_stop_request_saves_and_the_next_run_goes_on_from_there(tmp_path, number):
    def request(next_step: int) -> None:
        if next_step == 3:
            bench.stop.requested = number

    bench = Bench(tmp_path, 6, before=request)
    stopped = bench.stopped()
    assert stopped.exit_code == 128 + number
    assert str(stopped).startswith(f"{number.name}: stopped after step 3 of 6 of phase toy")
    assert bench.judged == []
    later = Bench(tmp_path, 6)
    assert np.array_equal(later.run().params["net"]["w"], [6, 6, 6])
    assert later.streams[0].number == 6
    assert later.rows("train")[-2:] == [(4, 4.0), (6, 5.5)]


def test_stop_request_that_comes_while_a_validation_runs_is_saved_before_it_says_so(tmp_path):
    bench = Bench(tmp_path, 6, validate_every=3, checkpoint_every=100)
    validate = bench.judge.validate

    def interrupted(state: State) -> dict[str, float]:
        bench.stop.requested = signal.SIGTERM
        return validate(state)

    bench.judge.validate = interrupted
    assert str(bench.stopped()).startswith("SIGTERM: stopped after step 3 of 6 of phase toy, and saved")
    assert Checkpoints(tmp_path / "checkpoints").latest_step() == 3


def test_stop_request_at_the_last_step_lets_the_phase_end(tmp_path):
    def request(next_step: int) -> None:
        bench.stop.requested = signal.SIGTERM if next_step == 6 else None

    bench = Bench(tmp_path, 6, before=request)
    assert int(bench.run().step) == 6
    assert bench.judged == [6]
    assert Checkpoints(tmp_path / "checkpoints").latest_step() == 6


def test_stream_is_closed_where_the_data_fails(tmp_path):
    def fail(next_step: int) -> None:
        if next_step == 2:
            raise OSError("gone")

    bench = Bench(tmp_path, 6, before=fail)
    with pytest.raises(OSError, match="gone"):
        bench.run()
    assert bench.streams[0].closed
