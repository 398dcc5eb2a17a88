"""A stop request that comes between deciding and saving: what is said to be saved is on disk."""

import signal
from collections.abc import Callable

import pytest

from jaxfuse.engine.run_folder.checkpoints import Checkpoints
from tests.engine.toy_loop import Bench
from tests.faults.catalogue import given, table

TOTAL = 40


def ask(bench: Bench, number: signal.Signals) -> None:
    bench.stop.requested = number


def while_validating(bench: Bench, step: int, number: signal.Signals) -> None:
    validate = bench.judge.validate

    def interrupted(state):
        if int(state.step) == step:
            ask(bench, number)
        return validate(state)

    bench.judge.validate = interrupted


def while_saving(bench: Bench, step: int, number: signal.Signals) -> None:
    save = bench.checkpoints.save

    def interrupted(now, *more):
        save(now, *more)
        if now == step:
            ask(bench, number)

    bench.checkpoints.save = interrupted  # pyright: ignore


def while_loading(bench: Bench, step: int, number: signal.Signals) -> None:
    bench.before = lambda now: ask(bench, number) if now == step else None


@table(
    "comes,step,number,stops",
    (
        "SIGTERM while the validation of step 7 of 40 runs",
        "step 7 is saved, then said to be; the next call goes on from 7",
        while_validating, 7, signal.SIGTERM, 7,
    ),
    ("control-C in that place", "the same", while_validating, 7, signal.SIGINT, 7),
    ("SIGTERM right after step 10 was saved", "step 11 is saved", while_saving, 10, signal.SIGTERM, 11),
    ("SIGTERM before the first step", "step 1 is saved", while_loading, 1, signal.SIGTERM, 1),
)  # fmt: skip
def test_it_stops_with_what_it_says_on_disk(
    tmp_path, comes: Callable[..., None], step: int, number: signal.Signals, stops: int
):
    bench = Bench(tmp_path, TOTAL, validate_every=7, checkpoint_every=10)
    comes(bench, step, number)
    stopped = bench.stopped()
    assert stopped.exit_code == 128 + number
    assert str(stopped).startswith(f"{number.name}: stopped after step {stops} of {TOTAL} of phase toy, and saved")
    assert Checkpoints(tmp_path / "checkpoints").latest_step() == stops
    later = Bench(tmp_path, TOTAL, validate_every=7, checkpoint_every=10)
    assert later.run().params["net"]["w"].tolist() == [TOTAL] * 3
    assert later.streams[0].number - TOTAL == 0
    assert later.judged[0] == 7 * (stops // 7 + 1)


@given("SIGTERM while the validation of the last step runs", "the phase ends: its checkpoint is written anyway")
@pytest.mark.parametrize("number", [signal.SIGTERM])
def test_a_request_at_the_end(tmp_path, number):
    bench = Bench(tmp_path, 7, validate_every=7)
    while_validating(bench, 7, number)
    assert int(bench.run().step) == 7
    assert Checkpoints(tmp_path / "checkpoints").latest_step() == 7
