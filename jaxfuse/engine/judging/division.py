"""The division of a judgment among the processes of a run: all predict cases, and process 0 judges them.

Case i is predicted by process i modulo their number, each on a device of its own. What the others make goes through
files in the run folder. Process 0 takes it in the order of the cases, so that tables are those of one process. However
outputs are made, they lie in memory alike, for a mean adds numbers in the order in which they lie.
"""

from __future__ import annotations

import shutil
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import TypeVar

import numpy as np

from jaxfuse.data.prepared import PreparedCase
from jaxfuse.engine.devices.processes import Processes
from jaxfuse.engine.judging.assessment import MadeElsewhere, Needs, PredictCase
from jaxfuse.inference.tiling import Asked
from jaxfuse.io.npz import write_loose_npz

Made = TypeVar("Made")

# In the run folder, while it is written into.
EXCHANGE = ".exchange"
# Cases that a process may be ahead of process 0: their outputs lie on the disk meanwhile.
AHEAD = 2
_SECONDS = "seconds it took"


def judged_by_all(
    processes: Processes, workdir: Path, needs: Needs, predict: PredictCase, judging: Callable[[PredictCase], Made]
) -> Made:
    """Judges in process 0 what all processes predict; all get what it returns, JSON, or end as it does.

    Args:
        needs: the cases that are divided; what is asked beside them process 0 predicts alone.
        judging: is given the prediction that it uses in place of `predict`.
    """

    def laid(case: PreparedCase, asked: Asked) -> dict[str, np.ndarray]:
        return {name: np.asarray(array, order="C") for name, array in predict(case, asked).items()}

    if not processes.together or len(needs.cases) < 2:
        return processes.led(lambda: judging(laid))
    division = Division(processes, workdir / EXCHANGE, needs, laid)
    try:
        return processes.led(lambda: judging(division), meanwhile=division.predict_own)
    finally:
        division.remove_own()


def clear(workdir: Path) -> None:
    """Removes what a run that was killed has left of an exchange."""
    shutil.rmtree(workdir / EXCHANGE, ignore_errors=True)


@dataclass
class Division:
    """The prediction of the cases of one judgment by all processes, seen from one of them.

    In process 0 it stands for `predict`, and the others `predict_own` meanwhile.
    """

    processes: Processes
    folder: Path
    needs: Needs
    predict: PredictCase
    _places: dict[str, int] = field(default_factory=dict)
    _reached: int = 0
    _written: list[Path] = field(default_factory=list)

    def __post_init__(self) -> None:
        self._places = {case.id: place for place, case in enumerate(self.needs.cases)}

    def __call__(self, case: PreparedCase, asked: Asked) -> Mapping[str, np.ndarray]:
        """Returns the outputs of a case, made here or, the first time that they are asked for, by another process."""
        place = self._places.pop(case.id, None) if asked == self.needs.asked else None
        if place is None or place % self.processes.count == 0:
            return self.predict(case, asked)
        for reached in range(self._reached, place + 1):
            self.processes.tell(f"reached {reached}")
        self._reached = max(self._reached, place + 1)
        self.processes.is_told(f"made {place}")
        path = self._path(place)
        self.processes.await_visible(path, maker=place % self.processes.count)
        outputs = MadeElsewhere()
        with np.load(path) as archive:
            outputs.update({name: archive[name] for name in archive.files})
        outputs.seconds = float(outputs.pop(_SECONDS))
        path.unlink()
        return outputs

    def predict_own(self) -> None:
        """Predicts the cases of this process, no more than `AHEAD` before they are read, until process 0 has ended."""
        number, count = self.processes.number, self.processes.count
        for place in range(number, len(self.needs.cases), count):
            before = place - AHEAD * count
            if self.processes.has_ended or (before >= 0 and not self.processes.is_told(f"reached {before}")):
                return
            started = time.perf_counter()
            outputs = self.predict(self.needs.cases[place], self.needs.asked)
            seconds = np.array(time.perf_counter() - started)
            path = self._path(place)
            self._written.append(path)
            write_loose_npz(path, **outputs, **{_SECONDS: seconds})
            self.processes.tell(f"made {place}")

    def remove_own(self) -> None:
        """Removes what this process has made and nobody has read."""
        for path in self._written:
            path.unlink(missing_ok=True)

    def _path(self, place: int) -> Path:
        return self.folder / f"{self.processes.turn}-{place}.npz"
