"""Small trainings of all five recipes, as the command that a user would call, and where one of them stands."""

from __future__ import annotations

import math
import os
import re
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Mapping
from contextlib import suppress
from dataclasses import dataclass, field, replace
from functools import cached_property
from pathlib import Path

from jaxfuse.io.metric_rows import METRICS_FILE, Row, read_metrics

REPOSITORY = Path(__file__).resolve().parents[2]
# Seconds between two looks at a run.
PAUSE = 0.005
# The stages of a run in which it is killed, in their order.
PLACES = ("start-up", "cache", "compilation", "training", "validation", "checkpoint", "judging", "report")
_ANNOUNCED = re.compile(r"^Phases? [\d, ]+ of \d+, ([\w+]+).*?: (\d+) steps(?: from step (\d+))? of", re.MULTILINE)
_PHASE = re.compile(r"^Phases? (\d+)[\d, ]* of \d+, ", re.MULTILINE)
_TRAINED = re.compile(r"^Phase ([\w+]+): \d+ steps in ", re.MULTILINE)


@dataclass(frozen=True)
class Recipe:
    """One of the five recipes, `tiny`, with lengths that leave room for a kill in every place.

    Attributes:
        phases: in order, each with its steps.
        result: the folder below `results` that is written last.
    """

    name: str
    phases: Mapping[str, int]
    result: str
    every: int = 6
    options: tuple[str, ...] = ()

    def command(self, workdir: Path) -> list[str]:
        """Returns the command that begins the run in a folder, and goes on with it."""
        command = [sys.executable, "-m", "jaxfuse.train", f"--config=configs/{self.name}.py:tiny"]
        command += [f"--workdir={workdir}", "--config.log_every=1"]
        for phase, steps in self.phases.items():
            command += [f"--config.{phase}.{option}" for option in (f"steps={steps}", f"checkpoint_every={self.every}")]
            command += [f"--config.{phase}.validation.{option}" for option in (f"every={self.every}", "cases=1")]
        return [*command, *self.options]


RECIPES = {
    recipe.name: recipe
    for recipe in (
        Recipe("cmff", {"transition": 12, "fusion": 12}, "fusion"),
        Recipe("hyperfusion", {"segmentation": 24}, "segmentation"),
        Recipe("hinet", {"synthesis": 24}, "synthesis"),
        Recipe("infinet", {"sagittal": 12, "coronal": 12, "axial": 12}, "result"),
        Recipe("fuse4seg", {"pretraining": 12, "cooperative": 12}, "cooperative"),
    )
}


