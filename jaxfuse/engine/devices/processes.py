"""The processes of a run: which one this is, what all agree on, and what one tells the others.

They talk through a board, JAX's coordination service, which lives in process 0. Nothing here takes part in a
computation, and who waits keeps no core busy.
"""

from __future__ import annotations

import json
import os
import signal
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol, TypeVar, runtime_checkable

from jaxfuse.engine.devices.meeting import Statement, differences
from jaxfuse.errors import Unfinished, UserError

Made = TypeVar("Made")

# A shared file system may show a new file this much later on another machine.
SEEN_S = 90.0
_WAIT_S = 1.0


@runtime_checkable
class Board(Protocol):
    """A place where each process can put words for all to read."""

    def put(self, name: str, text: str, *, again: bool = False) -> None:
        """Puts a text under a name; the first one under a name stays, but for what is put `again`."""
        ...

    def wait(self, name: str, seconds: float) -> str | None:
        """Returns the text under a name once it is there, None where it does not come in time."""
        ...


@runtime_checkable
class Stop(Protocol):
    """The request to stop in this process."""

    requested: signal.Signals | None


@dataclass
class Processes:
    """The processes of a run, seen from one of them. All call its methods in the same order.

    Within what `led` or `in_turn` carries out, they are calls like any others: nobody is waited for.

    Attributes:
        number, count: of this process, from 0, and of all.
        board: None where there is one process.
        stop: the request to stop, which a signal to any process makes one in all.
        lost: the reason why the run cannot go on, and the code to exit with, once another process has ended too early.
        agreed: whether all end alike, once one of them does.
    """

    number: int = 0
    count: int = 1
    board: Board | None = None
    stop: Stop | None = None
    lost: tuple[str, int] | None = None
    agreed: bool = False
    _said: int = 0
    _turns: int = 0

    @property
    def first(self) -> bool:
        """Whether this process writes what the run writes."""
        return self.number == 0

    @property
    def several(self) -> bool:
        return self.count > 1

    @property
    def together(self) -> bool:
        """Whether there are others, and they take part in the next call; not within what one carries out."""
        return self.several and not self._turns

    @property
    def turn(self) -> int:
        """The number of what is carried out now, the same in all."""
        return self._said

    @property
    def free(self) -> bool:
        """Whether this process may end here by itself: the others wait for it, and hear of it."""
        return not self.several or (self.first and self._turns > 0)

    def led(self, work: Callable[[], Made], *, meanwhile: Callable[[], None] | None = None) -> Made:
        """Carries out `work` in process 0, while the others wait; all get what it returns, JSON, or end as it does.

        Args:
            meanwhile: what the others do before they wait.
        """
        if not self.together:
            return work()
        with self._turn() as (name, mine):
            if not mine:
                if meanwhile is not None:
                    meanwhile()
                return json.loads(self._hear(name))["value"]
            value = work()
            self._put(name, {"value": value})
            return value

    @contextmanager
    def in_turn(self) -> Iterator[None]:
        """Carries out what stands in it in process 0 first, then in the others; all end where process 0 does."""
        if not self.together:
            yield
            return
        with self._turn() as (name, mine):
            if not mine:
                self._hear(name)
            yield
            if mine:
                self._put(name, {"value": None})

    def tell(self, word: str) -> None:
        """Tells all a word, within what `led` carries out, where each is told once."""
        self._put(f"{self.turn}/{word}", {"value": None})

    def is_told(self, word: str) -> bool:
        """Waits for a word, within what `led` carries out; false where process 0 has come to its end without it."""
        name = f"{self.turn}/{word}"
        assert self.board is not None
        while self.board.wait(name, _WAIT_S) is None:
            if self.lost is not None:
                raise Unfinished(*self.lost)
            if self.has_ended:
                return False
        return True

    @property
    def has_ended(self) -> bool:
        """Whether process 0 has come to the end of what it carries out."""
        assert self.board is not None
        return self.board.wait(f"{self.turn}", 0.0) is not None

    def gathered(self, value: Any) -> list[Any]:
        """Returns what each process gives, JSON, in order."""
        if not self.several:
            return [value]
        self._said += 1
        names = [f"{self._said}/{number}" for number in range(self.count)]
        self._put(names[self.number], {"value": value})
        return [json.loads(self._hear(name))["value"] for name in names]

    def refuse_differences(self, statement: Statement) -> None:
        """Refuses to go on where processes do not say the same of themselves."""
        said = self.gathered(statement)

        def check() -> None:
            if differ := differences(said):
                raise UserError(f"{differ}; the processes of a run need the same of each")

        self.led(check)

    def await_visible(self, path: Path, text: str | None = None, *, maker: int = 0) -> None:
        """Waits until what a process wrote is seen here: a file or folder, or a file with this text.

        Args:
            maker: the process that wrote it.

        Raises:
            UserError: it is not.
        """
        if self.number == maker:
            return
        deadline = time.monotonic() + SEEN_S
        while not (path.exists() if text is None else path.is_file() and path.read_text() == text):
            if time.monotonic() > deadline:
                raise UserError(
                    f"process {self.number} does not find {path}, which process {maker} wrote; the processes of a run "
                    "need one file system that all of them see, for --workdir as for data and cache"
                )
            os.scandir(path.parent if path.parent.is_dir() else "/").close()  # a listing brings a client up to date
            time.sleep(0.2)

    @contextmanager
    def _turn(self) -> Iterator[tuple[str, bool]]:
        """Gives the name of what process 0 says next, and whether this is process 0, whose end the others hear of."""
        self._said += 1
        name = f"{self._said}"
        self._turns += 1
        try:
            yield name, self.first
        except BaseException as error:
            if self.first:
                self.agreed = True
                self._put(name, {"ended": exit_code(error)})
            raise
        finally:
            self._turns -= 1

    def _put(self, name: str, said: Any) -> None:
        assert self.board is not None
        self.board.put(name, json.dumps(said))

    def _hear(self, name: str) -> str:
        """Waits for what is said under a name; ends as the run does where it comes to an end meanwhile."""
        assert self.board is not None
        while (text := self.board.wait(name, _WAIT_S)) is None:
            if self.lost is not None:
                raise Unfinished(*self.lost)
        if (code := json.loads(text).get("ended")) is not None:
            self.agreed = True
            raise Unfinished("", code)  # process 0 says why
        return text


def exit_code(error: BaseException) -> int:
    """Returns the code that a command exits with by this error."""
    if isinstance(error, Unfinished):
        return error.exit_code
    if isinstance(error, KeyboardInterrupt):
        return 130
    return 2 if isinstance(error, (UserError, OSError, MemoryError)) else 1
