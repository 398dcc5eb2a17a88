"""Words of processes: agreed on, and told by one to the others; threads stand for them."""

import time

import pytest

from jaxfuse.engine.devices import processes as module
from jaxfuse.engine.devices.processes import Processes, exit_code
from jaxfuse.errors import PROCESS_LOST, OutputError, Stopped, Unfinished, UserError
from tests.engine.devices.boards import in_all


def test_process_0_works_and_all_get_what_it_returns():
    worked = []

    def work(processes):
        def count():
            worked.append((processes.number, processes.free))
            return [processes.number, float("nan"), {"a": 0.1}]

        first = processes.led(count)
        return first[0], first[2], processes.led(lambda: "then"), processes.free

    assert in_all(3, work) == [(0, {"a": 0.1}, "then", False)] * 3
    assert worked == [(0, True)]
    assert Processes().led(lambda: (1, object)) == (1, object), "alone, nothing is told"
    assert Processes().free


def test_all_end_as_process_0_does_and_it_alone_says_why():
    def work(processes):
        def refuse():
            time.sleep(0.05)
            raise Stopped("SIGTERM: stopped", 143)

        return processes.led(refuse)

    first, *others = in_all(3, work)
    assert (str(first), first.exit_code) == ("SIGTERM: stopped", 143)
    assert [(type(error), str(error), error.exit_code) for error in others] == [(Unfinished, "", 143)] * 2


def test_others_take_their_turn_after_process_0_and_not_where_it_fails():
    done = []

    def work(processes, fails=False):
        with processes.in_turn():
            if fails and processes.first:
                raise UserError("no data")
            # What is led within is a call like any other.
            done.append(processes.led(lambda: processes.number))

    in_all(3, work)
    assert done[0] == 0
    assert sorted(done) == [0, 1, 2]
    done.clear()
    first, *others = in_all(3, lambda processes: work(processes, fails=True))
    assert str(first) == "no data"
    assert [error.exit_code for error in others] == [2, 2]
    assert done == []


def test_what_each_says_is_gathered_in_order_and_differences_are_told():
    assert in_all(3, lambda processes: processes.gathered(processes.number)) == [[0, 1, 2]] * 3
    assert Processes().gathered("x") == ["x"]
    found = in_all(3, lambda processes: processes.refuse_differences({"devices": 1 + processes.number // 2, "_own": 1}))
    assert str(found[0]).startswith("process 2 differs from process 0: devices is 1 in process 0 and 2 there; the")
    assert [error.exit_code for error in found[1:]] == [2, 2]


def test_who_waits_ends_once_another_is_lost():
    def work(processes):
        if processes.first:
            return None  # it has gone
        processes.lost = ("process 0 is gone", PROCESS_LOST)
        return processes.led(lambda: None)

    ended = in_all(2, work)[1]
    assert (str(ended), exit_code(ended)) == ("process 0 is gone", 75)


def test_a_file_of_process_0_is_waited_for(tmp_path, monkeypatch):
    monkeypatch.setattr(module, "SEEN_S", 0.0)
    Processes().await_visible(tmp_path / "none")
    follower = Processes(1, 2)
    (tmp_path / "there").touch()
    follower.await_visible(tmp_path / "there")
    with pytest.raises(
        UserError, match=r"process 1 does not find .*/none, which process 0 wrote; .* need one file sys"
    ):
        follower.await_visible(tmp_path / "none")


def test_codes_of_ends():
    ends = (UserError("x"), OutputError("x"), Stopped("x", 143), KeyboardInterrupt(), RuntimeError("x"), OSError())
    assert [exit_code(end) for end in ends] == [2, 2, 143, 130, 1, 2]
