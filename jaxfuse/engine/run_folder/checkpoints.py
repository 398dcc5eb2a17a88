"""Checkpoints of one phase by Orbax: the last one resumes a run, the best one predicts.

A checkpoint of step n has three items: `weights` (parameters and statistics by player), `rest` (optimizers, memory,
key, step) and `progress`, the JSON that decides the future beside the state (best score so far and its step).
The best checkpoint has the weights only.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import jax
import orbax.checkpoint as ocp

from jaxfuse.engine.programs import Placement
from jaxfuse.errors import UserError
from jaxfuse.learning.state import State


class Checkpoints:
    """The checkpoints below `folder`: `last/` and `best/`. Close it when done."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder.absolute()  # Orbax fails late, in a thread, on a relative path
        # Two kept: a run killed while it writes one still has the other.
        self._last = ocp.CheckpointManager(self.folder / "last", options=ocp.CheckpointManagerOptions(max_to_keep=2))
        self._best = ocp.CheckpointManager(self.folder / "best", options=ocp.CheckpointManagerOptions(max_to_keep=1))

    def latest_step(self) -> int | None:
        return self._last.latest_step()

    def save(self, step: int, state: State, progress: dict[str, Any]) -> None:
        """Writes the last checkpoint in the background; an error of the write before surfaces here."""
        self._last.check_for_errors()
        # `progress` names the best step: a run killed between the two must not resume with a best that was never whole.
        self.wait_for_best()
        if step in self._last.all_steps():
            return
        args = ocp.args.Composite(
            weights=ocp.args.StandardSave(weights(state)),
            rest=ocp.args.StandardSave(_rest(state)),
            progress=ocp.args.JsonSave(progress),  # pyright: ignore[reportCallIssue]
        )
        if not self._last.save(step, args=args):
            raise UserError(f"the checkpoint of step {step} was not saved in {self.folder}; name another --workdir")

    def save_best(self, step: int, state: State) -> None:
        """Replaces the best checkpoint.

        Those of this step or a later one, which a killed run may have left, are deleted first: that run was not this
        one, and Orbax silently saves nothing that is older than what it has.

        Raises:
            UserError: Orbax did not save it.
        """
        self._best.check_for_errors()
        self._best.wait_until_finished()
        for outdated in [found for found in self._best.all_steps() if found >= step]:
            self._best.delete(outdated)
        args = ocp.args.Composite(weights=ocp.args.StandardSave(weights(state)))
        if not self._best.save(step, args=args):
            raise UserError(
                f"the best weights, of step {step}, were not saved in {self.folder}; name another --workdir"
            )

    def restore(self, like: State) -> tuple[State, dict[str, Any]]:
        """Reads the last state, onto the devices of `like`, and its progress."""
        step = self._last.latest_step()
        shapes = jax.tree.map(ocp.utils.to_shape_dtype_struct, (weights(like), _rest(like)))
        try:
            found = self._last.restore(
                step,
                args=ocp.args.Composite(
                    weights=ocp.args.StandardRestore(shapes[0]),  # pyright: ignore[reportCallIssue]
                    rest=ocp.args.StandardRestore(shapes[1]),  # pyright: ignore[reportCallIssue]
                    progress=ocp.args.JsonRestore(),
                ),
            )
        except (ValueError, KeyError, TypeError) as error:
            raise UserError(
                f"the checkpoint of step {step} in {self.folder} does not fit this model ({_first_sentence(error)}); "
                "was it written by another version? choose another --workdir to start anew"
            ) from error
        return State(**found["weights"], **found["rest"]), found["progress"]

    def wait_for_best(self) -> None:
        """Waits until the best weights that were handed over are on disk."""
        self._best.wait_until_finished()
        self._best.check_for_errors()

    def wait(self) -> None:
        for manager in (self._last, self._best):
            manager.wait_until_finished()
            manager.check_for_errors()

    def close(self) -> None:
        self.wait()
        self._last.close()
        self._best.close()


def weights(state: State) -> dict[str, Any]:
    """Returns the part of a state that prediction and transfer need."""
    return {"params": state.params, "stats": state.stats}


def read_weights(folder: Path, like: State, placement: Placement, *, best: bool) -> State:
    """Reads the weights of a phase for prediction or transfer, in a state without optimizers and memory.

    Args:
        like: a state of that phase's System, abstract or not.
        placement: where the weights are to lie.
        best: whether the best checkpoint is read; else the last.
    """
    which = "best" if best else "last"
    path = folder.absolute() / which
    if not path.is_dir():
        raise UserError(f"{folder} holds no {which} checkpoint; train this phase first")
    manager = ocp.CheckpointManager(path)
    try:
        step = manager.latest_step()
        if step is None:
            raise UserError(f"{path} holds no finished checkpoint; train this phase first")
        shapes = jax.tree.map(lambda x: jax.ShapeDtypeStruct(x.shape, x.dtype, sharding=placement.state), weights(like))
        args = ocp.args.Composite(weights=ocp.args.StandardRestore(shapes))  # pyright: ignore[reportCallIssue]
        found = manager.restore(step, args=args)["weights"]
    except UserError:
        raise
    except (ValueError, KeyError, TypeError) as error:
        raise UserError(
            f"the checkpoint in {path} does not fit this run's model ({_first_sentence(error)}); "
            "was it written by another version? train again in another --workdir"
        ) from error
    finally:
        manager.close()
    return State(step=jax.numpy.int32(step), rng=like.rng, opt_state={}, memory={}, **found)


def _rest(state: State) -> dict[str, Any]:
    return {"step": state.step, "rng": state.rng, "opt_state": state.opt_state, "memory": state.memory}


def _first_sentence(error: Exception) -> str:
    """Returns the first sentence of an error of Orbax, which goes on to options and trees of many lines."""
    line = (str(error).splitlines() or [type(error).__name__])[0]
    return line.split(". ")[0].rstrip(":.")[:300]
