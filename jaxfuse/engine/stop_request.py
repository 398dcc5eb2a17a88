"""The request to stop: SIGTERM or SIGINT ends a run after its next step and checkpoint, a second one at once."""

from __future__ import annotations

import os
import signal
from types import FrameType, TracebackType

from jaxfuse.engine.devices.processes import Processes
from jaxfuse.errors import Stopped


class StopRequest:
    """A context in which `requested` is the signal that came, if one did, to this process or to another of the run."""

    def __init__(self, processes: Processes | None = None) -> None:
        self.requested: signal.Signals | None = None
        self._processes = processes or Processes()
        self._before: dict[signal.Signals, object] = {}

    def __enter__(self) -> StopRequest:
        self._processes.stop = self
        for number in (signal.SIGTERM, signal.SIGINT):
            self._before[number] = signal.signal(number, self._note)
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        for number, handler in self._before.items():
            signal.signal(number, handler)  # pyright: ignore[reportArgumentType]

    def heed(self, where: str) -> None:
        """Raises `Stopped` if a signal came; for the places between steps where there is nothing to save.

        Of several processes, those that follow process 0 end where it does.
        """
        if self.requested is not None and self._processes.free:
            raise Stopped(f"{self.requested.name}: stopped {where}; the same command goes on", 128 + self.requested)

    def _note(self, number: int, frame: FrameType | None) -> None:
        del frame
        self.requested = signal.Signals(number)
        os.write(2, b"stopping at the next safe point; once more stops at once, without saving\n")
        signal.signal(number, self._before[self.requested])  # pyright: ignore[reportArgumentType]
