"""A training of 100,000 small steps: do its memory, its open files and the time of a step stay as they are?

    python -m experiments.failures.endurance

trains the smallest network of all recipes, a U-Net of 133 weights, by the command itself: its loader, loop,
checkpoints (one in a thousand steps), validations and rows of metrics. The process is looked at from outside while it
runs: resident memory, open files, threads, seconds of processors. The table sets the last tenth of the steps beside the
first one, whose own first thousand steps (compilation) are left out. Wall time tells little on a machine that does
other things as well; seconds of processors per step are the figure to read. Writes `endurance.md` and
`endurance.json` beside this file.
"""

from __future__ import annotations

import argparse
import json
import os
import shutil
import subprocess
import sys
import time
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path

import numpy as np

from experiments.failures.trainings import REPOSITORY
from jaxfuse.io.metric_rows import METRICS_FILE
from jaxfuse.io.tables import render, write_json

HERE = Path(__file__).resolve().parent
_SETTINGS = {
    "network.form.base": 1,
    "network.form.levels": 2,
    "coronal.batch": 1,
    "coronal.patch": "(8,8)",
    "coronal.sampling": "foreground",
    "coronal.checkpoint_every": 1000,
    "coronal.validation.every": 1000,
    "log_every": 100,
}
_PAUSE_S = 0.25
_WARM_UP = 1000


@dataclass(frozen=True)
class Sample:
    """A look at the process: steps done, and what it has taken so far."""

    step: int
    wall_s: float
    worked_s: float
    resident_mb: float
    files: int
    threads: int


def command(steps: int, workdir: Path) -> list[str]:
    """Returns the command of the training."""
    start = [sys.executable, "-m", "jaxfuse.train", "--config=configs/infinet.py:tiny,row=unet_single"]
    settings = [f"--config.{name}={value}" for name, value in {**_SETTINGS, "coronal.steps": steps}.items()]
    return [*start, f"--workdir={workdir}", *settings]


def watched(steps: int, workdir: Path) -> list[Sample]:
    """Trains, and looks at the process four times a second."""
    samples, began = [], time.perf_counter()
    with subprocess.Popen(command(steps, workdir), cwd=REPOSITORY, stdout=subprocess.DEVNULL) as process:
        while process.poll() is None:
            time.sleep(_PAUSE_S)
            if (step := last_step(workdir)) and (found := sample(process.pid, step, time.perf_counter() - began)):
                samples.append(found)
    if process.returncode:
        raise RuntimeError(f"the training ended with {process.returncode}")
    return samples


def sample(pid: int, step: int, wall_s: float) -> Sample | None:
    """Looks at a process; None where it has just ended."""
    folder = Path(f"/proc/{pid}")
    try:
        fields = (folder / "stat").read_text(encoding="utf-8").rpartition(")")[2].split()
        pages = int((folder / "statm").read_text(encoding="utf-8").split()[1])
        files = len(os.listdir(folder / "fd"))
    except OSError:
        return None
    worked = sum(map(int, fields[11:13])) / os.sysconf("SC_CLK_TCK")
    resident = pages * os.sysconf("SC_PAGE_SIZE") / 1e6
    return Sample(step, wall_s, worked, resident, files, int(fields[17]))


def last_step(workdir: Path) -> int:
    """Returns the step of the last whole row of metrics."""
    path = workdir / METRICS_FILE
    if not path.is_file():
        return 0
    with path.open("rb") as file:
        file.seek(max(0, path.stat().st_size - 4096))
        lines = file.read().split(b"\n")[1:-1]
    return json.loads(lines[-1])["step"] if lines else 0


def tenths(samples: Sequence[Sample], steps: int) -> dict[str, tuple[float, float]]:
    """Returns each figure in the first and in the last tenth of the steps."""
    first = [one for one in samples if _WARM_UP <= one.step <= steps // 10]
    last = [one for one in samples if steps - steps // 10 <= one.step < steps]

    def rate(part: list[Sample], name: str) -> float:
        done = part[-1].step - part[0].step
        return 1e3 * (getattr(part[-1], name) - getattr(part[0], name)) / done

    def mean(part: list[Sample], name: str) -> float:
        return float(np.mean([getattr(one, name) for one in part]))

    return {
        "resident memory (MB)": (mean(first, "resident_mb"), mean(last, "resident_mb")),
        "open files": (mean(first, "files"), mean(last, "files")),
        "threads": (mean(first, "threads"), mean(last, "threads")),
        "processor time of a step (ms)": (rate(first, "worked_s"), rate(last, "worked_s")),
        "wall time of a step (ms)": (rate(first, "wall_s"), rate(last, "wall_s")),
    }


def page(figures: dict[str, tuple[float, float]], steps: int) -> str:
    """Renders the figures as Markdown."""
    rows = [
        {"figure": name, "first tenth": f"{a:.4g}", "last tenth": f"{b:.4g}", "ratio": f"{b / a:.3f}"}
        for name, (a, b) in figures.items()
    ]
    command = f"python -m experiments.failures.endurance --steps {steps}"
    return f"Written by `{command}`: {steps:,} steps.\n\n{render(rows, list(rows[0]))}\n"


def main(arguments: Sequence[str] | None = None) -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--steps", type=int, default=100_000)
    parser.add_argument("--out", type=Path, default=Path("runs/failures"), help="folder of the run")
    options = parser.parse_args(arguments)
    workdir = options.out.absolute() / "endurance"
    shutil.rmtree(workdir, ignore_errors=True)
    samples = watched(options.steps, workdir)
    figures = tenths(samples, options.steps)
    thinned = samples[:: max(1, len(samples) // 100)]
    write_json(HERE / "endurance.json", {"figures": figures, "samples": [asdict(one) for one in thinned]})
    (HERE / "endurance.md").write_text(page(figures, options.steps), encoding="utf-8")
    print(page(figures, options.steps))


if __name__ == "__main__":
    main()
