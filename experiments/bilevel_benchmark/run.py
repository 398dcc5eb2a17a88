"""Compares bi-level solvers: which reaches the least value of F(x) = upper(x, y*(x)) with the fewest oracle calls?

    python -m experiments.bilevel_benchmark.run [--out DIR] [--tasks quadratic ridge ...] [--methods SOBA ...] [--quick]

Five tasks, every solver of `jaxfuse.implicit.solvers`, and hypergradient descent over all data by jaxfuse and by
jaxopt and optimistix where they are installed. Each method gets the same number of oracle calls and the same grid of
constant rates; its rates are those of the least F at the end of the budget on one seed, its curves those of three other
seeds. Writes table.md, scores.json and curves.png beside this file or into DIR, after each task; tasks that an earlier
call with the same settings has left there are kept.
"""

from __future__ import annotations

import argparse
import json
import time
from dataclasses import asdict
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any

import jax
import numpy as np

from experiments.bilevel_benchmark import figures, peers, race, report, tasks
from experiments.bilevel_benchmark.methods import MAKERS, own_descent, stochastic
from jaxfuse.io.tables import read_json, write_json

HERE = Path(__file__).parent
VERSIONS = ("jax", "optax", "numpy", "scikit-learn", "jaxopt", "optimistix", "lineax")


def versions() -> dict[str, str]:
    found = {}
    for name in VERSIONS:
        try:
            found[name] = version(name)
        except PackageNotFoundError:
            continue
    return found


def contest(key: str, settings: race.Settings, names: list[str] | None) -> dict[str, Any]:
    """Runs all methods, or those of these names, on one task."""
    task = tasks.make(key)
    value = jax.jit(lambda x, y: jax.lax.map(lambda point: task.value(*point), (x, y)))
    rows = []
    for method in [*(stochastic(name) for name in MAKERS), own_descent(), *peers.methods()]:
        if names and method.name not in names:
            continue
        started = time.process_time()
        rows.append(race.compete(method, task, value, settings))
        ended = np.median([curve[-1] for curve in rows[-1]["values"]])
        rates = f"rates {rows[-1]['inner']:g}, {rows[-1]['outer']:g}"
        print(f"{key}: {method.name}, F {ended:.6g}, {rates}, {time.process_time() - started:.1f} s", flush=True)
    first, found = float(task.value(*task.start)), min(np.min(row["values"]) for row in rows)
    known = task.least <= found + 1e-9 * (first - found)
    return {
        "task": key,
        "title": task.title,
        "first": first,
        "least": float(min(found, task.least)),
        "reference": task.reference if known else "the least that any run found",
        "rows": rows,
    }


def merged(folder: Path, scores: dict[str, Any]) -> dict[str, Any]:
    """Joins scores with those of other tasks that an earlier call has left in the folder, if settings are the same."""
    path = folder / "scores.json"
    before = read_json(path) if path.exists() else {}
    alike = all(before.get(name) == scores[name] for name in ("versions", "missing", "settings"))
    if not before or not alike:
        return scores
    found = {each["task"]: each for each in [*before["tasks"], *scores["tasks"]]}
    kept = [each for each in before["tasks"] if each["task"] not in {done["task"] for done in scores["tasks"]}]
    seconds = sum(each["seconds"] for each in [*kept, *scores["tasks"]])
    return scores | {"tasks": [found[key] for key in tasks.MAKERS if key in found], "seconds": seconds}


def main(argv: list[str] | None = None) -> dict[str, Any]:
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--out", type=Path, default=HERE)
    parser.add_argument("--tasks", nargs="+", choices=sorted(tasks.MAKERS), default=list(tasks.MAKERS))
    parser.add_argument("--methods", nargs="+", help="only these")
    parser.add_argument("--quick", action="store_true", help="one rate, one seed and a twentieth of the budget")
    options = parser.parse_args(argv)
    settings = race.QUICK if options.quick else race.Settings()
    absent = tasks.missing()
    if absent and "cleaning" in options.tasks:
        print(absent)
    scores = {
        "versions": versions(),
        "missing": [*peers.missing(), *(["scikit-learn"] if absent else [])],
        "settings": json.loads(json.dumps({**asdict(settings), "methods": options.methods, "quick": options.quick})),
        "seconds": 0.0,
        "tasks": [],
    }
    options.out.mkdir(parents=True, exist_ok=True)
    for key in (key for key in options.tasks if key != "cleaning" or not absent):
        started = time.process_time()
        with jax.enable_x64(True):
            found = contest(key, settings, options.methods)
        found["seconds"] = time.process_time() - started
        scores = merged(options.out, scores | {"tasks": [found], "seconds": found["seconds"]})
        write_json(options.out / "scores.json", scores)
        (options.out / "table.md").write_text(report.table(scores), encoding="utf-8")
        figures.curves(scores).savefig(options.out / "curves.png", dpi=100)
    print(f"wrote {options.out / 'table.md'}; {scores['seconds']:.0f} s of the processor in all")
    return scores


if __name__ == "__main__":
    main()
