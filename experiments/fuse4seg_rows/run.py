"""Does a fused image serve better than its sources, and which bi-level scheme is worth its price? On phantoms.

    python -m experiments.fuse4seg_rows.run

Per seed and row: trains the row by the command that a user would run; then fuses and segments phantoms of a seed that
no training has seen. Row full and segmentation alone, on every modality and on what needs no network, are trained by
the default recipe; the bi-level schemes side by side for a short time. Beside that, cost and memory of one training
step of every scheme in turns, and on a toy whose gradients are known, how near each scheme's gradient comes. Writes
table.md and scores.json beside this file. Finished trainings are not repeated.
"""

from __future__ import annotations

import argparse
import time
from functools import partial
from pathlib import Path
from typing import Any

import jax
import numpy as np

from configs import fuse4seg
from experiments.fuse4seg_rows.toy import compare
from experiments.shared import HELD_OUT_SEED, spread, train_all, train_once
from jaxfuse.config import parse
from jaxfuse.data.phantom.brats import write_brats_phantoms
from jaxfuse.data.prepared import PreparedSlice
from jaxfuse.data.settings import declared_facts
from jaxfuse.data.slices import View, prepare_slices
from jaxfuse.data.sources.brats import SOURCE
from jaxfuse.engine.build import build_system, example_batch
from jaxfuse.engine.judging.assessment import Judged
from jaxfuse.engine.trained.phases import load
from jaxfuse.engine.trained.predictor import case_predictor
from jaxfuse.io.tables import read_json, render, write_json
from jaxfuse.labels import label_scheme

HERE = Path(__file__).parent

PAIR = "t1ce+flair"
SCHEMES = ("full", "detached", "pixel", "fusion_leader", "rank_one")
ALONE = ("t1ce", "flair", "mean", "maximum")
# Part of the experiment -> its rows.
PARTS = {"default": ("full", *ALONE), "short": SCHEMES}
# Keeps the schemes' training short, at the settings at which it was measured.
SHORT = {
    "pretraining": {"steps": 80, "patch": (64, 64)},
    "cooperative": {"steps": 240, "patch": (64, 64), "args.losses.gradient_weight": 10.0},
}
REGIONS = ("WT", "TC", "ET")
HELD_OUT = 24
METRICS = ("en_bits", "sd", "sf", "mi_nats", "scd", "vif", "qabf", "ssim")


def train(part: str, row: str, seed: int, folder: Path) -> float:
    options = [f"--config.seed={seed}"]
    for phase in fuse4seg.get_config(f",row={row}").schedule:
        changed = {"validation.every": 0, **(SHORT[phase] if part == "short" else {})}
        options += [f"--config.{phase}.{option}={value}" for option, value in changed.items()]
    if row not in ALONE:
        options.append(f"--config.network.combos=('{PAIR}',)")
    return train_once(f"configs/fuse4seg.py:,row={row}", folder / part / f"{row}-seed{seed}", *options)


def held_out_slices(folder: Path) -> list[PreparedSlice]:
    """Picks the slice with the largest tumor of each phantom."""
    root, scheme = folder / f"held-out-{HELD_OUT}", label_scheme("brats")
    phantom = fuse4seg.SIZES[""].phantom
    write_brats_phantoms(
        root, cases=HELD_OUT, seed=HELD_OUT_SEED, shape=phantom["shape"], spacing_mm=phantom["spacing_mm"]
    )
    files = SOURCE.find(root, fuse4seg.MODALITIES, labels_required=True)
    slices = prepare_slices(files, fuse4seg.MODALITIES, scheme, view=View(one_per_case=True), cache=folder / "cases")
    return [one for case in slices.values() for one in case]


def score(workdir: Path, cases: list[PreparedSlice], folder: Path) -> dict[str, Any]:
    """Means over the held-out slices: Dice by region, fusion metrics by image."""
    (trained,) = load([str(workdir)])
    system, weights = trained.system, trained.weights()
    predict = partial(case_predictor(system, trained.phase), weights)
    assessment = trained.phase.assess(Judged(trained.scheme, system.primary, system.probabilities, (PAIR,)))
    results = folder / "scores" / workdir.parent.name / workdir.name
    results.mkdir(parents=True, exist_ok=True)
    document = assessment.full(predict, cases, results=results, figures_dir=results, title=workdir.name)
    regions = document["outputs"][system.primary]
    found = {f"Dice {name}": float(regions[name]["dice"]["mean"]) for name in REGIONS}
    found["Dice mean"] = float(np.mean(list(found.values())))
    images = document.get("fusion", {}).get("outputs", {})
    return {"dice": found, "fusion": {name: {m: float(s[m]["mean"]) for m in METRICS} for name, s in images.items()}}


