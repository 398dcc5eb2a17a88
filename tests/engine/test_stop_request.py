"""A first signal is noted, a second one of its kind acts as it always did."""

import os
import signal

import pytest

from jaxfuse.engine.stop_request import StopRequest
from jaxfuse.errors import Stopped

STOPPING = (signal.SIGTERM, signal.SIGINT)


def handlers() -> list:
    return [signal.getsignal(number) for number in STOPPING]


def test_nothing_is_requested_at_first_and_handlers_come_back():
    before = handlers()
    with StopRequest() as stop:
        assert stop.requested is None
        assert all(new != old for new, old in zip(handlers(), before, strict=True))
    assert handlers() == before
    with pytest.raises(RuntimeError), StopRequest():
        raise RuntimeError
    assert handlers() == before


@pytest.mark.parametrize("number", STOPPING)
def test_a_signal_is_noted_and_said_and_stops_with_its_exit_code_where_it_is_heeded(number, capfd):
    with StopRequest() as stop:
        stop.heed("before phase fusion")
        os.kill(os.getpid(), number)
        assert stop.requested is number
        assert capfd.readouterr().err == "stopping at the next safe point; once more stops at once, without saving\n"
        with pytest.raises(Stopped, match=f"{number.name}: stopped before phase fusion; the same command") as stopped:
            stop.heed("before phase fusion")
    assert stopped.value.exit_code == 128 + number


@pytest.fixture
def interruptible():
    """A process that a shell started in the background ignores SIGINT from the start."""
    inherited = signal.signal(signal.SIGINT, signal.default_int_handler)
    yield
    signal.signal(signal.SIGINT, inherited)


@pytest.mark.usefixtures("interruptible")
def test_second_interrupt_ends_at_once():
    before = handlers()
    with StopRequest() as stop:
        os.kill(os.getpid(), signal.SIGINT)
        with pytest.raises(KeyboardInterrupt):
            os.kill(os.getpid(), signal.SIGINT)
        assert stop.requested is signal.SIGINT
    assert handlers() == before


def test_a_limit_of_time_asks_for_a_stop_and_ends_with_its_context():
    before = signal.getsignal(signal.SIGALRM)
    with StopRequest(minutes=0.02 / 60) as stop:
        signal.pause()
        assert stop.requested is signal.SIGALRM
        with pytest.raises(
            Stopped, match="^time limit: stopped while cases were prepared; the same command goes on"
        ) as end:
            stop.heed("while cases were prepared")
    assert end.value.exit_code == 142
    with StopRequest(minutes=10):
        assert signal.getitimer(signal.ITIMER_REAL)[0] > 500
    assert (signal.getitimer(signal.ITIMER_REAL)[0], signal.getsignal(signal.SIGALRM)) == (0, before)
    with StopRequest(minutes=0.001 / 60) as stop:
        stop.requested = signal.SIGTERM
        signal.pause()
        assert stop.requested is signal.SIGTERM
