"""Checkpoints of one phase by Orbax: the last one resumes a run, the best one predicts.

A checkpoint of step n is a folder of that name with the trees `weights` (parameters and statistics by player, averaged
where an average is kept) and `rest` (optimizers, memory, key, step, and then the weights that learn), the document
`progress.json`, which decides the future beside the state (best score so far and its step), and a digest of each file.
The best checkpoint has the weights only.
"""

from __future__ import annotations

import shutil
from collections.abc import Callable, Collection, Mapping
from concurrent.futures import Future, ThreadPoolExecutor
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax.experimental import multihost_utils

from jaxfuse.engine.devices.placement import Placement
from jaxfuse.engine.devices.processes import Processes
from jaxfuse.engine.run_folder.stored import (
    Damaged,
    Misfit,
    fault_of,
    read_back,
    read_document,
    read_tree,
    remove_partial,
    without_keys,
    write_stored,
)
from jaxfuse.errors import OutputError, UserError
from jaxfuse.learning.averaging import deployed
from jaxfuse.learning.state import State

WEIGHTS, REST, PROGRESS = "weights", "rest", "progress.json"
_LAST, _BEST = (WEIGHTS, REST, PROGRESS), (WEIGHTS,)


class Checkpoints:
    """The checkpoints below `folder`: `last/` and `best/`. Close it when done.

    They are written in the background, one after another; an error of a write surfaces at the next call that saves or
    waits. Of several processes, all call alike: process 0 writes, and decides which are sound.

    Attributes:
        complaints: what was found damaged so far, a sentence each.
    """

    def __init__(self, folder: Path, processes: Processes | None = None) -> None:
        self.folder = folder.absolute()
        self._processes = processes or Processes()
        self.complaints: list[str] = []
        self._faults: dict[Path, str] = {}
        self._writer = ThreadPoolExecutor(1, "checkpoints")
        self._pending: dict[str, Future[None]] = {}
        self._proved = False

    def latest_step(self) -> int | None:
        """Returns the step of the newest checkpoint that is sound; None where there is none."""
        return self._processes.led(
            lambda: next((step for step in sorted(_steps(self.folder / "last"))[::-1] if self._is_sound(step)), None)
        )

    def refuse_if_none_is_sound(self) -> None:
        """Refuses to take a phase whose checkpoints are all damaged for one that has not begun."""
        self._processes.led(self._refuse_if_none_is_sound)

    def _refuse_if_none_is_sound(self) -> None:
        if self.latest_step() is None and _steps(self.folder / "last"):
            raise UserError(
                f"{'; '.join(self.complaints)}; none is left to go on from: bring one back, or name another --workdir "
                "to start anew"
            )

    def save(self, step: int, state: State, progress: Mapping[str, Any]) -> None:
        """Writes the last checkpoint; the first one of a run is read back before anything goes on.

        Raises:
            UserError: it, or the one before it, could not be written.
        """
        # `progress` names the best step: a run killed between the two must not resume with a best that was never whole.
        self._processes.led(self.wait)
        if self._is_saved(step):
            return
        trees = copied({WEIGHTS: weights(state), REST: _rest(state)}, here=self._processes.first)
        if not self._processes.first:
            return
        self._begin("last", step, trees, {PROGRESS: dict(progress)}, self._forget_last)
        if not self._proved:
            self.wait()
            try:
                read_back(self.folder / "last" / str(step), trees)
            except Damaged as error:
                raise UserError(
                    f"the first checkpoint, of step {step}, cannot be read back from {self.folder} ({error}); name "
                    "another --workdir"
                ) from error
            self._proved = True

    def save_best(self, step: int, state: State, *, keep: Collection[int] = ()) -> None:
        """Writes the best checkpoint in place of all others but those of the steps to keep.

        Raises:
            UserError: the one before it could not be written.
        """
        self._processes.led(self.wait_for_best)
        trees, kept = copied({WEIGHTS: weights(state)}, here=self._processes.first), {step, *keep}
        if self._processes.first:
            self._begin("best", step, trees, {}, lambda _: self._remove("best", kept))

    def forget_best_after(self, step: int) -> None:
        """Removes the best checkpoints of later steps, which a killed run left: a run that resumes is not that run."""
        self._wait_for("best")
        if self._processes.first:
            self._remove("best", {found for found in _steps(self.folder / "best") if found <= step})

    def has_best(self, step: int) -> bool:
        """Tells whether the best checkpoint of a step is there and sound; complains where it is not."""
        return self._processes.led(lambda: self._has_best(step))

    def _has_best(self, step: int) -> bool:
        where = self.folder / "best" / str(step)
        if fault := fault_of(where, _BEST):
            self.complaints.append(f"the best weights, of step {step}, in {where} are damaged ({fault})")
        return not fault

    def restore(self, like: State) -> tuple[State, dict[str, Any]]:
        """Reads the last state that is sound, onto the devices of `like`, and its progress.

        Raises:
            UserError: no checkpoint is there, or it is of another model.
        """
        step = self.latest_step()
        where = self.folder / "last" / str(step)
        with self._processes.in_turn():
            self._processes.await_visible(where / PROGRESS)
            return self._read(where, like)

    def progress(self, step: int) -> dict[str, Any]:
        """Reads what a last checkpoint tells beside its state."""
        return read_document(self.folder / "last" / str(step), PROGRESS)

    def _read(self, where: Path, like: State) -> tuple[State, dict[str, Any]]:
        try:
            found = read_tree(where, WEIGHTS, weights(like)) | read_tree(where, REST, _rest(like))
            progress = read_document(where, PROGRESS)
        except Damaged as error:
            raise UserError(f"the checkpoint in {where} cannot be read ({error}); train this phase first") from error
        except Misfit as error:
            raise UserError(
                f"the checkpoint of step {where.name} in {self.folder} does not fit this model ({error}); was it "
                "written by another version? choose another --workdir to start anew"
            ) from error
        return _learning(found), progress

    def wait_for_best(self) -> None:
        """Waits until the best weights that were handed over are on disk."""
        self._wait_for("best")

    def wait(self) -> None:
        """Waits until all that was handed over is on disk."""
        for which in ("best", "last"):
            self._wait_for(which)

    def close(self) -> None:
        try:
            self.wait()
        finally:
            self._writer.shutdown()

    def _is_sound(self, step: int) -> bool:
        """Tells whether a last checkpoint is what was written; looked at once, and complained of once."""
        where = self.folder / "last" / str(step)
        if where not in self._faults:
            self._faults[where] = fault_of(where, _LAST)
            if fault := self._faults[where]:
                self.complaints.append(f"the checkpoint of step {step} in {where} is damaged ({fault})")
        return not self._faults[where]

    def _is_saved(self, step: int) -> bool:
        return self._processes.led(lambda: step in _steps(self.folder / "last") and self._is_sound(step))

    def _begin(
        self,
        which: str,
        step: int,
        trees: Mapping[str, Any],
        documents: Mapping[str, Any],
        done: Callable[[int], None],
    ) -> None:
        """Begins to write trees, of which this is the only user."""
        where = self.folder / which / str(step)

        def write() -> None:
            remove_partial(where.parent)
            write_stored(where, trees, documents)
            self._faults[where] = ""
            done(step)

        self._pending[which] = self._writer.submit(write)

    def _wait_for(self, which: str) -> None:
        if which not in self._pending:
            return
        try:
            self._pending.pop(which).result()
        except OSError as error:
            kept = sorted(_steps(self.folder / "last"))
            left = f"that of step {kept[-1]} is kept" if kept else "no other is there yet"
            raise OutputError(
                f"the checkpoint cannot be written to {self.folder / which} ({error.strerror}), and {left}; free space "
                "and call again, or name another --workdir"
            ) from error

    def _forget_last(self, step: int) -> None:
        """Keeps the checkpoint before this one, for the case that this one is damaged."""
        before = (found for found in sorted(_steps(self.folder / "last"), reverse=True) if found < step)
        self._remove("last", {step, next(filter(self._is_sound, before), step)})

    def _remove(self, which: str, kept: Collection[int]) -> None:
        for step in _steps(self.folder / which) - set(kept):
            shutil.rmtree(self.folder / which / str(step))


