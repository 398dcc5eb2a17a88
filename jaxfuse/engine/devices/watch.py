"""A watch on the other processes of a run: it forwards signals, and ends this process where another has ended early."""

from __future__ import annotations

import os
import signal
import threading
import time

from jaxfuse.engine.devices.processes import Processes
from jaxfuse.errors import PROCESS_LOST

# Seconds between two looks, between two signs of life, and for the main thread to end by itself; between two looks of
# the main thread.
_LOOK_S, _BEAT_S, GRACE_S, _PAUSE_S = 0.5, 5.0, 10.0, 0.1
# So many signs of life are missed by a process that is gone; by one that others cannot compute with. They are counted,
# not timed: machines may sleep together.
_MISSED, _MISSED_APART = 12, 4
LONGEST_S = (_MISSED + 2) * _BEAT_S
_ENDED, _SIGNAL, _BEAT = "ended", "signal", "beat"
GONE = "{} gone: killed, or its machine or network failed; the same command goes on from the last checkpoint"


class Watch:
    """A thread that looks after the others, and tells of a signal to this process. Close it when the run has ended."""

    def __init__(self, processes: Processes) -> None:
        assert processes.board is not None
        self._processes, self._board = processes, processes.board
        self._closed = threading.Event()
        self._forwarded = False
        self._missed = _MISSED
        self._beats, self._beat = 0, -_BEAT_S
        self._seen: dict[int, tuple[str | None, int]] = {}
        threading.Thread(target=self._work, name="watch", daemon=True).start()

    def close(self) -> None:
        self._closed.set()

    def tell_end(self, sentence: str, code: int) -> None:
        """Tells the others that this process ends before its end, and why."""
        self._board.put(_ENDED, f"{self._processes.number} {code} {sentence}")

    def verdict(self, seconds: float, *, apart: bool = False) -> tuple[str, int] | None:
        """Waits until it is known which other process has ended; None where none has within that time.

        Args:
            apart: whether a computation with the others has failed.
        """
        self._missed = _MISSED_APART if apart else self._missed
        # Counted as well.
        for _ in range(round(seconds / _PAUSE_S)):
            if self._processes.lost is not None:
                break
            time.sleep(_PAUSE_S)
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
        if time.monotonic() - self._beat < _BEAT_S:
            return
        self._beat, self._beats = time.monotonic(), self._beats + 1
        self._board.put(f"{_BEAT}/{self._processes.number}", str(self._beats), again=True)
        dead = [number for number in range(self._processes.count) if self._has_missed(number) >= self._missed]
        if dead and not self._closed.is_set():
            which = f"process {dead[0]} is" if len(dead) == 1 else f"processes {', '.join(map(str, dead))} are"
            self._processes.lost = (GONE.format(which), PROCESS_LOST)

    def _has_missed(self, number: int) -> int:
        """Returns how many signs of life of a process are missing."""
        last, missed = self._seen.get(number, (None, -1))
        found = self._board.wait(f"{_BEAT}/{number}", 0.0)
        self._seen[number] = (found, missed + 1 if found == last else 0)
        return self._seen[number][1]

    def _end(self) -> None:
        """Ends this process, in case that its main thread waits for a computation that will never end."""
        assert self._processes.lost is not None
        if not self._closed.wait(GRACE_S):
            sentence, code = self._processes.lost
            os.write(2, f"{sentence}\n".encode())
            os._exit(code)
