"""A watch on the other processes of a run: it forwards signals, and ends this process where another has ended early."""

from __future__ import annotations

import os
import signal
import threading
import time

from jaxfuse.engine.devices.processes import Processes

# Seconds between two looks; between two questions who is alive; and for the main thread to end by itself.
_LOOK_S, _ALIVE_S, GRACE_S = 0.5, 5.0, 10.0
_ENDED, _SIGNAL = "ended", "signal"
GONE = "{} gone: killed, or its machine or network failed; the same command goes on from the last checkpoint"


class Watch:
    """A thread that looks after the others, and tells of a signal to this process. Close it when the run has ended."""

    def __init__(self, processes: Processes) -> None:
        assert processes.board is not None
        self._processes, self._board = processes, processes.board
        self._closed = threading.Event()
        self._forwarded = False
        self._asked = time.monotonic()
        threading.Thread(target=self._work, name="watch", daemon=True).start()

    def close(self) -> None:
        self._closed.set()

    def tell_end(self, sentence: str, code: int) -> None:
        """Tells the others that this process ends before its end, and why."""
        self._board.put(_ENDED, f"{self._processes.number} {code} {sentence}")

    def verdict(self, seconds: float) -> tuple[str, int] | None:
        """Waits until it is known which other process has ended; None where none has within that time."""
        deadline = time.monotonic() + seconds
        while self._processes.lost is None and time.monotonic() < deadline:
            time.sleep(0.1)
        return self._processes.lost

    def _work(self) -> None:
        while not self._closed.wait(_LOOK_S):
            try:
                self._forward()
                self._look()
            except Exception:  # process 0 is gone: the end of its service ends this process, or the run is over
                continue
            if self._processes.lost is not None:
                self._end()

    def _forward(self) -> None:
        """Makes a signal to one process a request to stop in all."""
        stop = self._processes.stop
        if stop is None or self._forwarded:
            return
        if stop.requested is not None:
            self._board.put(_SIGNAL, str(int(stop.requested)))
            self._forwarded = True
        elif (number := self._board.wait(_SIGNAL, 0.0)) is not None:
            stop.requested = signal.Signals(int(number))
            self._forwarded = True

    def _look(self) -> None:
        if (text := self._board.wait(_ENDED, 0.0)) is not None:
            number, code, sentence = text.split(" ", 2)
            if int(number) != self._processes.number:
                self._processes.lost = (f"process {number} has ended: {sentence}", int(code))
            return
        if time.monotonic() - self._asked < _ALIVE_S:
            return
        self._asked = time.monotonic()
        dead = sorted(set(range(self._processes.count)) - self._board.alive())
        if dead and not self._closed.is_set():
            which = f"process {dead[0]} is" if len(dead) == 1 else f"processes {', '.join(map(str, dead))} are"
            self._processes.lost = (GONE.format(which), 1)

    def _end(self) -> None:
        """Ends this process, in case that its main thread waits for a computation that will never end."""
        assert self._processes.lost is not None
        if not self._closed.wait(GRACE_S):
            sentence, code = self._processes.lost
            os.write(2, f"{sentence}\n".encode())
            os._exit(code)
