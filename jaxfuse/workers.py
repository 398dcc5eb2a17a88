"""Cases that several processes work on, of which one may be lost without the others.

The processes import no JAX. What they are given are paths, and what they return is small.
"""

from __future__ import annotations

import os
import pickle
import signal
import subprocess
import sys
import time
import traceback
from collections import deque
from collections.abc import Callable, Generator, Iterable, Mapping
from contextlib import suppress
from dataclasses import dataclass, field
from multiprocessing.connection import Connection, Pipe, wait
from typing import Any, TypeVar

from jaxfuse.errors import UserError

T = TypeVar("T")
# A job that returns what came of a case, or raises; it survives pickling.
Job = Callable[[], T]
Jobs = Mapping[str, Job[T]]
Outcome = Callable[[], Any]

# Seconds that processes have to save before they are started, which takes a second or two of each.
_WORTH_S = 5.0
_TRIES = 2


@dataclass(frozen=True)
class Work:
    """A kind of work on cases, in words.

    Attributes:
        deed: for sentences: what they have done with a case.
        advice: how to employ fewer of them.
        clear: removes what a process, by its number, has left half done when it was ended.
    """

    deed: str = "scored"
    advice: str = "give fewer --processes"
    clear: Callable[[int], None] = lambda process: None


SCORING = Work()


