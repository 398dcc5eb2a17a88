"""Items go through three stages at once, in order, on several devices; what fails is told in its place."""

import threading
from collections.abc import Iterator

import pytest

from jaxfuse.prediction.conveyor import Work, conveyed

WAIT_S = 20


def work(make=lambda read, device: (read, device), read=str, write=lambda item, made: (item, made)) -> Work:
    return Work(read, make, write)


def test_items_come_in_order_and_each_device_has_one_at_a_time():
    lock, busy, most = threading.Lock(), set(), 0

    def make(read: str, device: str) -> tuple[str, str]:
        nonlocal most
        with lock:
            assert device not in busy
            busy.add(device)
            most = max(most, len(busy))
        threading.Event().wait(0.001 * (int(read) % 3))
        with lock:
            busy.remove(device)
        return read, device

    done = [(item, result()) for item, result in conveyed(range(30), work(make), "AB")]
    assert [item for item, _ in done] == list(range(30))
    assert [made[0] for _, (_, made) in done] == [str(item) for item in range(30)]
    assert {made[1] for _, (_, made) in done} == {"A", "B"}
    assert most == 2


def test_the_next_item_is_read_and_the_last_one_written_while_a_device_works():
    """Each stage waits for another to have begun on its neighbor: one after the other they would wait for ever."""
    read, written = threading.Event(), threading.Event()

    def reading(item: int) -> int:
        if item == 2:
            read.set()
        return item

    def make(item: int, device: str) -> int:
        if item == 1:
            assert read.wait(WAIT_S)
            assert written.wait(WAIT_S)
        return item

    def writing(item: int, made: int) -> int:
        if item == 0:
            written.set()
        return made

    assert [result() for _, result in conveyed(range(3), work(make, reading, writing), "A")] == [0, 1, 2]


def test_items_are_drawn_a_few_ahead_and_no_more():
    drawn = []

    def items() -> Iterator[int]:
        for item in range(100):
            drawn.append(item)
            yield item

    for item, result in conveyed(items(), work(), "A"):
        result()
        assert len(drawn) <= item + 5
    assert len(drawn) == 100


@pytest.mark.parametrize("stage", ["read", "make", "write"])
def test_what_fails_is_raised_in_its_place_and_the_others_go_on(stage):
    def fails(name: str, value):
        if name == stage and int(value) % 5 == 2:
            raise KeyError(int(value))
        return value

    faulty = work(
        lambda read, device: fails("make", read), lambda i: fails("read", i), lambda i, made: fails("write", made)
    )
    outcomes = []
    for _, result in conveyed(range(20), faulty, "ABC"):
        try:
            outcomes.append(result())
        except KeyError as error:
            outcomes.append(f"failed: {error.args[0]}")
    assert outcomes == [f"failed: {item}" if item % 5 == 2 else item for item in range(20)]


def test_a_caller_that_ends_early_leaves_no_work_behind():
    before, begun, ended = threading.active_count(), [], []

    def make(item: int, device: str) -> int:
        begun.append(item)
        threading.Event().wait(0.005)
        ended.append(item)
        return item

    belt = conveyed(range(100), work(make, int), "A")
    next(belt)
    belt.close()
    assert begun == ended
    assert len(begun) < 10
    assert threading.active_count() == before
