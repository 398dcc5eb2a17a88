"""Cases on their way: the next ones are read while devices work, and what came of those before is written meanwhile.

Reading and writing go on in threads: decompression, NumPy and the waiting for a device let other threads run.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Generator, Iterable, Sequence
from concurrent.futures import FIRST_COMPLETED, Executor, Future, ThreadPoolExecutor, wait
from contextlib import ExitStack
from dataclasses import dataclass, field
from typing import Any, Generic, TypeVar

Item = TypeVar("Item")
Read = TypeVar("Read")
Made = TypeVar("Made")
Done = TypeVar("Done")

DEVICES = "devices"
DEVICES_HELP = "Devices of this machine that share the cases, each with one case at a time: a number, or all."

# Items in the hands of each device at once: one that it works on, and one that waits for it or is written.
_OF_EACH = 2


@dataclass(frozen=True)
class Work(Generic[Item, Read, Made, Done]):
    """The three stages that each item goes through.

    Attributes:
        read: makes of an item what a device works on.
        make: the work of a device on it; one call at a time for each device.
        write: settles what came of it.
    """

    read: Callable[[Item], Read]
    make: Callable[[Read, Any], Made]
    write: Callable[[Item, Made], Done]


@dataclass
class _Job:
    """An item, the stage that it is in, and what will come of that.

    Attributes:
        device: the one that works on it; None before and after.
    """

    item: Any
    future: Future[Any]
    stage: str = "read"
    device: Any = None

    @property
    def ended(self) -> bool:
        """Whether it is through, or a stage raised; with a device it still has to give that back."""
        if not self.future.done() or self.device is not None:
            return False
        return self.stage == "write" or self.future.exception() is not None


@dataclass(frozen=True)
class _Hands:
    """The threads of each stage, and the devices that have nothing to do."""

    reading: Executor
    making: Executor
    writing: Executor
    idle: list[Any] = field(default_factory=list)

    def advance(self, jobs: Iterable[_Job], work: Work[Any, Any, Any, Any]) -> None:
        """Puts jobs that have ended a stage into the next; devices take them in order."""
        for job in jobs:
            if job.stage == "make" and job.future.done():
                self.idle.append(job.device)
                job.device, job.stage = None, "write"
                if job.future.exception() is None:
                    job.future = self.writing.submit(work.write, job.item, job.future.result())
        for job in jobs:
            if job.stage != "read" or job.ended:
                continue
            if not job.future.done() or not self.idle:
                return
            job.device, job.stage = self.idle.pop(0), "make"
            job.future = self.making.submit(work.make, job.future.result(), job.device)


def conveyed(
    items: Iterable[Item], work: Work[Item, Read, Made, Done], devices: Sequence[Any]
) -> Generator[tuple[Item, Callable[[], Done]], None, None]:
    """Yields each item, in order, with a function that returns what `write` returned, or raises what a stage raised.

    Items are drawn a few ahead, in the thread of the caller. What has begun when the caller ends early is ended first.

    Args:
        devices: each works on one item at a time; devices take items in order.
    """
    most = _OF_EACH * len(devices) + 2
    with ExitStack() as stack:
        pools = [ThreadPoolExecutor(count) for count in (len(devices) + 1, len(devices), len(devices) + 1)]
        for pool in pools:
            stack.callback(pool.shutdown, wait=True, cancel_futures=True)
        hands, source, jobs = _Hands(*pools, idle=list(devices)), iter(items), deque[_Job]()
        while True:
            while len(jobs) < most and (item := next(source, None)) is not None:
                jobs.append(_Job(item, hands.reading.submit(work.read, item)))
            if not jobs:
                return
            hands.advance(jobs, work)
            if jobs[0].ended:
                job = jobs.popleft()
                yield job.item, job.future.result
            else:
                wait([job.future for job in jobs if not job.future.done()], return_when=FIRST_COMPLETED)
