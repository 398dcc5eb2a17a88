"""Subsets of modalities: by which form of network least is lost. All 15 of four, on phantoms.

    python -m experiments.subsets.run

Trains each form of `FORMS` on complete phantoms, with and without dropout of modalities, then labels phantoms of a seed
that no training has seen 15 times, each time by one subset of their modalities. Writes table.md, subsets.png and
scores.json beside this file. Finished trainings are not repeated. The settings stand here as they were before the first
held-out phantom was looked at.
"""

from __future__ import annotations

import argparse
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import jax
import numpy as np

from experiments.cmff_rows.run import held_out_cases, held_out_root
from experiments.shared import REPOSITORY, scored_whole, spread, train_once
from experiments.subsets import imputed
from experiments.subsets.figure import draw
from jaxfuse.data.prepared import Prepared, PreparedCase, showing
from jaxfuse.data.presence import Presence, all_subsets, subset_name
from jaxfuse.engine.trained.passes import Passes
from jaxfuse.engine.trained.phases import load
from jaxfuse.engine.trained.segmenter import ensemble_of
from jaxfuse.inference.label_map import masked_labels
from jaxfuse.io.tables import read_json, render, write_json
from jaxfuse.labels import LabelScheme
from jaxfuse.metrics.comparison import compare
from jaxfuse.prediction.ensemble import Ensemble

HERE = Path(__file__).parent
# Phantoms on which steps and share of dropout were chosen, and those that are scored.
CHOICE_SEED, HELD_OUT_SEED = 30_216, 30_217
STEPS = 1600
MODALITIES = ("t1", "t1ce", "t2", "flair")
SUBSETS = all_subsets(MODALITIES)
# Tiles that do not overlap: a third of the passes, for all forms alike.
SIDE_BY_SIDE = Passes(overlap=0.0)
# Half of the examples show a subset, all 15 of them alike, the others all that they have.
DROPOUT = {"modality_dropout.probability": 0.5}
# One U-Net that reads all four, from random weights.
ALL_IN_ONE = ("--config.pairs=('t1+t1ce+t2+flair','t2+flair')", "--config.schedule=('branch_a',)")
ALL_IN_ONE += ("--config.result=('branch_a',)", "--config.branch_a.init=()")


@dataclass(frozen=True)
class Form:
    """One way to train.

    Attributes:
        row: of configs/cmff.py.
        phase: the one that labels.
        settings: of that phase, beside those of the default recipe.
        options: of the command.
    """

    row: str
    phase: str
    settings: dict[str, Any]
    options: tuple[str, ...] = ()

    def arguments(self, seed: int, steps: int) -> list[str]:
        """Returns the options of the training."""
        settings = {"steps": steps, **self.settings}
        own = [f"--config.{self.phase}.{name}={value}" for name, value in settings.items()]
        return [f"--config.seed={seed}", *self.options, *own]


FORMS = {
    "CMFF, complete cases": Form("random", "fusion", {}),
    "CMFF, dropout": Form("random", "fusion", DROPOUT),
    "CMFF, dropout, masked": Form("random", "fusion", {**DROPOUT, "args.fusion.presence": "masked"}),
    "U-Net, complete cases": Form("S_A", "branch_a", {}, ALL_IN_ONE),
    "U-Net, dropout": Form("S_A", "branch_a", DROPOUT, ALL_IN_ONE),
    "U-Net, dropout, conditioned": Form(
        "S_A", "branch_a", {**DROPOUT, "args.unet.presence": "conditioned"}, ALL_IN_ONE
    ),
    "mmFormer, dropout": Form("mmformer", "segmentation", DROPOUT),
    "U-HVED, dropout": Form("uhved", "segmentation", DROPOUT),
}
# Ends the name of a form whose trainings are those of the form before it; what a case lacks is synthesized first.
IMPUTED = ", imputed by Hi-Net"
FORMS |= {f"CMFF, complete cases{IMPUTED}": FORMS["CMFF, complete cases"]}


def against(name: str) -> str:
    """Returns the form against which one is held: the same network trained on complete cases, or else CMFF."""
    own = f"{name.partition(',')[0]}, complete cases"
    return own if own in FORMS else "CMFF, complete cases"


