"""Batches put on the device ahead of the step that takes them, by a thread.

The host makes a batch and hands it over while the device works on the ones before. Order and content are the stream's.
"""

from __future__ import annotations

import queue
import threading
from collections.abc import Callable, Iterator
from typing import Any

from jaxfuse.engine.loop import close_stream

# One that is taken next, and one that is on its way.
AHEAD = 2


class Ahead:
    """A stream whose batches lie on the device before they are asked for. Close it when done.

    An error of the stream, or of putting a batch, comes up where that batch would have come.

    Args:
        stream: the batches on the host; closing this closes it.
        put: a batch on the host -> the same on the device.
        ahead: most batches on the device besides those that were taken.
    """

    def __init__(self, stream: Iterator[Any], put: Callable[[Any], Any], *, ahead: int = AHEAD) -> None:
        self._stream, self._put = stream, put
        self._room, self._closed = threading.Semaphore(ahead), threading.Event()
        self._ready: queue.SimpleQueue[tuple[Any, BaseException | None]] = queue.SimpleQueue()
        self._ended: BaseException | None = None
        self._thread = threading.Thread(target=self._work, name="feed", daemon=True)
        self._thread.start()

    def __iter__(self) -> Iterator[Any]:
        return self

    def __next__(self) -> Any:
        if self._ended is None:
            batch, self._ended = self._ready.get()
        if self._ended is not None:
            raise self._ended
        self._room.release()
        return batch

    def close(self) -> None:
        """Ends the thread after the batch that it is at, and closes the stream."""
        self._closed.set()
        self._room.release()
        self._thread.join()
        close_stream(self._stream)

    def _work(self) -> None:
        try:
            while self._room.acquire() and not self._closed.is_set():
                self._ready.put((self._put(next(self._stream)), None))
        except BaseException as error:  # the end of the stream as well: whoever asks for the batch gets it
            self._ready.put((None, error))
