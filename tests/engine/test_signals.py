"""A first signal is noted, a second one of its kind acts as it always did."""

import os
import signal

import pytest

from jaxfuse.engine.signals import StopRequest

STOPPING = (signal.SIGTERM, signal.SIGINT)


def handlers() -> list:
    return [signal.getsignal(number) for number in STOPPING]


def test_nothing_is_requested_at_first_and_handlers_come_back():
    before = handlers()
    with StopRequest() as stop:
        assert stop.requested is None
        assert all(new != old for new, old in zip(handlers(), before, strict=True))
    assert handlers() == before


@pytest.mark.parametrize("number", STOPPING)
def test_signal_is_noted_and_ends_nothing(number):
    with StopRequest() as stop:
        os.kill(os.getpid(), number)
        assert stop.requested is number


def test_second_interrupt_ends_at_once():
    before = handlers()
    with StopRequest() as stop:
        os.kill(os.getpid(), signal.SIGINT)
        with pytest.raises(KeyboardInterrupt):
            os.kill(os.getpid(), signal.SIGINT)
        assert stop.requested is signal.SIGINT
    assert handlers() == before


def test_handlers_come_back_after_an_error():
    before = handlers()
    with pytest.raises(RuntimeError), StopRequest():
        raise RuntimeError
    assert handlers() == before
