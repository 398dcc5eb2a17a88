"""The agreement of all processes on what clocks and signals ask for after a step.

A clock or a signal speaks to one process. All have to act after the same step, or one would compute alone.
"""

from __future__ import annotations

import os
from collections import deque
from typing import Any, Protocol, runtime_checkable

import jax
import numpy as np
from jax.sharding import NamedSharding, PartitionSpec

from jaxfuse.engine.devices.placement import DATA, Placement
from jaxfuse.engine.devices.processes import Processes
from jaxfuse.engine.programs import greatest

# So many steps pass before what was asked for is done: its number is there then, and nobody waits for it.
LATE = 2


def compute_first(processes: Processes, placement: Placement) -> None:
    """Lets the devices of several processes compute together for the first time.

    On CPUs Gloo connects them then, and gives up where one comes half a minute after the others; here all are in time.
    It prints to the output that it has connected, which is let go.
    """
    if not processes.several:
        return
    processes.gathered(None)
    output, nowhere = os.dup(1), os.open(os.devnull, os.O_WRONLY)
    try:
        os.dup2(nowhere, 1)
        Late(processes, placement).finish()
    finally:
        os.dup2(output, 1)
        os.close(output)
        os.close(nowhere)


@runtime_checkable
class Agreement(Protocol):
    """The way from what this process asks for after a step to what is due in all."""

    def __call__(self, signal: int, save: bool) -> tuple[int, bool]:
        """Takes and returns the number of a signal, 0 for none, and whether a checkpoint is due by the clock."""
        ...


def agreement(processes: Processes, placement: Placement) -> Agreement:
    """Returns the agreement of these processes; of one, what it asks for is due at once."""
    return Late(processes, placement) if processes.several else at_once


def at_once(signal: int, save: bool) -> tuple[int, bool]:
    """Agrees with the only process."""
    return signal, save


class Late:
    """The agreement of several processes, by the greatest number that any gave `LATE` steps ago."""

    def __init__(self, processes: Processes, placement: Placement) -> None:
        self._greatest = greatest(placement)
        self._rows = placement.parts // processes.count
        # Not as batches lie, whose second axis several devices may share.
        mesh = placement.mesh
        self._lie = placement.batch if mesh is None else NamedSharding(mesh, PartitionSpec(DATA))
        self._asked: deque[Any] = deque()

    def finish(self) -> None:
        """Asks for nothing, and waits until all have."""
        self(0, False)
        jax.block_until_ready(list(self._asked))

    def __call__(self, signal: int, save: bool) -> tuple[int, bool]:
        asked = np.tile(np.array([signal, save], np.int32), (self._rows, 1))
        self._asked.append(self._greatest(jax.make_array_from_process_local_data(self._lie, asked)))
        self._asked[-1].copy_to_host_async()
        if len(self._asked) <= LATE:
            return 0, False
        number, due = np.asarray(self._asked.popleft()).tolist()
        if due:  # it is done now; what was asked for since is the same
            self._asked.clear()
        return number, bool(due)
