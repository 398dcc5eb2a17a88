"""Progress for a person to watch: a bar on a terminal, lines in a log file."""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field

from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, SpinnerColumn, TextColumn

_LINE_EVERY_S = 20.0
_SHOWN_AT_MOST = 6


class Display:
    """Sentences and progress of a run, on a terminal or in a log file."""

    def __init__(self, console: Console | None = None) -> None:
        self.console = console or Console(highlight=False, soft_wrap=True)
        self._bar: Progress | None = None
        self._task = None
        self._spoke = 0.0
        self._work: _Work | None = None
        self._width = 0

    def say(self, text: str) -> None:
        self.console.print(text, markup=False)

    def report(self, what: str, done: int, total: int, worked: int | None = None) -> None:
        """Shows how far counted work is, such as preparing cases, how fast it goes and the time left.

        `worked`: how many of those done took time; all, where not given. The others were there already.
        """
        if self._work is None or self._work.what != what or done <= self._work.done:
            self._work = _Work(what, Countdown(total), done if worked is None else worked)
        self._work.done = done
        text = f"{what}: {done} of {total}{self._work.pace(done, total, worked)}"
        if self.console.is_terminal:
            end = "\n" if done == total else "\r"
            self.console.print(f"{text:<{self._width}}", end=end, markup=False)
            self._width = 0 if done == total else len(text)
        elif done == total or time.monotonic() - self._spoke > _LINE_EVERY_S:
            self._spoke = time.monotonic()
            self.say(text)

    def tally(self, total: int, before: int = 0) -> Callable[[object, int], None]:
        """Returns a function that says how many items are done, what came of the last, and the time left for others.

        `before`: how many were done already.
        """
        countdown = Countdown(total)

        def tell(what: object, done: int) -> None:
            self.say(f"{done} of {total}: {what}{countdown.pace(done, done - before)}")

        return tell

    def start(self, what: str, done: int, total: int) -> None:
        """Begins the bar of a phase."""
        if self.console.is_terminal:
            self._bar = Progress(
                SpinnerColumn(), TextColumn("{task.description}"), BarColumn(bar_width=24), MofNCompleteColumn(),
                TextColumn("{task.fields[note]}"), console=self.console,
            )  # fmt: skip
            self._bar.start()
            self._task = self._bar.add_task(what, completed=done, total=total, note="compiling")
        self._what, self._total, self._spoke = what, total, time.monotonic()

    def step(self, done: int, *, steps_per_s: float, wait_share: float, losses: Mapping[str, float]) -> None:
        """Moves the bar, with the rate, the time left, the share of time waiting for data and the main losses."""
        left = (self._total - done) / steps_per_s if steps_per_s > 0 else float("inf")
        main = {name: value for name, value in losses.items() if name.endswith("/loss")} or losses
        shown = " ".join(f"{name} {value:.4g}" for name, value in list(main.items())[:_SHOWN_AT_MOST])
        note = f"{steps_per_s:.2f} steps/s, {clock(left)} left, data wait {wait_share:.0%}, {shown}"
        if self._bar is not None and self._task is not None:
            self._bar.update(self._task, completed=done, note=note)
        elif time.monotonic() - self._spoke > _LINE_EVERY_S or done == self._total:
            self._spoke = time.monotonic()
            self.say(f"{self._what} {done}/{self._total}: {note}")

    def stop(self) -> None:
        """Ends the bar."""
        if self._bar is not None:
            self._bar.stop()
        self._bar = self._task = None


@dataclass
class Countdown:
    """The time that is left for `total` items, by the mean of those done so far."""

    total: int
    _began: float = field(default_factory=lambda: time.perf_counter())

    def left(self, done: int, *, worked: int | None = None) -> str:
        """Returns the time left after `done` items, as a clock shows it.

        Args:
            worked: how many of them took time; all, where not given. The others were there already.
        """
        return clock(self.each_s(done if worked is None else worked) * (self.total - done))

    def each_s(self, worked: int) -> float:
        """Returns the mean time of an item in seconds."""
        return (time.perf_counter() - self._began) / max(worked, 1)

    def pace(self, done: int, worked: int) -> str:
        """Says in brackets how fast the items go that took time, and the time left."""
        each = self.each_s(worked)
        rate = f"{each:.1f} s each" if each >= 1 else f"{1 / max(each, 1e-9):.1f} a second"
        return f" ({rate}, {self.left(done, worked=worked)} left)"


@dataclass
class _Work:
    """Counted work that is being shown.

    Attributes:
        before: items that had taken time when it was shown first: from then on its time is known.
        done: items when it was shown last.
    """

    what: str
    countdown: Countdown
    before: int
    done: int = 0

    def pace(self, done: int, total: int, worked: int | None) -> str:
        """Says how fast it goes; nothing before an item took time, and when all are done."""
        timed = (done if worked is None else worked) - self.before
        return self.countdown.pace(done, timed) if timed > 0 and done < total else ""


def clock(seconds: float) -> str:
    """Returns 1:02:03 or 2:03; a question mark for a time that is not known."""
    if seconds != seconds or seconds == float("inf"):
        return "?"
    minutes, rest = divmod(round(seconds), 60)
    hours, minutes = divmod(minutes, 60)
    return f"{hours}:{minutes:02d}:{rest:02d}" if hours else f"{minutes}:{rest:02d}"
