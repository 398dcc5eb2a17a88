"""How accurate is each hypergradient estimator, and what does it cost? Ours, a hand-written CG, installed libraries.

    python -m experiments.implicit_gradients.run [--out DIR] [--rounds 30] [--quick]

Four tasks whose hypergradient is known (a quadratic, ridge regression, logistic regression, data cleaning on made
digits) with every estimator of jaxfuse.implicit and every peer that is installed (jaxopt, lineax, optimistix, Betty,
TorchOpt; none is needed), then overhead, memory, failures, reuse and inexact inner solves. Writes table.md,
scores.json and PNG figures beside this file or into DIR. Minutes on two idle cores.
"""

from __future__ import annotations

import argparse
import logging
import os
import platform
import time
import warnings
from collections.abc import Callable
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any

import jax
import numpy as np
from rich.console import Console

from experiments.implicit_gradients import cleaning, failures, figures, studies, tables, tasks
from experiments.implicit_gradients.measure import Method, Runner, race, ready, row
from experiments.implicit_gradients.methods import approximations, solvers
from experiments.implicit_gradients.peers import hand_method, missing, peer_methods
from jaxfuse.engine.display import clock
from jaxfuse.io.tables import write_json

HERE = Path(__file__).parent
LINE_EVERY_S = 10.0
VERSIONS = ("jax", "lineax", "optax", "numpy", "jaxopt", "optimistix", "torch", "torchopt", "betty-ml")


class Progress:
    """Lines with what is being done, how fast, and the time left by the pace so far."""

    def __init__(self, expected: int) -> None:
        self.expected, self.done, self.started, self.spoke = expected, 0, time.perf_counter(), 0.0
        self.console = Console(highlight=False, soft_wrap=True)

    def __call__(self, said: str) -> None:
        self.done += 1
        now = time.perf_counter()
        if now - self.spoke > LINE_EVERY_S:
            self.spoke, rate = now, self.done / max(now - self.started, 1e-9)
            left = clock(max(self.expected - self.done, 0) / rate)
            self.console.print(
                f"{self.done}/{self.expected}, {rate:.1f} a second, about {left} left: {said}", markup=False
            )

    def skip(self, count: int) -> None:
        """Work that turned out not to be needed."""
        self.expected -= count


# Methods that are run where every call takes long.
FEW = {
    "lineax CG, own assembly", "jaxopt custom_root, solve_cg", "jaxopt custom_root, default",
    "optimistix ImplicitAdjoint, CG", "optimistix ImplicitAdjoint, default",
    "no options", "cg", "cg, Nystrom preconditioner", "minres", "dense",
}  # fmt: skip


def task_list(quick: bool) -> list[tuple[Callable[[], tasks.Task], bool]]:
    """The tasks, and whether they are drawn."""
    if quick:
        return [
            (lambda: tasks.quadratic(60, 1e3), True),
            (lambda: tasks.diagonal(10_000), False),
            (lambda: cleaning.cleaning(60, 40, side=6, classes=4), True),
        ]
    return [
        (lambda: tasks.quadratic(200, 1e3), False),
        (lambda: tasks.quadratic(1000, 1e3), True),
        (lambda: tasks.quadratic(2000, 1e3), False),
        (lambda: tasks.quadratic(1000, 1e3, np.float32), False),
        (lambda: tasks.quadratic(200, 1e6), False),
        (lambda: tasks.diagonal(1_000_000), False),
        (tasks.ridge, False),
        (tasks.logistic, False),
        (cleaning.cleaning, True),
    ]


def method_list(hand: list[Runner]) -> list[Method]:
    """All methods after the hand-written CG, in the order of the tables."""
    return [*peer_methods(lambda: int(hand[0].evidence["steps"])), *solvers(), *approximations()]