def weights(state: State) -> dict[str, Any]:
    """Returns the part of a state that prediction and transfer need, averaged where an average is kept."""
    found = deployed(state)
    return {"params": found.params, "stats": found.stats}


def newest_step(folder: Path, *, best: bool) -> int | None:
    """Returns the step of the newest checkpoint of a phase, sound or not; None where there is none."""
    return max(_steps(folder / ("best" if best else "last")), default=None)


def read_weights(folder: Path, like: State, placement: Placement, *, best: bool) -> State:
    """Reads the weights of a phase for prediction or transfer, in a state without optimizers and memory.

    Args:
        like: a state of that phase's System, abstract or not.
        placement: where the weights are to lie.
        best: whether the best checkpoint is read; else the last.

    Raises:
        UserError: there is no checkpoint, it is damaged, or of another model.
    """
    which = "best" if best else "last"
    path = folder.absolute() / which
    steps = sorted(_steps(path))
    if not steps:
        other = ", or name @last: a run whose cases all train has no best one" if which == "best" else ""
        raise UserError(f"{folder} holds no {which} checkpoint; train this phase first{other}")
    here = jax.tree.map(lambda x: jax.ShapeDtypeStruct(x.shape, x.dtype, sharding=placement.state), weights(like))
    try:
        found = read_tree(path / str(steps[-1]), WEIGHTS, here)
    except Damaged as error:
        raise UserError(_damaged(path, steps, str(error), best=best)) from error
    except Misfit as error:
        raise UserError(
            f"the checkpoint in {path} does not fit this run's model ({error}); "
            "was it written by another version? train again in another --workdir"
        ) from error
    return State(step=jnp.int32(steps[-1]), rng=like.rng, opt_state={}, memory={}, **found)


