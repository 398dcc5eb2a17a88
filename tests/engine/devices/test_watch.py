"""The watch on other processes: signals are forwarded, and their ends noticed."""

import itertools
import signal
import time
from types import SimpleNamespace

import pytest

from jaxfuse.engine.devices import watch as module
from jaxfuse.engine.devices.processes import Processes
from jaxfuse.engine.devices.watch import Watch
from tests.engine.devices.boards import Wall


@pytest.fixture
def watched(monkeypatch):
    """Two processes of one board, each with its watch and its request to stop, and the ends that watches made."""
    monkeypatch.setattr(module, "_LOOK_S", 0.02)
    monkeypatch.setattr(module, "_BEAT_S", 0.03)
    monkeypatch.setattr(module, "GRACE_S", 0.05)
    monkeypatch.setattr(module.os, "_exit", (ended := []).append)
    wall = Wall()
    both = [Processes(number, 2, wall, stop=SimpleNamespace(requested=None)) for number in range(2)]
    watches = [Watch(processes) for processes in both]
    yield SimpleNamespace(wall=wall, both=both, watches=watches, ended=ended)
    for watch in watches:
        watch.close()


def _until(condition):
    deadline = time.monotonic() + 20
    while not condition():
        assert time.monotonic() < deadline
        time.sleep(0.01)


def test_a_signal_to_one_process_is_a_request_in_all(watched):
    watched.both[1].stop.requested = signal.SIGTERM
    _until(lambda: watched.both[0].stop.requested == signal.SIGTERM)
    assert [processes.lost for processes in watched.both] == [None, None]


def test_an_end_that_is_told_ends_the_others_with_its_words(watched, capfd):
    watched.watches[1].tell_end("the data are not there", 2)
    assert watched.watches[0].verdict(20.0) == ("process 1 has ended: the data are not there", 2)
    assert watched.watches[1].verdict(0.1) is None, "it knows"
    _until(lambda: watched.ended)
    assert watched.ended[0] == 2
    assert "process 1 has ended: the data are not there" in capfd.readouterr().err


@pytest.mark.parametrize("apart", [False, True])
def test_a_process_that_gives_no_sign_of_life_is_named(watched, monkeypatch, apart):
    monkeypatch.setattr(module, "_MISSED_APART", 4)
    _until(lambda: "beat/1" in watched.wall.words)
    assert watched.watches[0].verdict(0.6) is None, "while it gives them, it lives"
    watched.wall.mute = {"beat/1"}
    if apart:  # one that takes longer for others is known at once
        watched.watches[0]._missed = 10**6
    verdict = watched.watches[0].verdict(20.0, apart=apart)
    sentence, code = verdict or ("", 0)
    assert (sentence, code) == (
        "process 1 is gone: killed, or its machine or network failed; the same command goes on from the last "
        "checkpoint",
        75,
    )


def test_a_clock_that_went_on_while_the_machine_slept_ends_no_search(watched, monkeypatch):
    hours = itertools.count(step=3600.0)
    monkeypatch.setattr(module, "time", SimpleNamespace(monotonic=lambda: next(hours), sleep=time.sleep))
    watched.wall.mute = {"beat/1"}
    sentence, code = watched.watches[0].verdict(20.0, apart=True) or ("", 0)
    assert sentence.startswith("process 1 is gone")
    assert code == 75