def measure_task(
    task: tasks.Task, *, drawn: bool, rounds: int, seconds_each: float, progress: Progress, few: bool = False
) -> dict[str, Any]:
    """Accuracy and cost of every method that fits a task, or of a `few`."""
    hand: list[Runner] = []
    known = method_list(hand)
    methods = [method for method in known if method.fits(task) and (not few or method.name in FEW)]
    progress.skip(len(known) - len(methods))
    with jax.enable_x64(task.double):
        *_, x, y = task.in_jax()
        ready(hand_method(), task, x, y)  # what the first compilation of a kind costs once is nobody's
        hand.append(ready(hand_method(), task, x, y))
        runners = list(hand)
        for method in methods:
            progress(f"{task.key}: {method.name}")
            runners.append(ready(method, task, x, y))
        before = progress.done
        race(runners, rounds, seconds_each, lambda said: progress(f"{task.key}: {said}"))
        progress.skip(rounds - (progress.done - before))
    rows = [row(runner, hand[0], task.exact) for runner in runners]
    return {"key": task.key, "title": f"{task.key.split('-')[0]}: {task.size}", "drawn": drawn, "rows": rows}


def machine(command: str, quick: bool) -> dict[str, Any]:
    """Processor, cores and versions; no date and no name of a host."""
    versions = {"python": platform.python_version()}
    for name in VERSIONS:
        try:
            versions[name] = version(name)
        except PackageNotFoundError:
            continue
    return {
        "command": command,
        "processor": _processor(),
        "cores": os.cpu_count(),
        "versions": versions,
        "missing": missing(),
        "quick": quick,
    }


def _processor() -> str:
    info = Path("/proc/cpuinfo")
    lines = info.read_text().splitlines() if info.is_file() else []
    names = [line.split(":", 1)[1].strip() for line in lines if line.startswith("model name")]
    return names[0] if names else platform.processor() or platform.machine()


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--out", type=Path, default=HERE, help="folder for table.md, scores.json and the figures")
    parser.add_argument("--rounds", type=int, default=30, help="rounds in which the methods take turns")
    parser.add_argument("--quick", action="store_true", help="small sizes, 3 rounds: only tries the script")
    options = parser.parse_args()
    if options.rounds < 1:
        parser.error(f"--rounds is {options.rounds}; at least 1 was expected")
    scores = measure_all(options.rounds, options.quick)
    options.out.mkdir(parents=True, exist_ok=True)
    text = tables.table(scores)
    (options.out / "table.md").write_text(text, encoding="utf-8")
    write_json(options.out / "scores.json", scores)
    for path in figures.draw(scores, options.out):
        print(f"wrote {path}")
    print(text)


def measure_all(rounds: int, quick: bool) -> dict[str, Any]:
    """All findings, as scores.json holds them."""
    # Peers raise inside compiled code, with tracebacks in the log: their outcome is in the tables.
    logging.getLogger("jax._src.callback").setLevel(logging.CRITICAL)
    warnings.filterwarnings("ignore", category=DeprecationWarning)  # jaxopt's farewell
    jax.config.update("jax_enable_compilation_cache", False)  # first calls compile
    rounds = min(rounds, 3) if quick else rounds
    chosen, counts = task_list(quick), ([2, 10] if quick else [10, 100, 1000, 10_000])
    ways, cuts = (9, [10, 50] if quick else [10, 50, 200, 1000])
    progress = Progress(len(chosen) * (len(method_list([])) + rounds) + ways * len(counts) + 40)
    found = []
    for build, drawn in chosen:
        task = build()
        limits = {"rounds": rounds, "seconds_each": 0.05 if quick else 0.4, "few": task.unknowns > 1024 and task.double}
        found.append(measure_task(task, drawn=drawn, progress=progress, **limits))
    scores = {
        "machine": machine(f"python -m experiments.implicit_gradients.run --rounds {rounds}", quick),
        "rounds": rounds,
        "tasks": found,
        "overhead": studies.overhead(rounds, quick, progress),
        "memory": {"inner_steps": counts, "megabytes": studies.memory(counts, progress)},
        "failures": failures.judge(progress),
        "reuse": studies.reuse(20, quick, progress),
        "inexact": {"inner_steps": cuts, "scores": studies.inexact(cuts, quick, progress)},
    }
    size = (60, 40, 40) if quick else (1000, 500, 1000)
    with jax.enable_x64(False):
        scores["cleaning"] = cleaning.learn_weights(cleaning.make_digits(*size), outer_steps=5 if quick else 100)
    return scores


if __name__ == "__main__":
    main()
