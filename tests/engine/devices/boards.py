"""A board that threads share, which stand for processes."""

import threading
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from typing import Any

from jaxfuse.engine.devices.processes import Processes


class Wall:
    """A board in memory. `living` are the processes that have not died."""

    def __init__(self, count: int) -> None:
        self.words: dict[str, str] = {}
        self.living = set(range(count))
        self._changed = threading.Condition()

    def put(self, name: str, text: str) -> None:
        with self._changed:
            self.words.setdefault(name, text)
            self._changed.notify_all()

    def wait(self, name: str, seconds: float) -> str | None:
        deadline = time.monotonic() + seconds
        with self._changed:
            while name not in self.words and (left := deadline - time.monotonic()) > 0:
                self._changed.wait(left)
            return self.words.get(name)

    def alive(self) -> set[int]:
        return self.living


def in_all(count: int, work: Callable[[Processes], Any]) -> list[Any]:
    """Carries out `work` in so many processes; returns what each returns or raises."""
    wall = Wall(count)

    def one(number: int) -> Any:
        try:
            return work(Processes(number, count, wall))
        except Exception as error:
            return error

    with ThreadPoolExecutor(count) as pool:
        return list(pool.map(one, range(count)))
