"""Does augmentation help on images of another scanner? Trains on phantoms of one, scores on the same heads by both.

    python -m experiments.augmentation.run

trains CMFF from random weights (row "random" of `configs/cmff.py`, its default recipe, flips included) per seed without
further augmentation, with the presets "light" and "nnunet", and with "nnunet" and bias fields; then labels phantoms of
a seed that no training has seen, taken by the scanner of the training (3 T) and by another (`OTHER`: 1.5 T, more noise,
stronger bias fields, lower gain). Writes table.md and scores.json beside this file: mean Dice of the three regions, and
its paired difference from "none" with 95 % intervals, over seeds and over cases. Settings were fixed before any case of
the other scanner was looked at; the aim is a gain of 0.03. Finished trainings are not repeated.
"""

from __future__ import annotations

import argparse
from collections.abc import Mapping, Sequence
from pathlib import Path

import numpy as np
from scipy import stats

from experiments.shared import REPOSITORY, spread, train_once
from jaxfuse.data.cache import prepare
from jaxfuse.data.phantom.brats import write_brats_phantoms
from jaxfuse.data.phantom.signal import SCANNER_3T, TISSUES_3T, Scanner, Tissue
from jaxfuse.data.prepared import PreparedCase
from jaxfuse.data.sources.brats import SOURCE
from jaxfuse.engine.judging.segmentation import label_maps
from jaxfuse.engine.trained.phases import load
from jaxfuse.engine.trained.predictor import case_predictor
from jaxfuse.inference.tiling import Asked
from jaxfuse.io.tables import render, write_json
from jaxfuse.labels import label_scheme
from jaxfuse.metrics.regions import score_case

HERE = Path(__file__).parent
MODALITIES = ("t1", "t1ce", "t2", "flair")
HELD_OUT_SEED = 30_041
STEPS = 800

# T1 in ms of gray and white matter at 1.5 T: Wright et al., MAGMA 21:121, 2008; T2 and blood: Stanisz et al., Magn
# Reson Med 54:507, 2005. Fluid keeps its values. T1 of all else falls as that of gray matter does, T2 stays.
_FALL = 1197 / 1607
_AT_1T5 = {"gray": (1197, 95), "white": (646, 72), "blood": (1441, 290), "fluid": TISSUES_3T["fluid"][:2]}
TISSUES_1T5 = {
    name: Tissue(*_AT_1T5.get(name, (_FALL * one.t1_ms, one.t2_ms)), one.density) for name, one in TISSUES_3T.items()
}
OTHER = Scanner(TISSUES_1T5, noise=(0.07, 0.11), bias=(0.2, 0.35), gain=(50, 200))
SCANNERS = {"same": SCANNER_3T, "other": OTHER}

_AUGMENT = "--config.fusion.augment"
ROWS: Mapping[str, Sequence[str]] = {
    "none": (),
    "light": (f"{_AUGMENT}.preset=light",),
    "nnunet": (f"{_AUGMENT}.preset=nnunet",),
    "nnunet and bias": (f"{_AUGMENT}.preset=nnunet", f"{_AUGMENT}.bias_field.probability=0.3"),
}


def train(row: str, seed: int, steps: int, folder: Path) -> Path:
    workdir = folder / f"{row.replace(' ', '-')}-seed{seed}"
    options = (f"--config.seed={seed}", f"--config.fusion.steps={steps}", *ROWS[row])
    print(f"{row}, seed {seed}: {train_once('configs/cmff.py:,row=random', workdir, *options):.0f} s", flush=True)
    return workdir


def held_out(scanner: Scanner, count: int, folder: Path) -> tuple[PreparedCase, ...]:
    """Returns phantoms by a scanner; the heads are the same for all."""
    write_brats_phantoms(folder, cases=count, seed=HELD_OUT_SEED, scanner=scanner)
    files = SOURCE.find(folder, MODALITIES, labels_required=True)
    return prepare(files, MODALITIES, label_scheme("brats"), cache=folder.parent / "cases")


def score(workdir: Path, cases: Sequence[PreparedCase]) -> list[float]:
    """Returns the Dice of each case, a mean over the regions."""
    (member,) = load([f"{workdir}:fusion"])
    predict, weights, found = case_predictor(member.system, member.phase), member.weights(), []
    for case in cases:
        outputs = predict(weights, case, Asked(labels=member.system.probabilities))
        (labels,) = label_maps(outputs, case.brain, ["S_F"]).values()
        sides = {"spacing_mm": case.facts.spacing_mm, "one_empty": np.nan}
        rows = score_case(labels, np.asarray(case.label), member.scheme, case=case.id, output="S_F", **sides)
        found.append(float(np.mean([row["dice"] for row in rows])))
    return found


def interval(differences: Sequence[float]) -> str:
    """Renders a mean and its 95 % interval by Student's t."""
    values = np.asarray(differences)
    if len(values) == 1:
        return f"{values[0]:+.3f}"
    half = stats.t.ppf(0.975, len(values) - 1) * values.std(ddof=1) / np.sqrt(len(values))
    return f"{values.mean():+.3f} [{values.mean() - half:+.3f}, {values.mean() + half:+.3f}]"


def table(scores: Mapping[str, Mapping[str, Sequence[Sequence[float]]]]) -> str:
    """Renders scores (row -> scanner -> seed -> case)."""
    lines = []
    for row, by_scanner in scores.items():
        line = {"Augmentation": row}
        for scanner, values in by_scanner.items():
            gain = np.asarray(values) - np.asarray(scores["none"][scanner])
            line[f"Dice, {scanner} scanner"] = spread(np.mean(values, axis=1).tolist())
            line[f"gain, {scanner}: over seeds"] = "" if row == "none" else interval(gain.mean(1))
            line[f"gain, {scanner}: over cases"] = "" if row == "none" else interval(gain.mean(0))
        lines.append(line)
    return render(lines, list(lines[0]))


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--seeds", type=int, nargs="+", default=[0, 1, 2])
    parser.add_argument("--rows", nargs="+", choices=ROWS, default=list(ROWS))
    parser.add_argument("--steps", type=int, default=STEPS)
    parser.add_argument("--cases", type=int, default=12, help="held-out phantoms")
    parser.add_argument("--folder", type=Path, default=REPOSITORY / "runs" / "augmentation")
    options = parser.parse_args()
    rows = list(dict.fromkeys(["none", *options.rows]))
    folder = options.folder.absolute()
    runs = {(row, seed): train(row, seed, options.steps, folder) for seed in options.seeds for row in rows}
    cases = {name: held_out(one, options.cases, folder / f"held-out-{name}") for name, one in SCANNERS.items()}
    scores = {
        row: {name: [score(runs[row, seed], found) for seed in options.seeds] for name, found in cases.items()}
        for row in rows
    }
    text = table(scores)
    (HERE / "table.md").write_text(text + "\n")
    asked = {"seeds": options.seeds, "steps": options.steps, "held_out_seed": HELD_OUT_SEED}
    write_json(HERE / "scores.json", {**asked, "rows": scores})
    print(text)


if __name__ == "__main__":
    main()
