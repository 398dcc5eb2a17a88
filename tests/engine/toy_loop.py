"""A training loop around a toy: the parameter counts its steps, and each batch says what its loss is."""

import io
from collections.abc import Callable, Iterator, Mapping
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from rich.console import Console

from jaxfuse.engine.devices.agreement import at_once
from jaxfuse.engine.devices.processes import Processes
from jaxfuse.engine.display import Display
from jaxfuse.engine.loop import Loop
from jaxfuse.engine.programs import Measured, measured
from jaxfuse.engine.run_folder.checkpoints import Checkpoints
from jaxfuse.engine.run_folder.metric_writer import MetricWriter, read_metrics
from jaxfuse.engine.stop_request import StopRequest
from jaxfuse.engine.validation import PhaseJudge, Progress
from jaxfuse.errors import Stopped
from jaxfuse.learning.state import State


def fresh() -> State:
    w = {"net": {"w": jnp.zeros(3)}}
    return State(jnp.int32(0), jax.random.key(0), w, {"net": {}}, {"net": jnp.zeros(3)}, {})  # pyright: ignore


@jax.jit
def step(state: State, batch: Mapping[str, Any]) -> tuple[State, Measured]:
    """Adds the batch's `push` to the parameter, and reports the batch's `loss`."""
    params = {"net": {"w": state.params["net"]["w"] + batch["push"]}}
    return state.replace(params=params).advance(), measured({"net/loss": batch["loss"]})  # pyright: ignore


class Stream:
    """Batches of steps start + 1, start + 2, ...: the loss is the step's number, the push 1, but for `odd`."""

    def __init__(self, start: int, odd: Mapping[int, Mapping[str, float]], before: Callable[[int], None]) -> None:
        self.number, self.odd, self.before, self.closed = start, odd, before, False

    def __iter__(self) -> Iterator[Mapping[str, Any]]:
        return self

    def __next__(self) -> Mapping[str, Any]:
        self.number += 1
        self.before(self.number)
        values = {"loss": float(self.number), "push": 1.0, **self.odd.get(self.number, {})}
        return {name: np.float32(value) for name, value in values.items()}

    def close(self) -> None:
        self.closed = True


class Bench:
    """A loop in a folder; `options` are those of `Loop` that a test changes."""

    def __init__(self, folder, total: int, *, odd=None, before=lambda number: None, scores=None, patience=0, **options):
        self.folder, self.total, self.odd, self.before, self.options = folder, total, odd or {}, before, options
        self.scores, self.streams, self.judged, self.stop = scores or {}, [], [], StopRequest()
        self.checkpoints, self.writer = Checkpoints(folder / "checkpoints"), MetricWriter(folder)
        self.judge = PhaseJudge("toy", self.validate, self.writer, self.checkpoints, Progress(), patience)

    def stream(self, start: int) -> Stream:
        self.streams.append(Stream(start, self.odd, self.before))
        return self.streams[-1]

    def validate(self, state: State) -> dict[str, float]:
        self.judged.append(int(state.step))
        return {"net/loss": 0.5, **({"score": self.scores[int(state.step)]} if self.scores else {})}

    def run(self) -> State:
        state = fresh()
        if self.checkpoints.latest_step() is not None:
            state, found = self.checkpoints.restore(state)
            self.judge.recall(found)
            self.checkpoints.forget_best_after(int(state.step))
            self.writer.truncate("toy", int(state.step))
        settings = {
            "validate_every": 0,
            "checkpoint_every": 100,
            "checkpoint_minutes": 0,
            "log_every": 2,
            "processes": Processes(),
            "agree": at_once,
            **self.options,
        }
        kept = {"judge": self.judge, "checkpoints": self.checkpoints, "writer": self.writer, "stop": self.stop}
        shown = Display(Console(file=io.StringIO()))
        try:
            return Loop("toy", self.total, step, self.stream, display=shown, **kept, **settings).run(state)
        finally:
            self.writer.close()
            self.checkpoints.close()

    def stopped(self) -> Stopped:
        with pytest.raises(Stopped) as error:
            self.run()
        assert [stream.closed for stream in self.streams] == [True]
        return error.value

    def rows(self, split: str) -> list[tuple[int, float]]:
        return [(row["step"], row["net/loss"]) for row in read_metrics(self.folder) if row["split"] == split]