def costs(rounds: int = 5) -> list[dict[str, Any]]:
    """One training step of the default preset by each scheme: seconds in turns, memory that the compiler reports."""
    steps = {}
    for row in (*SCHEMES, "weights"):
        experiment = parse(fuse4seg.get_config(f",row={row}"))
        phase = experiment.phases["cooperative"]
        modalities, classes = declared_facts(experiment.data)
        system = build_system(phase, modalities, classes, 100)
        batch = drawn(example_batch(phase, modalities, margin=0), len(classes))
        state = jax.jit(system.init)(jax.random.key(0), batch)
        started = time.perf_counter()
        program = jax.jit(system.train_step).lower(state, batch).compile()
        compile_s = time.perf_counter() - started
        jax.block_until_ready(program(state, batch))
        megabytes = program.memory_analysis().temp_size_in_bytes / 2**20  # pyright: ignore[reportOptionalMemberAccess]
        steps[row] = (program, state, batch, compile_s, megabytes, [])
    for _ in range(rounds):
        for program, state, batch, _, _, times in steps.values():
            started = time.perf_counter()
            jax.block_until_ready(program(state, batch))
            times.append(time.perf_counter() - started)
    base = np.array(steps["full"][5])
    return [
        {
            "scheme": "joint (row full)" if row == "full" else row,
            "step ms": float(1e3 * np.median(times)),
            "x joint": float(np.median(np.array(times) / base)),
            "temporary MB": megabytes,
            "compile s": compile_s,
        }
        for row, (_, _, _, compile_s, megabytes, times) in steps.items()
    ]


def drawn(batch: Any, classes: int) -> Any:
    """Random intensities and labels in place of zeros."""
    rng = np.random.default_rng(0)

    def fill(leaf: Any) -> Any:
        if leaf.dtype == np.float32:
            return rng.uniform(size=leaf.shape).astype(np.float32)
        return rng.integers(0, classes, leaf.shape).astype(leaf.dtype)

    return jax.tree.map(fill, batch)


def tables(scores: dict[str, Any]) -> str:
    """Everything measured, in Markdown."""
    seeds = scores["seeds"]
    lines = ["# Fuse4Seg on phantoms: rows, schemes, cost", "", f"Seeds {seeds}; see README.md for what was asked.", ""]
    titles = {
        "default": "Fused image and single modalities, default recipe",
        "short": "Bi-level schemes, short training",
    }
    for part, title in titles.items():
        if part in scores["parts"]:
            lines += [
                f"## {title}: Dice, and metrics of the fused image",
                "",
                of_rows(scores["parts"][part], seeds),
                "",
            ]
    if "default" in scores["parts"]:
        of_seeds = [scores["parts"]["default"]["full"][str(seed)]["fusion"] for seed in seeds]
        images = [
            {"Image": name, **{m: spread([one[name][m] for one in of_seeds]) for m in METRICS}} for name in of_seeds[0]
        ]
        lines += ["## Fused image of row full beside what needs no network", "", aligned(images), ""]
    if scores["costs"]:
        lines += ["## One training step by scheme", "", aligned(rounded(scores["costs"])), ""]
    lines += ["## Gradients on the toy beside the exact ones", "", aligned(rounded(scores["toy"], 4), left=2), ""]
    return "\n".join(lines)


def of_rows(part: dict[str, Any], seeds: list[int]) -> str:
    rows = []
    for row, by_seed in part.items():
        of_seeds = [by_seed[str(seed)] for seed in seeds]
        line = {"Row": row}
        line |= {name: spread([one["dice"][name] for one in of_seeds]) for name in of_seeds[0]["dice"]}
        fused = [one["fusion"].get("fused") for one in of_seeds]
        for metric in ("qabf", "vif", "ssim"):
            if all(fused):
                line[metric] = spread([one[metric] for one in fused])
        rows.append(line)
    return aligned(rows)


def aligned(rows: list[dict[str, str]], left: int = 1) -> str:
    """Puts a dash where a row has no value."""
    columns = list(dict.fromkeys(name for row in rows for name in row))
    return render([{name: row.get(name, "-") for name in columns} for row in rows], columns, left=left)


def rounded(rows: list[dict[str, Any]], digits: int = 2) -> list[dict[str, str]]:
    def text(value: Any) -> str:
        if isinstance(value, str):
            return value
        return f"{value:.{digits}g}" if abs(value) < 1e-3 else f"{value:.{digits}f}"

    return [{name: text(value) for name, value in row.items()} for row in rows]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--seeds", type=int, nargs="+", default=[0, 1, 2])
    parser.add_argument("--parts", nargs="+", default=list(PARTS), choices=PARTS)
    parser.add_argument("--folder", type=Path, default=Path("runs") / "fuse4seg_rows", help="trainings and phantoms")
    parser.add_argument("--together", type=int, default=1, help="trainings at a time")
    parser.add_argument("--costs", action=argparse.BooleanOptionalAction, default=True, help="time a step by scheme")
    options = parser.parse_args()
    folder = options.folder.absolute()
    folder.mkdir(parents=True, exist_ok=True)
    scores: dict[str, Any] = {"seeds": options.seeds, "parts": {}}
    jobs = [(part, row, seed) for part in options.parts for seed in options.seeds for row in PARTS[part]]
    named = {f"{part} {row}-seed{seed}": partial(train, part, row, seed, folder) for part, row, seed in jobs}
    scores["training_s"] = train_all(named, options.together)
    cases = held_out_slices(folder)
    for part in options.parts:
        scores["parts"][part] = {
            row: {str(seed): score(folder / part / f"{row}-seed{seed}", cases, folder) for seed in options.seeds}
            for row in PARTS[part]
        }
        print(f"{part}: scored", flush=True)
    scores |= {"costs": costs() if options.costs else [], "toy": compare()}
    write_json(HERE / "scores.json", scores)
    (HERE / "table.md").write_text(tables(read_json(HERE / "scores.json")))
    print(f"Written: {HERE / 'table.md'}")


if __name__ == "__main__":
    main()
