"""The step count of each phase, in `phases.json`.

A phase that later phases started from cannot be trained again to another length.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path

from jaxfuse.errors import UserError
from jaxfuse.io.tables import read_json, write_json

_FILE = "phases.json"


def noted_lengths(workdir: Path) -> dict[str, int]:
    """Returns the step counts of the phases that have begun, by phase."""
    path = workdir / _FILE
    return read_json(path) if path.exists() else {}


def note_length(workdir: Path, phase: str, steps: int) -> None:
    """Writes the step count of a phase that begins."""
    write_json(workdir / _FILE, {**noted_lengths(workdir), phase: steps})


def check_lengths(workdir: Path, trainings: Sequence[Mapping[str, int]]) -> None:
    """Refuses another length for a phase where one of a later training has begun.

    Args:
        trainings: in order, each the steps asked for by phase; phases side by side are of one training.
    """
    done = noted_lengths(workdir)
    for number, training in enumerate(trainings):
        started = [name for later in trainings[number + 1 :] for name in later if name in done]
        for name, steps in training.items():
            if started and done.get(name) != steps:
                raise UserError(
                    f"phase {name} was trained for {done.get(name)} steps and phase {started[0]} has begun from it; "
                    f"{steps} steps are asked for now: name another --workdir"
                )