def _damaged(path: Path, steps: list[int], fault: str, *, best: bool) -> str:
    """Says which checkpoint is damaged, and how to do without it."""
    newest, other = path / str(steps[-1]), "@last" if best else "@best"
    advice = f"name RUN:PHASE{other}"
    sound = [step for step in steps[:-1] if not fault_of(path / str(step), _BEST)]
    if sound:
        advice += f", or remove that folder to use the checkpoint of step {sound[-1]}"
    if not best:
        advice += ", or call train again, which mends it"
    return f"the checkpoint {newest} is damaged ({fault}); {advice}"


def _steps(folder: Path) -> set[int]:
    """Returns the steps of the checkpoints in a folder, damaged ones too."""
    return {int(path.name) for path in folder.iterdir() if path.name.isdigit()} if folder.is_dir() else set()


def _rest(state: State) -> dict[str, Any]:
    learning = {"learning": {"params": state.params, "stats": state.stats}} if state.average else {}
    return {"step": state.step, "rng": state.rng, "opt_state": state.opt_state, "memory": state.memory, **learning}


def _learning(found: dict[str, Any]) -> State:
    """Returns the state whose `weights` and `_rest` these are."""
    if "learning" not in found:
        return State(**found)
    average = {"params": found.pop("params"), "stats": found.pop("stats")}
    return State(**found.pop("learning"), **found, average=average)


def copied(tree: Any, *, here: bool) -> Any:
    """Copies a tree to the host, as the next step uses its memory again, with the numbers of keys in their places.

    Args:
        here: whether this process keeps the copy; the others help to gather arrays that are parted among processes.
    """

    def copy(leaf: Any) -> Any:
        if isinstance(leaf, jax.Array) and not (leaf.is_fully_addressable or leaf.is_fully_replicated):
            leaf = multihost_utils.process_allgather(leaf, tiled=True)
        return np.array(leaf) if here else None

    return jax.tree.map(copy, without_keys(tree))
