"""Stops and saves, due in all processes after the same step."""

from jaxfuse.engine.devices.agreement import LATE, Late, agreement, at_once
from jaxfuse.engine.devices.placement import one_device
from jaxfuse.engine.devices.processes import Processes


def test_one_process_does_at_once_what_it_asks_for():
    assert agreement(Processes(), one_device()) is at_once
    assert at_once(15, True) == (15, True)


def test_several_do_it_some_steps_later_and_save_once():
    agree = Late(Processes(), one_device())
    asked = [(0, False), (0, True), (0, True), (0, True), (15, False), (15, False), (15, False)]
    found = [agree(*one) for one in asked]
    assert LATE == 2
    assert found == [(0, False)] * 3 + [(0, True)] + [(0, False)] * 2 + [(15, False)]
