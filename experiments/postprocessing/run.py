"""Does a post-processing that was chosen on validation cases pay on others?

    python -m experiments.postprocessing.run

trains CMFF from random weights (row "random" of `configs/cmff.py`, its default recipe) on phantoms per seed, chooses a
post-processing on the 4 cases that validate each run (`jaxfuse.postprocess`), and labels phantoms of a seed that
nothing else uses (`jaxfuse.predict`), whose label maps are scored as they are and after that post-processing. Writes
table.md and scores.json beside this file: mean Dice of each region, and the paired differences with 95 % intervals over
cases, each a mean over seeds. What is tried, and in which order, is that of the command; it was fixed before any of
these phantoms was made. Finished trainings, choices and label maps are not repeated.
"""

from __future__ import annotations

import argparse
from collections.abc import Mapping, Sequence
from pathlib import Path

import numpy as np
from scipy import stats

from experiments.shared import REPOSITORY, command, spread, train_once
from jaxfuse.data.cases import encode_label, whole_values
from jaxfuse.data.phantom.brats import write_brats_phantoms
from jaxfuse.data.sources.brats import SOURCE
from jaxfuse.io.nifti import read_volume
from jaxfuse.io.tables import read_json, render, write_json
from jaxfuse.labels import label_scheme
from jaxfuse.postprocessing.choice import labeled, mean_dice
from jaxfuse.postprocessing.plan import read_plan

HERE = Path(__file__).parent
HELD_OUT_SEED = 30_059
STEPS = 800
SCHEME = label_scheme("brats")
REGIONS = tuple(SCHEME.regions)
MODALITIES = ("t1", "t1ce", "t2", "flair")
WAYS = ("none", "chosen")


def trained(seed: int, steps: int, folder: Path) -> Path:
    """Returns a run with its post-processing."""
    workdir = folder / f"seed{seed}"
    options = (f"--config.seed={seed}", f"--config.fusion.steps={steps}")
    print(f"seed {seed}: {train_once('configs/cmff.py:,row=random', workdir, *options):.0f} s", flush=True)
    if not (workdir / "postprocessing.json").is_file():
        command("postprocess", f"--workdir={workdir}")
    print(f"seed {seed}: {read_plan(workdir / 'postprocessing.json').plan.told()}", flush=True)
    return workdir


def scores_of(workdir: Path, cases: Path, folder: Path) -> dict[str, list[list[float]]]:
    """Returns the Dice of each case and region by way: of the label maps that a run writes, as they are and after."""
    files, labels = SOURCE.find(cases, MODALITIES, labels_required=True), folder / f"labels-{workdir.name}"
    if not all((labels / f"{one.id}.nii.gz").is_file() for one in files):
        places = (f"--workdir={workdir}", f"--input={cases}", f"--output={labels}")
        command("predict", *places, "--postprocessing=none")
    plan = read_plan(workdir / "postprocessing.json").plan
    scores: dict[str, list[list[float]]] = {way: [] for way in WAYS}
    for one in files:
        written, reference = (read_volume(path) for path in (labels / f"{one.id}.nii.gz", one.label))
        found, truth = (encode_label(whole_values(volume), SCHEME) for volume in (written, reference))
        for way, map_ in (("none", found), ("chosen", plan(found, written.steps_mm))):
            dice = mean_dice([labeled(map_, truth, written.steps_mm)], SCHEME)
            scores[way].append([dice[region] for region in SCHEME.regions])
    return scores


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
    parser.add_argument("--seeds", type=int, nargs="+", default=[0])
    parser.add_argument("--steps", type=int, default=STEPS)
    parser.add_argument("--cases", type=int, default=12, help="held-out phantoms")
    parser.add_argument("--folder", type=Path, default=REPOSITORY / "runs" / "postprocessing")
    asked = parser.parse_args()
    folder = asked.folder.absolute()
    runs = [trained(seed, asked.steps, folder) for seed in asked.seeds]
    plans = {run.name: read_json(run / "postprocessing.json") for run in runs}
    cases = folder / f"held-out-{asked.cases}"
    write_brats_phantoms(cases, cases=asked.cases, seed=HELD_OUT_SEED)
    by_run = [scores_of(run, cases, folder) for run in runs]
    scores = {way: [one[way] for one in by_run] for way in WAYS}
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
