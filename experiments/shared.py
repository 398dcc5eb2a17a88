"""Runs commands as a user would and renders numbers over seeds, for the experiments that train networks."""

from __future__ import annotations

import concurrent.futures
import subprocess
import sys
import time
from collections.abc import Callable, Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from jaxfuse.data.prepared import Prepared, PreparedCase
from jaxfuse.data.preprocess import uncrop
from jaxfuse.io.tables import read_json, write_json
from jaxfuse.labels import LabelScheme
from jaxfuse.metrics.comparison import compare
from jaxfuse.metrics.protocols import default_one_empty_mm
from jaxfuse.metrics.regions import score_case

REPOSITORY = Path(__file__).parent.parent
# Seed of the held-out phantoms; no training uses it.
HELD_OUT_SEED = 20_261


def command(module: str, *options: str) -> float:
    """Runs `python -m jaxfuse.MODULE` in the repository and returns its seconds."""
    started = time.perf_counter()
    subprocess.run(
        [sys.executable, "-m", f"jaxfuse.{module}", *options], cwd=REPOSITORY, check=True, stdout=subprocess.DEVNULL
    )
    return time.perf_counter() - started


def train_once(config: str, workdir: Path, *options: str) -> float:
    """Trains by the command unless it was done before; returns the seconds of that training."""
    took = workdir.with_name(f"{workdir.name}.json")
    if not took.is_file():
        write_json(took, {"seconds": command("train", "--config", config, f"--workdir={workdir}", *options)})
    return read_json(took)["seconds"]


def workfile(folder: Path, name: str, seed: int) -> Path:
    """Returns the file of a training of a row, which holds its scores once it is done."""
    plain = "".join(c if c.isalnum() or c in ".-" else "_" for c in name)
    return folder / f"{plain}-seed{seed}.json"


def finished(folder: Path, seeds: Sequence[int], names: Iterable[str]) -> dict[str, dict[str, Any]]:
    """Reads the rows that are done with all of these seeds."""
    files = {name: {str(seed): workfile(folder, name, seed) for seed in seeds} for name in names}
    done = {name: of_seeds for name, of_seeds in files.items() if all(file.is_file() for file in of_seeds.values())}
    return {name: {seed: read_json(file) for seed, file in of_seeds.items()} for name, of_seeds in done.items()}


def train_all(jobs: Mapping[str, Callable[[], float]], together: int) -> dict[str, float]:
    """Runs the trainings, so many at a time, and says when one is done; returns their seconds by name."""
    seconds = {}
    with concurrent.futures.ThreadPoolExecutor(together) as pool:
        for name, took in zip(jobs, pool.map(lambda job: job(), jobs.values()), strict=True):
            seconds[name] = took
            print(f"{name}: {took:.0f} s", flush=True)
    return seconds


def scored_whole(
    labels: np.ndarray, given: Prepared | PreparedCase, case: PreparedCase, scheme: LabelScheme, output: str
) -> list[dict[str, Any]]:
    """Scores a label map (d h w), on the crop of what the network was given, on the whole grid of its case."""
    return score_case(
        uncrop(labels, given, 0),
        uncrop(np.asarray(case.label), case, 0),
        scheme,
        spacing_mm=case.facts.spacing_mm,
        one_empty=default_one_empty_mm(scheme),
        case=case.id,
        output=output,
    )


def over_seeds(scores: np.ndarray) -> str:
    """Renders scores (seeds, cases) as the mean over cases, and its standard deviation over seeds."""
    return spread(scores.mean(axis=1).tolist())


def difference(first: np.ndarray, second: np.ndarray) -> str:
    """Renders the mean difference of scores (seeds, cases) of the same cases, with its interval of 95 %."""
    paired = compare(first, second)
    return f"{paired.difference:+.3f} [{paired.low:+.3f}, {paired.high:+.3f}]"


def late(log: Sequence[Mapping[str, float]], name: str) -> float | None:
    """The mean of a metric over the second half of a log; None where it is not there."""
    values = [row[name] for row in log[len(log) // 2 :] if name in row]
    return float(np.mean(values)) if values else None


def told_briefly(found: Mapping[str, Mapping[str, Any]]) -> dict[str, dict[str, Any]]:
    """Returns trainings by row and seed with scores of four digits, and the means of a late half for a log."""

    def rounded(value: Any) -> Any:
        if isinstance(value, Mapping):
            return {key: rounded(item) for key, item in value.items()}
        return [rounded(item) for item in value] if isinstance(value, list) else round(value, 4)

    def brief(one: Mapping[str, Any]) -> dict[str, Any]:
        names = dict.fromkeys(name for row in one["log"] for name in row)
        return rounded({**one, "log": {name: mean for name in names if (mean := late(one["log"], name)) is not None}})

    return {name: {seed: brief(one) for seed, one in of_seeds.items()} for name, of_seeds in found.items()}


def spread(values: Sequence[float], digits: int = 3) -> str:
    """Renders mean ± standard deviation over seeds; the bare value for one seed."""
    deviation = f" ± {np.std(values, ddof=1):.{digits}f}" if len(values) > 1 else ""
    return f"{np.mean(values):.{digits}f}{deviation}"