@dataclass
class Started:
    """A process of a training that was started, and what it has done so far.

    Attributes:
        cache: folder of prepared cases and compiled programs.
        said: file that its output goes to, standard error included.
        wrapper: words before the command, such as those of a tool that turns the clock.
    """

    recipe: Recipe
    workdir: Path
    cache: Path
    said: Path
    environment: Mapping[str, str] = field(default_factory=dict)
    wrapper: tuple[str, ...] = ()

    @cached_property
    def process(self) -> subprocess.Popen[bytes]:
        own = {**os.environ, "JAXFUSE_CACHE": str(self.cache), "PYTHONUNBUFFERED": "1", "COLUMNS": "200"}
        self.said.parent.mkdir(parents=True, exist_ok=True)
        with self.said.open("wb") as out:
            # A session of its own: what a killed run leaves behind can be looked for.
            return subprocess.Popen(
                [*self.wrapper, *self.recipe.command(self.workdir)],
                cwd=REPOSITORY, env={**own, **self.environment}, stdout=out, stderr=out, start_new_session=True,
            )  # fmt: skip

    @property
    def ended(self) -> bool:
        return self.process.poll() is not None

    def worked_s(self) -> float:
        """Returns the seconds of processors that the run has taken: a busy machine makes no difference to them."""
        try:
            fields = Path(f"/proc/{self.process.pid}/stat").read_text(encoding="utf-8").rpartition(")")[2].split()
        except OSError:
            return math.inf
        return sum(map(int, fields[11:13])) / os.sysconf("SC_CLK_TCK")

    def work_until(self, worked_s: float) -> None:
        """Waits until the run has taken so many seconds of processors, or has ended."""
        while not self.ended and self.worked_s() < worked_s:
            time.sleep(PAUSE)

    @property
    def text(self) -> str:
        return self.said.read_text(encoding="utf-8", errors="replace")

    def place(self) -> str:
        """Returns the place among `PLACES` where the run stands."""
        text = self.text
        announced = list(_ANNOUNCED.finditer(text))
        is_judged = (self.workdir / "results" / self.recipe.result / "summary.json").is_file()
        if is_judged and (announced or "steps are there already" in text):
            return "report"
        if not announced:
            return "cache" if _is_preparing(self.cache) else "start-up"
        last = announced[-1]
        phase, total, begun = last.group(1), int(last.group(2)), int(last.group(3) or 0)
        if begun == total or any(one.start() > last.start() for one in _TRAINED.finditer(text)):
            return "judging"
        if _has_partial(self.workdir / "checkpoints"):
            return "checkpoint"
        return _place_by_rows(rows_of(self.workdir, phase), begun, total, self.recipe.every)

    def phase(self) -> int:
        """Returns the number of the phase that the run is in, from 0; 0 before the first one."""
        return max((int(number) - 1 for number in _PHASE.findall(self.text)), default=0)

    def wait_for(self, place: str, phase: int, patience_s: float) -> bool:
        """Waits until the run stands in a place, in this phase or a later one; returns False where it ends before."""
        until = time.monotonic() + patience_s
        while not self.ended:
            if self.place() == place and self.phase() >= phase * (place not in PLACES[:2]):
                return True
            if time.monotonic() > until:
                raise TimeoutError(f"{self.recipe.name} did not come to {place} in {patience_s:.0f} s: {self.text}")
            time.sleep(PAUSE)
        return False

    def finish(self, patience_s: float) -> int:
        """Waits for the end; returns the exit code."""
        try:
            return self.process.wait(patience_s)
        finally:
            self.end()

    def end(self) -> None:
        """Kills what is left of the process and of those that it started."""
        with suppress(ProcessLookupError):
            os.killpg(self.process.pid, signal.SIGKILL)
        self.process.wait()


def together(run: Started, processes: int) -> list[Started]:
    """Starts all processes of a run, on this machine; process 0 speaks and writes."""
    if processes == 1:
        _ = run.process
        return [run]
    with socket.socket() as free:
        free.bind(("localhost", 0))
        port = free.getsockname()[1]
    members = []
    for number in range(processes):
        options = (*run.recipe.options, f"--distributed=localhost:{port},{processes},{number}")
        options += tuple(f"--config.{phase}.batch={processes}" for phase in run.recipe.phases)
        said = run.said.with_name(f"{run.said.stem}_process_{number}.txt")
        members.append(replace(run, recipe=replace(run.recipe, options=options), said=said))
        _ = members[-1].process
    return members


def rows_of(workdir: Path, phase: str) -> list[Row]:
    """Returns the rows of metrics that a phase has so far."""
    if not (workdir / METRICS_FILE).is_file():
        return []
    return [row for row in read_metrics(workdir) if row["phase"] == phase]


def _place_by_rows(rows: list[Row], begun: int, total: int, every: int) -> str:
    """Returns where the loop stands: a step's row is written before it is validated, and the scores after that."""
    later = [row for row in rows if row["step"] > begun]
    if not later:
        return "compilation"
    due = later[-1]["split"] == "train" and (later[-1]["step"] == total or later[-1]["step"] % every == 0)
    return "validation" if due else "training"


def _is_preparing(cache: Path) -> bool:
    """Tells whether a cache is being filled for the first time: phantoms come first, digests last."""
    return (cache / "phantoms").is_dir() and not (cache / "cases" / "digests.json").exists()


def _has_partial(checkpoints: Path) -> bool:
    """Tells whether a checkpoint is being written."""
    return any(
        path.name.startswith(".partial-")
        for phase in _listed(checkpoints)
        for which in _listed(phase)
        for path in _listed(which)
    )


def _listed(folder: Path) -> list[Path]:
    try:
        return list(folder.iterdir())
    except OSError:
        return []
