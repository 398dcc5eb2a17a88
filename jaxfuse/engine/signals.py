"""SIGTERM and SIGINT end a run at the next step, after its checkpoint; a second one ends it at once."""

from __future__ import annotations

import signal
from types import FrameType, TracebackType


class StopRequest:
    """A context in which `requested` is the signal that came, or None."""

    def __init__(self) -> None:
        self.requested: signal.Signals | None = None
        self._before: dict[signal.Signals, object] = {}

    def __enter__(self) -> StopRequest:
        for number in (signal.SIGTERM, signal.SIGINT):
            self._before[number] = signal.signal(number, self._note)
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        for number, handler in self._before.items():
            signal.signal(number, handler)  # pyright: ignore[reportArgumentType]

    def _note(self, number: int, frame: FrameType | None) -> None:
        del frame
        self.requested = signal.Signals(number)
        signal.signal(number, self._before[self.requested])  # pyright: ignore[reportArgumentType]
