"""Measures what the certificate of every step costs.

    python -m experiments.bilevel_benchmark.evidence [--task logistic] [--rounds 15]

Runs of 300 steps with and without it take turns in one process; the ratio is that of the best times.
"""

from __future__ import annotations

import argparse
import time
from collections.abc import Callable
from typing import Any

import jax
import optax

from experiments.bilevel_benchmark import tasks
from experiments.bilevel_benchmark.methods import MAKERS
from jaxfuse.implicit import solvers

STEPS = 300
NAMES = ("SOBA", "SABA", "FSLA", "AmIGO", "stocBiO", "MRBO")


def program(task: tasks.Task, name: str, evidence: bool) -> Callable[[Any], Any]:
    """Compiles a run that ends with its state and the residuals or the inner gradients of its steps."""
    rate = 0.3 / task.largest
    solver = MAKERS[name][0](task, optax.sgd(rate), optax.sgd(0.1), rate)

    def run(key: Any) -> Any:
        found = solvers.solve(
            task.upper, task.lower, solver, *task.start, steps=STEPS, key=key, data=task.data, evidence=evidence
        )
        info = found.info
        return found.x, (info.residual, info.least_curvature, info.converged) if evidence else info.value

    return jax.jit(run).lower(jax.random.key(0)).compile()


def main(argv: list[str] | None = None) -> dict[str, float]:
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--task", choices=sorted(tasks.MAKERS), default="logistic")
    parser.add_argument("--rounds", type=int, default=15)
    options = parser.parse_args(argv)
    found = {}
    with jax.enable_x64(True):
        task, key = tasks.make(options.task), jax.random.key(0)
        for name in NAMES:
            runs = {evidence: program(task, name, evidence) for evidence in (False, True)}
            best = dict.fromkeys(runs, float("inf"))
            for _ in range(options.rounds):
                for evidence, run in runs.items():
                    started = time.perf_counter()
                    jax.block_until_ready(run(key))
                    best[evidence] = min(best[evidence], time.perf_counter() - started)
            found[name] = best[True] / best[False]
            print(
                f"{name}: {1e6 * best[False] / STEPS:.1f} us a step, with evidence {found[name]:.2f} times", flush=True
            )
    return found


if __name__ == "__main__":
    main()
