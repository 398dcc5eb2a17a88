"""Programs that keep the metrics of many runs, as further places for the rows of one: MLflow, Weights & Biases.

Each is a package of its own, an extra of the same name, and writes below the workdir, without a network, unless its own
environment variables name a server. They only ever see names and numbers, and the config.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from importlib import import_module
from importlib.util import find_spec
from pathlib import Path
from typing import Any, Literal, Protocol, SupportsFloat, runtime_checkable

from jaxfuse.errors import OutputError, UserError

FOLDER = "tracking"
# Name -> the module that opens it, which has `open_rows`.
TRACKERS = {name: f"jaxfuse.engine.tracking.{name}_rows" for name in ("mlflow", "wandb")}


@runtime_checkable
class Tracker(Protocol):
    """A place for rows of metrics that is closed at the end of a call."""

    def write(
        self, step: int, phase: str, split: Literal["train", "val"], values: Mapping[str, SupportsFloat]
    ) -> None: ...

    def close(self) -> None: ...


def check_trackers(names: Sequence[str]) -> None:
    """Refuses names of no tracker, and those whose package is not installed.

    Raises:
        UserError: in one sentence.
    """
    for name in names:
        if name not in TRACKERS:
            raise UserError(f"--track names {name!r}; give some of {', '.join(TRACKERS)}, with commas")
        if find_spec(name) is None:
            raise UserError(
                f"--track {name} needs the package {name}, which is not installed; pip install 'jaxfuse[{name}]', or "
                "leave it out"
            )


def open_trackers(names: Sequence[str], workdir: Path, config: Mapping[str, Any]) -> list[Tracker]:
    """Opens trackers by name; each goes on with what an earlier call on this workdir has begun."""
    return [Guarded(name, import_module(TRACKERS[name]).open_rows, workdir / FOLDER, config) for name in names]


class Guarded:
    """A tracker whose failures are told in one sentence: a run whose numbers go nowhere is not to go on unseen."""

    def __init__(
        self,
        name: str,
        opened: Callable[[Path, Mapping[str, Any]], Tracker],
        folder: Path,
        config: Mapping[str, Any],
    ) -> None:
        self._name = name
        folder.mkdir(parents=True, exist_ok=True)
        self._rows: Tracker = self._told(lambda: opened(folder, config))

    def write(self, step: int, phase: str, split: Literal["train", "val"], values: Mapping[str, SupportsFloat]) -> None:
        """Hands a row on."""
        self._told(lambda: self._rows.write(step, phase, split, values))

    def close(self) -> None:
        """Closes the tracker."""
        self._told(self._rows.close)

    def _told(self, call: Callable[[], Any]) -> Any:
        try:
            return call()
        except Exception as error:
            reason = " ".join(str(error).split()) or type(error).__name__
            raise OutputError(
                f"{self._name} takes no more numbers ({reason}); mend that, or call again without --track: the run "
                "goes on from its last checkpoint"
            ) from error
