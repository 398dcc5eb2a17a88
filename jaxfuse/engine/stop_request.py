"""The request to stop: SIGTERM, SIGINT or a limit of time ends a run after its next step and checkpoint.

A second signal ends it at once.
"""

from __future__ import annotations

import os
import signal
from types import FrameType, TracebackType

from jaxfuse.engine.devices.processes import Processes
from jaxfuse.errors import Stopped


def reason(number: signal.Signals) -> str:
    """Returns what asked for the stop, for a person."""
    return {signal.SIGALRM: "time limit", signal.SIGUSR1: "callback"}.get(number, number.name)


class StopRequest:
    """A context in which `requested` is the signal that came, if one did, to this process or to another of the run.

    Args:
        minutes: SIGALRM comes after so many; 0: never.
    """

    def __init__(self, processes: Processes | None = None, *, minutes: float = 0.0) -> None:
        self.requested: signal.Signals | None = None
        self._processes, self._seconds = processes or Processes(), 60.0 * minutes
        self._before: dict[signal.Signals, object] = {}

    def __enter__(self) -> StopRequest:
        self._processes.stop = self
        for number in (signal.SIGTERM, signal.SIGINT):
            self._before[number] = signal.signal(number, self._note)
        if self._seconds:
            self._before[signal.SIGALRM] = signal.signal(signal.SIGALRM, self._end_of_time)
            signal.setitimer(signal.ITIMER_REAL, self._seconds)
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if self._seconds:
            signal.setitimer(signal.ITIMER_REAL, 0)
        for number, handler in self._before.items():
            signal.signal(number, handler)  # pyright: ignore[reportArgumentType]

    def ask(self) -> None:
        """Asks for the stop as a signal does, from within the process."""
        self.requested = self.requested or signal.SIGUSR1

    def heed(self, where: str) -> None:
        """Raises `Stopped` if a signal came; for the places between steps where there is nothing to save.

        Of several processes, those that follow process 0 end where it does.
        """
        if self.requested is not None and self._processes.free:
            raise Stopped(f"{reason(self.requested)}: stopped {where}; the same command goes on", 128 + self.requested)

    def _end_of_time(self, number: int, frame: FrameType | None) -> None:
        del number, frame
        self.requested = self.requested or signal.SIGALRM

    def _note(self, number: int, frame: FrameType | None) -> None:
        del frame
        self.requested = signal.Signals(number)
        os.write(2, b"stopping at the next safe point; once more stops at once, without saving\n")
        signal.signal(number, self._before[self.requested])  # pyright: ignore[reportArgumentType]
