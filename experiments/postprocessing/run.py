"""Does a post-processing that was chosen on validation cases pay on others?

    python -m experiments.postprocessing.run

trains CMFF from random weights (row "random" of `configs/cmff.py`, its default recipe) on phantoms per seed, chooses a
post-processing on the 4 cases that validate each run (`jaxfuse.postprocess`), and labels phantoms of a seed that
nothing else uses with and without it (`jaxfuse.predict`, `jaxfuse.evaluate`). Writes table.md and scores.json beside
this file: mean Dice of each region, and the paired differences with 95 % intervals over cases, each a mean over seeds.
What is tried, and in which order, is that of the command; it was fixed before any of these phantoms was made. Finished
trainings and choices are not repeated.
"""

from __future__ import annotations

import argparse
import shutil
from collections.abc import Mapping, Sequence
from pathlib import Path

import numpy as np
from scipy import stats

from experiments.shared import REPOSITORY, command, spread, train_once
from jaxfuse.data.phantom.brats import write_brats_phantoms
from jaxfuse.io.tables import read_json, read_rows, render, write_json
from jaxfuse.postprocessing.plan import read_plan

HERE = Path(__file__).parent
HELD_OUT_SEED = 30_059
STEPS = 800
REGIONS = ("WT", "TC", "ET")
WAYS = ("none", "auto")


def trained(seed: int, steps: int, folder: Path) -> Path:
    """Returns a run with its post-processing."""
    workdir = folder / f"seed{seed}"
    options = (f"--config.seed={seed}", f"--config.fusion.steps={steps}")
    print(f"seed {seed}: {train_once('configs/cmff.py:,row=random', workdir, *options):.0f} s", flush=True)
    if not (workdir / "postprocessing.json").is_file():
        command("postprocess", f"--workdir={workdir}")
    print(f"seed {seed}: {read_plan(workdir / 'postprocessing.json').plan.told()}", flush=True)
    return workdir


def scores_of(workdir: Path, way: str, cases: Path, folder: Path) -> list[list[float]]:
    """Returns the Dice of each case and region, labeled in one way."""
    labeled, scored = (folder / f"{kind}-{workdir.name}-{way}" for kind in ("labels", "scores"))
    for old in (labeled, scored):
        shutil.rmtree(old, ignore_errors=True)
    places = (f"--workdir={workdir}", f"--input={cases}", f"--output={labeled}")
    command("predict", *places, f"--postprocessing={way}")
    command("evaluate", f"--pred={labeled}", f"--ref={cases}", "--protocol=brats", f"--out={scored}")
    summary = read_json(scored / "summary.json")
    if summary["postprocessing_chosen_on"] or summary["refused"]:
        raise SystemExit("cases that a plan was chosen on, or that were left out, are among the held-out ones")
    rows = {(row["case"], row["region"]): row["dice"] for row in read_rows(scored / "cases.csv")}
    return [[rows[case, region] for region in REGIONS] for case in sorted({case for case, _ in rows})]


def interval(differences: Sequence[float]) -> str:
    """Renders a mean and its 95 % interval by Student's t."""
    values = np.asarray(differences)
    half = stats.t.ppf(0.975, len(values) - 1) * values.std(ddof=1) / np.sqrt(len(values))
    return f"{values.mean():+.4f} [{values.mean() - half:+.4f}, {values.mean() + half:+.4f}]"


def table(scores: Mapping[str, Sequence[Sequence[Sequence[float]]]], plans: Mapping[str, Mapping[str, object]]) -> str:
    """Renders scores (way -> seed -> case -> region), and what each run's validation cases promised."""
    without, after = (np.asarray(scores[way]) for way in WAYS)
    promised = {
        region: np.mean([plan["dice"]["after"][region] - plan["dice"]["before"][region] for plan in plans.values()])
        for region in REGIONS
    }
    lines = []
    for name, take in [*((name, [place]) for place, name in enumerate(REGIONS)), ("mean", [0, 1, 2])]:
        old, new = (values[..., take].mean(-1) for values in (without, after))
        difference = new - old
        lines.append(
            {
                "Region": name,
                "Dice, none": spread(old.mean(1).tolist(), 4),
                "Dice, chosen": spread(new.mean(1).tolist(), 4),
                "difference over cases": interval(difference.mean(0)),
                "better, worse": f"{(difference > 1e-9).sum()}, {(difference < -1e-9).sum()} of {difference.size}",
                "on validation cases": f"{np.mean([promised[REGIONS[place]] for place in take]):+.4f}",
            }
        )
    return render(lines, list(lines[0]))


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--seeds", type=int, nargs="+", default=[0, 1])
    parser.add_argument("--steps", type=int, default=STEPS)
    parser.add_argument("--cases", type=int, default=24, help="held-out phantoms")
    parser.add_argument("--folder", type=Path, default=REPOSITORY / "runs" / "postprocessing")
    asked = parser.parse_args()
    folder = asked.folder.absolute()
    runs = [trained(seed, asked.steps, folder) for seed in asked.seeds]
    plans = {run.name: read_json(run / "postprocessing.json") for run in runs}
    cases = folder / "held-out"
    write_brats_phantoms(cases, cases=asked.cases, seed=HELD_OUT_SEED)
    scores = {way: [scores_of(run, way, cases, folder) for run in runs] for way in WAYS}
    chosen = "\n".join(
        f"- seed {seed}: {read_plan(run / 'postprocessing.json').plan.told()}"
        for seed, run in zip(asked.seeds, runs, strict=True)
    )
    text = f"{table(scores, plans)}\n\nChosen:\n\n{chosen}"
    (HERE / "table.md").write_text(text + "\n")
    setting = {"seeds": asked.seeds, "steps": asked.steps, "held_out_seed": HELD_OUT_SEED, "regions": REGIONS}
    kept = {name: {key: plan[key] for key in ("steps", "dice")} for name, plan in plans.items()}
    write_json(HERE / "scores.json", {**setting, "plans": kept, "dice": scores})
    print(text)


if __name__ == "__main__":
    main()
