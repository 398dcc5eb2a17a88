"""Trainings that are called for in Python, as `python -m jaxfuse.train` carries them out."""

from __future__ import annotations

import difflib
import os
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from ml_collections import ConfigDict

from jaxfuse import recipe_files
from jaxfuse.api.runs import Run, load
from jaxfuse.api.sentences import told_in_python
from jaxfuse.engine import run
from jaxfuse.engine.run_folder.workdir import default_workdir
from jaxfuse.engine.tracking.called_rows import Callback
from jaxfuse.errors import Stopped, UserError
from jaxfuse.options import flat

Recipe = str | os.PathLike[str] | ConfigDict


def train(
    recipe: Recipe,
    overrides: Mapping[str, Any] | None = None,
    *,
    workdir: str | os.PathLike[str] | None = None,
    preset: str = "",
    row: str = "",
    data: str = "",
    callbacks: Sequence[Callback] = (),
    track: Sequence[str] = (),
    quiet: bool = False,
) -> Run:
    """Trains the phases of a recipe, or goes on where an earlier call stopped; judges them and writes a report.

        run = jaxfuse.train("cmff", {"fusion.steps": 200}, preset="tiny", workdir="runs/mine")
        run.history["fusion"]["train"]["net/loss"]

    Args:
        recipe: name of a recipe of jaxfuse, a recipe's file, or the config that one gives.
        overrides: options by their dotted names, in place of the recipe's.
        workdir: folder of the run; None: the one that the command would take.
        preset, row, data: as of the command; of a config they are settled.
        callbacks: each is called with every row of metrics as it is written: {"step": 20, "phase": "fusion", "split":
            "train", "net/loss": 0.7, ...}. If one answers True, the training saves and stops after its step.
        track: names of trackers that are told the rows as well: "mlflow", "wandb".
        quiet: say nothing of what is done.

    Returns:
        The run. One that a callback stopped has what it has: the same call goes on.

    Raises:
        UserError: an option is not known or not of its kind, or data or folder are wrong.
        Stopped: a signal came, or numbers are no longer finite.
    """
    with told_in_python():
        config = configured(recipe, preset=preset, row=row, data=data)
    changed = dict(flat(overrides or {}))
    for name, value in changed.items():
        _set(config, name, value)
    config.lock()
    folder = Path(workdir) if workdir is not None else default_workdir(config, changed)
    asked = list[str]()

    def called(callback: Callback) -> Callback:
        def call(row: Mapping[str, Any]) -> bool:
            if stops := bool(callback(row)):
                asked.append(row["phase"])
            return stops

        return call

    try:
        with told_in_python():
            run.train(config, folder, track=track, callbacks=[called(one) for one in callbacks], quiet=quiet)
    except Stopped:
        if not asked:
            raise
    return load(folder)


def configured(recipe: Recipe, *, preset: str = "", row: str = "", data: str = "") -> ConfigDict:
    """Returns the config of a recipe, unlocked; a config is copied.

    Raises:
        UserError: there is no such recipe, or it has no such preset, row or data.
    """
    parts = [preset, f"row={row}" if row else "", f"data={data}" if data else ""]
    argument = ",".join(filter(None, parts))
    if isinstance(recipe, ConfigDict):
        if argument:
            raise UserError(f"{argument} was asked of a config, in which it is settled; ask it of the recipe's name")
        config = recipe.copy_and_resolve_references()
    else:
        config = recipe_files.load(recipe_files.find(os.fspath(recipe))).get_config(argument)
    config.unlock()
    return config


def _set(config: ConfigDict, name: str, value: Any) -> None:
    """Sets one option by its dotted name; refuses one that the config lacks, and values of another kind."""
    known = flat(config)
    if name not in known:
        near = difflib.get_close_matches(name, known, 1)
        advice = f"did you mean {near[0]!r}?" if near else f"it has {', '.join(sorted(known)[:8])} and others"
        raise UserError(f"{name!r} names no option of the recipe; {advice}")
    *groups, last = name.split(".")
    group: Any = config
    for one in groups:
        group = group[one]
    try:
        group[last] = tuple(value) if isinstance(value, list) else value
    except (TypeError, ValueError) as error:
        kind = type(known[name]).__name__
        raise UserError(
            f"{name} is {value!r}, of type {type(value).__name__}; {kind} is expected, such as {known[name]!r}"
        ) from error
