"""The meeting of processes at a port: who is missing and who differs is named; threads stand for processes."""

import socket
import threading
from concurrent.futures import ThreadPoolExecutor

import pytest

from jaxfuse.engine.devices import meeting
from jaxfuse.engine.devices.meeting import Seat, differences, meet
from jaxfuse.errors import UserError
from tests.engine.devices.ports import free_port


def _met(seats, statements, wait_s):
    def one(place):
        try:
            return meet(seats[place], statements[place], wait_s=wait_s)
        except UserError as error:
            return str(error)

    with ThreadPoolExecutor(len(seats)) as pool:
        return list(pool.map(one, range(len(seats))))


def _seats(*numbers, count):
    address = f"localhost:{free_port()}"
    return [Seat(address, count, number) for number in numbers]


def test_all_hear_what_each_says_in_order():
    seats = _seats(2, 1, 0, count=3)
    found = _met(seats, [{"jax": "1", "_host": name} for name in "cba"], 20.0)
    assert found[0] == found[1] == found[2]
    assert [one["_host"] for one in found[0]] == ["a", "b", "c"]
    with socket.create_server(("", seats[0].port)):
        pass  # the port is free again


def test_a_process_that_is_missing_is_named_by_all():
    told = _met(_seats(0, 2, count=4), [{}, {}], 3.0)
    assert told[0] == told[1]
    assert told[0].startswith("processes 1, 3 have not come to localhost:")
    assert "within 3 s, where 4 processes are to meet" in told[0]
    (alone,) = _met(_seats(1, count=2), [{}], 0.3)
    assert alone.startswith("process 1 has not found process 0 at localhost:")
    assert "(Connection refused)" in alone


@pytest.mark.parametrize(
    ("statements", "told"),
    [
        (
            [{"jax": "0.10.2", "config.batch": 4}, {"jax": "0.10.2", "config.batch": 4}, {"jax": "0.10.1", "x": 1}],
            "process 2 differs from process 0: config.batch is 4 in process 0 and absent there; jax is '0.10.2' in "
            "process 0 and '0.10.1' there; x is absent in process 0 and 1 there; start all processes by the same "
            "command, from the same installation",
        ),
    ],
)
def test_a_process_that_differs_is_named_by_all(statements, told):
    assert _met(_seats(0, 1, 2, count=3), statements, 20.0) == [told] * 3


def test_numbers_that_are_taken_or_not_there_are_told(monkeypatch):
    monkeypatch.setattr(meeting, "_LINGER_S", 0.3)
    twice = "two processes call themselves number 1; give each its own number, from 0 to 2"
    assert _met(_seats(0, 1, 1, count=3), [{}, {}, {}], 5.0).count(twice) >= 2
    odd = _seats(0, count=2)
    odd.append(Seat(odd[0].address, 3, 2))
    assert set(_met(odd, [{}, {}], 5.0)) == {
        "process 2 takes part, where numbers go from 0 to 1; correct --distributed"
    }
    with socket.create_server(("", 0)) as taken:
        refusal = _met([Seat(f"localhost:{taken.getsockname()[1]}", 2, 0)], [{}], 0.1)[0]
    assert refusal.startswith("process 0 cannot listen at port ")


def test_callers_of_another_kind_are_passed_over():
    seats = _seats(0, 1, count=2)

    def stray():
        while True:
            try:
                with socket.create_connection((seats[0].host, seats[0].port)) as call:
                    call.sendall(b"GET / HTTP/1.0\n")
                return
            except OSError:
                continue

    thread = threading.Thread(target=stray)
    with ThreadPoolExecutor(2) as pool:
        first = pool.submit(meet, seats[0], {"a": 1}, wait_s=20.0)
        thread.start()
        thread.join()
        assert meet(seats[1], {"a": 1}, wait_s=20.0) == first.result()


def test_differences_beyond_the_first_four_are_counted():
    many = {f"k{number}": number for number in range(6)}
    assert differences([many, {}]).endswith("k3 is 3 in process 0 and absent there, and 2 more")
    assert differences([many, {**many, "_own": 3}]) == ""