def cores() -> int:
    """Returns the processor cores that this process may use."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


def outcomes(jobs: Jobs[T], processes: int | None) -> Generator[tuple[str, Callable[[], T]], None, None]:
    """Yields each case, in order, with a function that returns what its job returned, or raises what it raised.

    Args:
        processes: how many score at once. None: this one alone while the cases promise to take a few seconds, else one
            for each core.
    """
    count = min(processes or cores(), len(jobs))
    if processes and count > 1:
        yield from scored_apart(jobs, count)
        return
    seconds, left = 0.0, dict(jobs)
    for done, (case, job) in enumerate(jobs.items()):
        promised = seconds / max(done, 1) * len(left)
        if processes is None and promised * (1 - 1 / max(count, 1)) > _WORTH_S:
            yield from scored_apart(left, min(count, len(left)))
            return
        started = time.perf_counter()
        outcome = _outcome(job)
        seconds += time.perf_counter() - started
        del left[case]
        yield case, outcome


def scored_apart(jobs: Jobs[T], count: int) -> Generator[tuple[str, Callable[[], T]], None, None]:
    """Yields the cases as `outcomes` does, scored by `count` processes.

    The case of a process that is lost is given to another one; a case that loses two is refused.
    """
    found: dict[str, Outcome] = {}
    finished = as_finished(jobs.items(), count)
    try:
        for case in jobs:
            while case not in found:
                found.update([next(finished)])
            yield case, found.pop(case)
    finally:
        finished.close()


def as_finished(
    jobs: Iterable[tuple[str, Job[T]]], count: int, work: Work = SCORING
) -> Generator[tuple[str, Callable[[], T]], None, None]:
    """Yields the cases in the order in which `count` processes finish them, as `outcomes` does.

    A job is asked for when a process is free. All processes are ended where this is closed.
    """
    staff, source = _Staff(work), iter(jobs)
    try:
        while True:
            while staff.in_hand < count and (one := next(source, None)) is not None:
                staff.take_on(*one)
            staff.employ(count)
            while staff.outcomes:
                yield staff.outcomes.popitem()
            if not staff.in_hand:
                return
            staff.hear()
    finally:
        staff.dismiss()


@dataclass
class _Worker:
    """A process, the way to it, and the case that it works on."""

    process: subprocess.Popen[bytes]
    pipe: Connection
    case: str = ""


@dataclass
class _Staff:
    """Processes that work on cases, and what came of them.

    Attributes:
        jobs: of the cases that are not finished.
        waiting: cases that no process has yet, or has any more.
        lost: how many processes each case has lost.
    """

    work: Work
    jobs: dict[str, Job[Any]] = field(default_factory=dict)
    waiting: deque[str] = field(default_factory=deque)
    workers: list[_Worker] = field(default_factory=list)
    outcomes: dict[str, Outcome] = field(default_factory=dict)
    lost: dict[str, int] = field(default_factory=dict)

    @property
    def in_hand(self) -> int:
        """The number of cases that wait or are worked on."""
        return len(self.jobs)

    def take_on(self, case: str, job: Job[Any]) -> None:
        """Accepts a case."""
        self.jobs[case] = job
        self.waiting.append(case)

    def employ(self, count: int) -> None:
        """Gives a case to each process that has none, of which there are at most `count`."""
        while self.waiting:
            idle = next((one for one in self.workers if not one.case), None)
            if idle is None and len(self.workers) == count:
                return
            if idle is None:
                self.workers.append(idle := _started())
            idle.case = self.waiting.popleft()
            with suppress(OSError):  # of a process that is lost, which `hear` finds out
                idle.pipe.send_bytes(pickle.dumps(self.jobs[idle.case]))

    def hear(self) -> None:
        """Waits for an answer, or for the loss of a process."""
        busy = {one.pipe: one for one in self.workers if one.case}
        for pipe in wait(list(busy)):
            self._take(busy[pipe])  # pyright: ignore[reportArgumentType]

    def dismiss(self) -> None:
        """Ends all processes."""
        for one in self.workers:
            one.process.kill()
        for one in self.workers:
            one.process.wait()
            one.pipe.close()
            self.work.clear(one.process.pid)

    def _take(self, worker: _Worker) -> None:
        case, worker.case = worker.case, ""
        try:
            self._finish(case, _given_back(*pickle.loads(worker.pipe.recv_bytes())))
        except (EOFError, OSError):
            self.workers.remove(worker)
            worker.pipe.close()
            code = worker.process.wait()
            self.work.clear(worker.process.pid)
            self._lose(case, code)

    def _finish(self, case: str, outcome: Outcome) -> None:
        del self.jobs[case]
        self.outcomes[case] = outcome

    def _lose(self, case: str, code: int) -> None:
        self.lost[case] = self.lost.get(case, 0) + 1
        if self.lost[case] < _TRIES:
            self.waiting.appendleft(case)
            return
        how = f"was killed by signal {-code}" if code < 0 else f"ended with the code {code}"
        sentence = (
            f"case {case}: the process that {self.work.deed} it {how}, twice; memory may be too small: "
            f"{self.work.advice}, or leave the case out"
        )
        self._finish(case, _given_back(UserError(sentence), raised=True))


def _started() -> _Worker:
    """Starts a program of its own, which shares nothing with this one: neither locks that threads hold nor JAX."""
    own, other = Pipe()
    text = f"from {__name__} import serve; serve({other.fileno()})"
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join(filter(None, sys.path))}
    process = subprocess.Popen([sys.executable, "-c", text], pass_fds=[other.fileno()], env=environment)
    other.close()
    return _Worker(process, own)


def serve(descriptor: int) -> None:
    """Works on cases that come through a pipe until nobody asks any more."""
    pipe = Connection(descriptor)
    for number in (signal.SIGINT, signal.SIGTERM):
        signal.signal(number, signal.SIG_IGN)  # both reach all processes; the one that asks ends this one
    with suppress(EOFError, OSError):
        while True:
            pipe.send_bytes(_portable(*_answer(pickle.loads(pipe.recv_bytes()))))


def _portable(made: Any, raised: bool) -> bytes:
    """Pickles an answer; a fault of the program keeps its traceback in words."""
    if raised and not isinstance(made, UserError):
        made = RuntimeError("".join(traceback.format_exception(made)))
    return pickle.dumps((made, raised))


def _answer(job: Job[Any]) -> tuple[Any, bool]:
    """Returns what a job returns, or what it raises, and which of them it is."""
    try:
        return job(), False
    except Exception as error:
        return error, True


def _outcome(job: Job[Any]) -> Outcome:
    return _given_back(*_answer(job))


def _given_back(made: Any, raised: bool) -> Outcome:
    def give_back() -> Any:
        if raised:
            raise made
        return made

    return give_back