Rows = list[dict[str, Any]]
# A complete case and a subset of its modalities -> what the network is given.
Shown = Callable[[PreparedCase, Presence], Prepared]


def workdir_of(name: str, seed: int, folder: Path) -> Path:
    """Returns the run folder of a form and seed."""
    return folder / f"{_in_a_path(name.removesuffix(IMPUTED))}-seed{seed}"


def _in_a_path(name: str) -> str:
    return name.replace(", ", "-").replace(" ", "_")


def train(name: str, seed: int, steps: int, folder: Path) -> float:
    """Trains a form unless it was done before; returns the seconds of that training."""
    workdir, form = workdir_of(name, seed, folder), FORMS[name]
    seconds = train_once(f"configs/cmff.py:,row={form.row}", workdir, *form.arguments(seed, steps))
    print(f"{workdir.name}: trained in {seconds:.0f} s", flush=True)
    return seconds + imputed.train(seed, folder)[1] if name.endswith(IMPUTED) else seconds


def score(name: str, seed: int, cases: Sequence[PreparedCase], phantoms: int, folder: Path) -> dict[str, Any]:
    """Scores a form on every subset of every case; once for these phantoms."""
    found = folder / f"{_in_a_path(name)}-seed{seed}-scores-{phantoms}x{len(cases)}.json"
    if not found.is_file():
        (member,) = runs = list(load([str(workdir_of(name, seed, folder))]))
        shown: Shown = showing
        if name.endswith(IMPUTED):
            run, _ = imputed.train(seed, folder)
            shown = imputed.imputer(run, member, held_out_root(len(cases), phantoms, folder))
            runs += load([str(run)])
        counts = [int(np.size(leaf)) for one in runs for leaf in jax.tree.leaves(one.weights().params)]
        # One for all subsets: presence is an argument of its program.
        ensemble = ensemble_of([member], passes=SIDE_BY_SIDE)
        rows = [row for subset in SUBSETS for row in _scored(ensemble, member.scheme, cases, subset, shown)]
        write_json(found, {"parameters": sum(counts), "rows": rows})
        print(f"{name}, seed {seed}: scored", flush=True)
    return read_json(found)


def _scored(
    ensemble: Ensemble, scheme: LabelScheme, cases: Sequence[PreparedCase], subset: Presence, shown: Shown
) -> Rows:
    """Scores by case and region with these modalities alone."""
    rows = []
    for case in cases:
        given = shown(case, subset)
        labels = masked_labels(ensemble.labels(given), given.brain)
        rows += scored_whole(labels, given, case, scheme, subset_name(subset, MODALITIES))
    return [{key: row[key] for key in ("case", "output", "region", "dice", "hd95_mm")} for row in rows]


def by_subset_of(rows: Rows) -> dict[str, dict[str, dict[str, str]]]:
    """Puts rows into (subset -> region -> metric -> values of the cases in order), which takes a tenth of the room."""
    kept: dict[str, dict[str, dict[str, str]]] = {}
    for row in sorted(rows, key=lambda row: row["case"]):
        values = kept.setdefault(row["output"], {}).setdefault(row["region"], {})
        for metric in ("dice", "hd95_mm"):
            values[metric] = f"{values.get(metric, '')} {row[metric]:.4g}".strip()
    return kept


def means(trainings: Sequence[dict[str, Any]], metric: str, subset: str = "", region: str = "") -> np.ndarray:
    """Means by case over seeds, and over the subsets and regions that are not named; cases in order."""
    rows = [row for one in trainings for row in one["rows"]]
    kept = [row for row in rows if subset in ("", row["output"]) and region in ("", row["region"])]
    names = sorted({row["case"] for row in kept})
    by_case = {name: [row[metric] for row in kept if row["case"] == name and row[metric] is not None] for name in names}
    return np.array([np.mean(values) if values else np.nan for values in by_case.values()])


