"""Compares bi-level solvers: which reaches the least value of F(x) = upper(x, y*(x)) with the fewest oracle calls?

    python -m experiments.bilevel_benchmark.run [--out DIR] [--tasks quadratic ridge ...] [--methods SOBA ...] [--quick]

Five tasks, every solver of `jaxfuse.implicit.solvers`, and hypergradient descent over all data by jaxfuse and by
jaxopt, optimistix and TorchOpt where they are installed. Each method gets the same number of oracle calls and the same
grid of constant rates; its rates are those of the least F at the end of the budget on one seed, its curves those of
three other seeds. Writes table.md, scores.json and curves.png beside this file or into DIR, and goes on where an
earlier call with the same settings was stopped.
"""

from __future__ import annotations

import argparse
import json
import time
from collections.abc import Iterator
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
VERSIONS = ("jax", "optax", "numpy", "scikit-learn", "jaxopt", "optimistix", "lineax", "torch", "torchopt")


def versions() -> dict[str, str]:
    found = {}
    for name in VERSIONS:
        try:
            found[name] = version(name)
        except PackageNotFoundError:
            continue
    return found


def rows_before(folder: Path, key: str, scores: dict[str, Any]) -> dict[str, Any]:
    """Returns the rows of a task that an earlier call with the same settings has left in the folder, by method."""
    path = folder / "scores.json"
    before = read_json(path) if path.exists() else {}
    if any(before.get(name) != scores[name] for name in ("versions", "missing", "settings")):
        return {}
    return {row["method"]: row for task in before["tasks"] if task["task"] == key for row in task["rows"]}


def contest(
    key: str, settings: race.Settings, names: list[str] | None, done: dict[str, Any]
) -> Iterator[dict[str, Any]]:
    """Runs on one task all methods, or those of these names, but those that are done; tells of each."""
    task = tasks.make(key)
    value = jax.jit(lambda x, y: jax.lax.map(lambda point: task.value(*point), (x, y)))
    rows = []
    for method in [*(stochastic(name) for name in MAKERS), own_descent(), *peers.methods()]:
        if method.tasks and key not in method.tasks:
            continue
        if method.name in done:
            rows.append(done[method.name])
        elif not names or method.name in names:
            started = time.process_time()
            rows.append(race.compete(method, task, value, settings))
            rows[-1]["in_all"] = time.process_time() - started
            ended = np.median([curve[-1] for curve in rows[-1]["values"]])
            rates = f"rates {rows[-1]['inner']:g}, {rows[-1]['outer']:g}"
            print(f"{key}: {method.name}, F {ended:.6g}, {rates}, {rows[-1]['in_all']:.1f} s", flush=True)
            yield summary(task, rows)
    yield summary(task, rows)


def summary(task: tasks.Task, rows: list[dict[str, Any]]) -> dict[str, Any]:
    """Puts the rows of a task together with its least value of F."""
    first, found = float(task.value(*task.start)), min(np.min(row["values"]) for row in rows)
    known = task.least <= found + 1e-9 * (first - found)
    return {
        "task": task.key,
        "title": task.title,
        "first": first,
        "least": float(min(found, task.least)),
        "reference": task.reference if known else "the least that any run found",
        "rows": list(rows),
    }


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
    scores: dict[str, Any] = {
        "versions": versions(),
        "missing": [*peers.missing(), *(["scikit-learn"] if absent else [])],
        "settings": json.loads(json.dumps({**asdict(settings), "quick": options.quick})),
    }
    options.out.mkdir(parents=True, exist_ok=True)
    path = options.out / "scores.json"
    before = {key: rows_before(options.out, key, scores) for key in tasks.MAKERS}
    kept = {each["task"]: each for each in (read_json(path)["tasks"] if any(before.values()) else [])}
    for key in (key for key in options.tasks if key != "cleaning" or not absent):
        with jax.enable_x64(True):
            for found in contest(key, settings, options.methods, before[key]):
                kept[key] = found
                scores["tasks"] = [kept[name] for name in tasks.MAKERS if name in kept]
                write_json(path, scores)
        (options.out / "table.md").write_text(report.table(scores), encoding="utf-8")
        figures.curves(scores).savefig(options.out / "curves.png", dpi=100)
    print(f"wrote {options.out / 'table.md'}; {report.seconds(scores):.0f} s of the processor in all")
    return scores


if __name__ == "__main__":
    main()
