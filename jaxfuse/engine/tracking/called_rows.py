"""Rows of metrics that functions are called with, any of which may stop the training."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any, Literal, SupportsFloat

# Takes a row as `metrics.jsonl` has it; a true answer stops the training.
Callback = Callable[[Mapping[str, Any]], object]


@dataclass(frozen=True)
class CalledRows:
    """A tracker that calls a function with each row; what the function raises ends the run.

    Attributes:
        stop: what is called where the function's answer is true.
    """

    callback: Callback
    stop: Callable[[], None]

    def write(self, step: int, phase: str, split: Literal["train", "val"], values: Mapping[str, SupportsFloat]) -> None:
        """Calls the function with a row of its own."""
        numbers = {name: float(value) for name, value in values.items()}
        if self.callback({"step": step, "phase": phase, "split": split, **numbers}):
            self.stop()

    def close(self) -> None:
        """Ends nothing: there is nothing open."""