def tables(trainings: Sequence[dict[str, Any]]) -> tuple[str, str]:
    """Renders mean Dice by subset, and what each form comes to over all of them."""
    forms = {name: [one for one in trainings if one["form"] == name] for name in FORMS}
    forms = {name: found for name, found in forms.items() if found}
    regions = list(dict.fromkeys(row["region"] for row in trainings[0]["rows"]))
    by_subset, overall = [], []
    for subset in [subset_name(one, MODALITIES) for one in SUBSETS]:
        scores = {name: means(found, "dice", subset) for name, found in forms.items()}
        line = {"modalities": subset, "cases": str(len(next(iter(scores.values()))))}
        by_subset.append(line | {name: f"{np.nanmean(values):.3f}" for name, values in scores.items()})
    for name, found in forms.items():
        line = {"form": name, "parameters": f"{found[0]['parameters']:,}"}
        line |= {"seconds": spread([one["seconds"] for one in found], 0)}
        line |= {f"Dice {region}": f"{np.nanmean(means(found, 'dice', region=region)):.3f}" for region in regions}
        line |= {"HD95 (mm)": f"{np.nanmean(means(found, 'hd95_mm')):.1f}"}
        overall.append(line | _beside(found, forms.get(against(name), [])))
    return render(by_subset, list(by_subset[0])), render(overall, list(overall[0]))


def _beside(found: Sequence[dict[str, Any]], other: Sequence[dict[str, Any]]) -> dict[str, str]:
    """The paired differences of mean Dice against complete cases: over all subsets, and with all four modalities."""
    told = {}
    for title, subset in (("all subsets", ""), ("with all four", subset_name((True,) * 4, MODALITIES))):
        if found == other or not other:
            told[title] = ""
            continue
        paired = compare(means(found, "dice", subset), means(other, "dice", subset))
        told[title] = f"{paired.difference:+.3f} [{paired.low:+.3f}, {paired.high:+.3f}]"
    return told


def _mean(trainings: Sequence[dict[str, Any]], form: str, subset: Presence) -> float:
    found = [one for one in trainings if one["form"] == form]
    return float(np.nanmean(means(found, "dice", subset_name(subset, MODALITIES))))


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--seeds", type=int, nargs="+", default=[0, 1, 2])
    parser.add_argument("--cases", type=int, default=8, help="held-out phantoms")
    parser.add_argument("--steps", type=int, default=STEPS, help="of each training")
    parser.add_argument("--phantoms", type=int, default=HELD_OUT_SEED, help="their seed")
    parser.add_argument("--forms", nargs="+", default=list(FORMS), choices=list(FORMS))
    parser.add_argument("--train-only", action="store_true", help="score nothing yet")
    parser.add_argument("--folder", type=Path, default=REPOSITORY / "runs" / "subsets")
    parser.add_argument("--out", type=Path, default=HERE)
    options = parser.parse_args()
    folder = options.folder.absolute()
    chosen = [(name, seed) for seed in options.seeds for name in options.forms]
    seconds = [train(name, seed, options.steps, folder) for name, seed in chosen]
    if options.train_only:
        return
    cases = held_out_cases(options.cases, options.phantoms, folder)
    trainings = [
        {"form": name, "seed": seed, "seconds": took} | score(name, seed, cases, options.phantoms, folder)
        for (name, seed), took in zip(chosen, seconds, strict=True)
    ]
    settings = {"seeds": options.seeds, "cases": options.cases, "steps": options.steps}
    kept = [one | {"rows": by_subset_of(one["rows"])} for one in trainings]
    write_json(options.out / "scores.json", {**settings, "trainings": kept})
    by_subset, overall = tables(trainings)
    told = (
        f"Mean Dice over the regions, {options.cases} held-out phantoms, seeds {options.seeds}, {options.steps} steps."
    )
    beside = "Means over the 15 subsets, and paired differences (95 %) against the network trained on complete cases,"
    beside += " or against CMFF so trained."
    text = f"{told}\n\n{by_subset}\n\n{beside}\n\n{overall}"
    (options.out / "table.md").write_text(f"# All subsets of four modalities\n\n{text}\n")
    scores = {name: [_mean(trainings, name, subset) for subset in SUBSETS] for name in options.forms}
    draw(scores, SUBSETS, MODALITIES, options.out / "subsets.png")
    print(text)


if __name__ == "__main__":
    main()
