"""The training loop. It sees a pytree and a step function, never the kind of learning behind them."""

from __future__ import annotations

import math
import signal
import time
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field
from typing import Any, Literal, Protocol, SupportsFloat, runtime_checkable

from jaxfuse.engine.devices.agreement import Agreement
from jaxfuse.engine.devices.processes import Processes
from jaxfuse.engine.display import Display
from jaxfuse.engine.programs import Measured, all_finite
from jaxfuse.engine.run_folder.checkpoints import Checkpoints
from jaxfuse.engine.stop_request import StopRequest, reason
from jaxfuse.engine.validation import Judge
from jaxfuse.errors import Stopped
from jaxfuse.learning.state import State

TrainStep = Callable[[State, Any], tuple[State, Measured]]


@runtime_checkable
class Rows(Protocol):
    """A place for rows of metrics."""

    def write(
        self, step: int, phase: str, split: Literal["train", "val"], values: Mapping[str, SupportsFloat]
    ) -> None: ...


@dataclass(frozen=True)
class Loop:
    """The loop of one training, of a phase or of several side by side.

    Attributes:
        phase: its name.
        step: compiled, donates its state; makes as many steps as its metrics are of.
        stream: next step -> the batches from there to the end.
        validate_every, checkpoint_every, log_every: in steps; validate_every 0: at the end only.
        checkpoint_minutes: after so many minutes, too; it or `checkpoint_every` 0: not by it.
        agree: on signals and minutes, with the other processes.
    """

    phase: str
    total_steps: int
    step: TrainStep
    stream: Callable[[int], Iterator[Mapping[str, Any]]]
    judge: Judge
    validate_every: int
    checkpoint_every: int
    checkpoint_minutes: float
    log_every: int
    checkpoints: Checkpoints
    writer: Rows
    display: Display
    stop: StopRequest
    processes: Processes
    agree: Agreement

    def run(self, state: State) -> State:
        """Trains from `state.step` to the end, or until its judge has seen enough.

        Raises:
            Stopped: a signal came, or a number is not finite.
        """
        step = int(state.step)
        clock, window = Clock(), Window()
        stream = self.stream(step)
        self.display.start(self.phase, step, self.total_steps)
        try:
            while step < self.total_steps and not self.judge.ended:
                with clock.waiting():
                    batch = next(stream)
                state, metrics = self.step(state, batch)
                step += metrics.steps
                clock.steps += metrics.steps
                window.add(step, metrics)
                if step % self.log_every == 0 or step == self.total_steps:
                    self._log(window, clock)
                self._occasions(step, state, window, clock)
        finally:
            self.display.stop()
            close_stream(stream)
        return state

    def _occasions(self, step: int, state: State, window: Window, clock: Clock) -> None:
        """Validates, saves and stops where it is due, each only after all numbers so far were found finite."""
        last = step == self.total_steps
        validation_due = last or (self.validate_every > 0 and step % self.validate_every == 0)
        if validation_due:
            self._settle_all(step, state, window, clock)
            with clock.apart():
                self.judge(step, state)
            if self.judge.ended and not last:
                self._log(window, clock)  # the running interval ends here
                last = True
        # Looked at once, and after the judge: a signal that comes while it works stops the run after this very step.
        asked, by_minutes = self.agree(self.stop.requested or 0, self._minutes_passed(clock))
        if last or by_minutes or asked or (self.checkpoint_every > 0 and step % self.checkpoint_every == 0):
            self._settle_all(step, state, window, clock)
            self.checkpoints.save(step, state, self.judge.document())
            clock.saved()
        if last:
            self.processes.led(self.checkpoints.wait)  # what is judged at the end is on disk
        elif asked:
            self.processes.led(lambda: self._stop(signal.Signals(asked), step))

    def _stop(self, asked: signal.Signals, step: int) -> None:
        self.checkpoints.wait()
        raise Stopped(
            f"{reason(asked)}: stopped after step {step} of {self.total_steps} of phase {self.phase}, and saved; "
            "the same command goes on from here",
            128 + asked,
        )

    def _minutes_passed(self, clock: Clock) -> bool:
        return 0 < self.checkpoint_minutes <= clock.unsaved_minutes()

    def _settle_all(self, step: int, state: State, window: Window, clock: Clock) -> None:
        """Writes what is due of the numbers so far, and refuses to go on if any of them is not finite."""
        self._settle(window, clock)
        self._check_finite(window.unfinished(), state, step)

    def _log(self, window: Window, clock: Clock) -> None:
        """Writes the interval before the last one: its numbers are there, so nobody waits for them."""
        self._settle(window, clock)
        window.close()

    def _settle(self, window: Window, clock: Clock) -> None:
        if rows := window.take():
            self._write(rows, clock)

    def _write(self, rows: list[tuple[int, Mapping[str, float]]], clock: Clock) -> None:
        self._check_losses(rows)
        means = {name: math.fsum(row[name] for _, row in rows) / len(rows) for name in rows[0][1]}
        self.display.step(rows[-1][0], steps_per_s=clock.steps_per_s(), wait_share=clock.wait_share(), losses=means)
        speed = {"steps_per_s": clock.steps_per_s(), "wait_share": clock.wait_share()}
        self.writer.write(rows[-1][0], self.phase, "train", {**means, **speed})

    def _check_finite(self, rows: list[tuple[int, Mapping[str, float]]], state: State, step: int) -> None:
        self._check_losses(rows)
        if not bool(all_finite(state.params)):
            self._end(f"parameters are no longer finite after step {step}")

    def _check_losses(self, rows: list[tuple[int, Mapping[str, float]]]) -> None:
        for step, row in rows:
            if bad := [name for name, value in row.items() if not math.isfinite(value)]:
                self._end(f"{', '.join(bad)} became {row[bad[0]]} at step {step}")

    def _end(self, what: str) -> None:
        """Ends the run, in all processes: they see the same numbers."""
        self.processes.led(lambda: self._diverged(what))

    def _diverged(self, what: str) -> None:
        self.checkpoints.wait()
        good = self.checkpoints.latest_step()
        kept = f"the checkpoint of step {good} is kept" if good is not None else "no checkpoint had been written yet"
        raise Stopped(
            f"phase {self.phase}: {what}; {kept}. Try a smaller learning rate or another seed in a new workdir", 1
        )


