"""A board that threads share, which stand for processes."""

import threading
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from typing import Any

from jaxfuse.engine.devices.processes import Processes


class Wall:
    """A board in memory. `mute` are the names under which nothing more is put."""

    def __init__(self) -> None:
        self.words: dict[str, str] = {}
        self.mute: set[str] = set()
        self._changed = threading.Condition()

    def put(self, name: str, text: str, *, again: bool = False) -> None:
        with self._changed:
            if name not in self.mute:
                self.words[name] = text if again else self.words.get(name, text)
            self._changed.notify_all()

    def wait(self, name: str, seconds: float) -> str | None:
        deadline = time.monotonic() + seconds
        with self._changed:
            while name not in self.words and (left := deadline - time.monotonic()) > 0:
                self._changed.wait(left)
            return self.words.get(name)


def in_all(count: int, work: Callable[[Processes], Any]) -> list[Any]:
    """Carries out `work` in so many processes; returns what each returns or raises."""
    wall = Wall()

    def one(number: int) -> Any:
        try:
            return work(Processes(number, count, wall))
        except Exception as error:
            return error

    with ThreadPoolExecutor(count) as pool:
        return list(pool.map(one, range(count)))