@dataclass
class Window:
    """Metrics of the running interval and of the one before, which is not written yet.

    They are on their way to the host while the device works on.
    """

    _running: list[tuple[int, Measured]] = field(default_factory=list)
    _ended: list[tuple[int, Measured]] = field(default_factory=list)

    def add(self, step: int, metrics: Measured) -> None:
        metrics.values.copy_to_host_async()
        self._running.append((step, metrics))

    def close(self) -> None:
        """Ends the running interval."""
        self._ended, self._running = self._running, []

    def take(self) -> list[tuple[int, Mapping[str, float]]]:
        """Returns the ended interval, once."""
        ended, self._ended = self._ended, []
        return _fetch(ended)

    def unfinished(self) -> list[tuple[int, Mapping[str, float]]]:
        """Returns the running interval so far."""
        return _fetch(self._running)


def _fetch(found: list[tuple[int, Measured]]) -> list[tuple[int, Mapping[str, float]]]:
    rows = []
    for last, metrics in found:
        steps = metrics.rows()
        rows += zip(range(last - len(steps) + 1, last + 1), steps, strict=True)
    return rows


@dataclass
class Clock:
    """Rate and share of time spent waiting for data, without validation and the first call (compilation).

    It also tells for how long nothing was saved.
    """

    steps: int = 0
    waited: float = 0.0
    _began: float | None = None
    _first: int = 0
    _paused: float = 0.0
    _saved: float = field(default_factory=lambda: time.monotonic())

    def waiting(self) -> _Timed:
        if self.steps and self._began is None:
            self._began, self._first, self.waited = time.perf_counter(), self.steps, 0.0
        return _Timed(self._add_wait)

    def apart(self) -> _Timed:
        return _Timed(self._add_pause)

    def saved(self) -> None:
        self._saved = time.monotonic()

    def unsaved_minutes(self) -> float:
        return (time.monotonic() - self._saved) / 60

    def _add_wait(self, seconds: float) -> None:
        self.waited += seconds

    def _add_pause(self, seconds: float) -> None:
        self._paused += seconds

    def _elapsed(self) -> float:
        return 0.0 if self._began is None else time.perf_counter() - self._began - self._paused

    def steps_per_s(self) -> float:
        elapsed = self._elapsed()
        return (self.steps - self._first) / elapsed if elapsed > 0 else 0.0

    def wait_share(self) -> float:
        elapsed = self._elapsed()
        return min(1.0, self.waited / elapsed) if elapsed > 0 else 0.0


@dataclass
class _Timed:
    tell: Callable[[float], None]
    started: float = 0.0

    def __enter__(self) -> None:
        self.started = time.perf_counter()

    def __exit__(self, *error: object) -> None:
        self.tell(time.perf_counter() - self.started)


def close_stream(stream: Iterator[Any]) -> None:
    """Closes a stream, which may fetch batches ahead, where it can be closed."""
    close = getattr(stream, "close", None)
    if close is not None:
        close()
