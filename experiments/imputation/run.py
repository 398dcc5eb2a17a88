"""Segmentation of cases that lack FLAIR: how much of what is lost does a synthesized one bring back? On phantoms.

    python -m experiments.imputation.run

Trains CMFF (by its longer recipe) and Hi-Net on the same phantoms, then labels phantoms of a seed that no training
has seen: with all four modalities; without FLAIR, by `jaxfuse.impute`; and with two things in its place that need no
network, a linear regression by voxel from T1 and T2, and nothing (0, the mean of the brain after normalization).
Writes table.md and scores.json beside this file. Finished trainings are not repeated.
"""

from __future__ import annotations

import argparse
import shutil
from collections.abc import Callable, Sequence
from pathlib import Path

import numpy as np

from experiments.cmff_rows.run import recipe_options
from experiments.shared import HELD_OUT_SEED, REPOSITORY, command, spread, train_once
from jaxfuse.data.cache import prepare
from jaxfuse.data.cases import CaseFiles
from jaxfuse.data.phantom.brats import write_brats_phantoms
from jaxfuse.data.prepared import Prepared, PreparedCase
from jaxfuse.data.sources.brats import SOURCE
from jaxfuse.engine.trained.phases import TrainedPhase, load
from jaxfuse.engine.trained.segmenter import ensemble_of
from jaxfuse.inference.label_map import masked_labels
from jaxfuse.io.tables import read_json, render, write_json
from jaxfuse.prediction.labeler import write_labels

HERE = Path(__file__).parent

SOURCES, TARGET = ("t1", "t2"), "flair"
REGIONS = ("WT", "TC", "ET", "mean")
CONFIGS = {"segmentation": "configs/cmff.py", "synthesis": "configs/hinet.py"}


def train(name: str, seed: int, folder: Path) -> Path:
    workdir = folder / f"{name}-seed{seed}"
    options = recipe_options("longer", "ours") if name == "segmentation" else ()
    took = train_once(CONFIGS[name], workdir, f"--config.seed={seed}", *options)
    print(f"{workdir.name}: {took:.0f} s", flush=True)
    return workdir


def without_target(root: Path, copy: Path) -> Path:
    """Removes the file of the target from each case."""
    shutil.copytree(root, copy, ignore=shutil.ignore_patterns(f"*_{TARGET}.nii.gz"), dirs_exist_ok=True)
    return copy


def found_in(root: Path, member: TrainedPhase) -> Sequence[CaseFiles]:
    """Finds the files of the cases."""
    return SOURCE.find(root, member.data.modalities, labels_required=True)


def prepared(root: Path, member: TrainedPhase, folder: Path) -> tuple[PreparedCase, ...]:
    """Prepares cases as the segmentation sees them."""
    files, modalities = found_in(root, member), member.data.modalities
    return prepare(files, modalities, member.scheme, normalize=member.data.normalization, cache=folder / "cases")


def label_with(
    member: TrainedPhase, root: Path, folder: Path, instead: Callable[[np.ndarray, np.ndarray], np.ndarray], out: Path
) -> Path:
    """Writes label maps with another image in the place of the target's: `instead` makes it of image and brain."""
    ensemble, place = ensemble_of([member]), member.data.modalities.index(TARGET)
    files = {one.id: one for one in found_in(root, member)}
    for case in prepared(root, member, folder):
        image, brain = np.array(case.image), np.zeros(case.facts.shape, bool)
        brain.flat[case.brain] = True
        image[..., place] = np.where(brain, instead(image, brain), 0)
        given = Prepared(case.facts, image, None, np.asarray(case.tumor), np.asarray(case.brain))
        labels = masked_labels(ensemble.labels(given), given.brain)
        like = files[case.id].images[member.data.modalities[0]]
        write_labels(out / f"{case.id}.nii.gz", labels, given, member.scheme, like=like)
    return out


def linear(member: TrainedPhase, cases: Sequence[PreparedCase]) -> Callable[[np.ndarray, np.ndarray], np.ndarray]:
    """Fits a linear regression by voxel of the target; returns it normalized like a real image."""
    read = [member.data.modalities.index(name) for name in (*SOURCES, TARGET)]
    voxels = np.concatenate([np.asarray(case.image).reshape(-1, 4)[case.brain][:, read] for case in cases])
    weights = np.linalg.lstsq(voxels[:, :-1], voxels[:, -1], rcond=None)[0]

    def instead(image: np.ndarray, brain: np.ndarray) -> np.ndarray:
        made = image[..., read[:-1]] @ weights
        return (made - made[brain].mean()) / made[brain].std()

    return instead


def scored(labels: Path, root: Path) -> dict[str, float]:
    """Mean Dice over the cases, by region, as `jaxfuse.evaluate` scores them."""
    out = labels.with_name(f"{labels.name}-scores")
    folders = (f"--pred={labels}", f"--ref={root}", f"--out={out}")
    # Beside label maps `impute` writes the volumes that it made, of which there is no reference.
    command("evaluate", *folders, "--protocol=brats", "--pictures=0", "--allow_missing")
    summary = read_json(out / "summary.json")
    if lacking := summary["without_prediction"]:
        raise ValueError(f"there is no label map of {', '.join(lacking)} in {labels}")
    statistics = summary["outputs"]["prediction"]
    return {region: statistics[region]["dice"]["mean"] for region in REGIONS}


def measure(seed: int, cases: int, folder: Path) -> dict[str, dict[str, float]]:
    """Measures Dice for each image that stands in for the target."""
    segmentation, synthesis = (train(name, seed, folder) for name in ("segmentation", "synthesis"))
    root = folder / f"phantoms-{cases}"
    write_brats_phantoms(root, cases=cases, seed=HELD_OUT_SEED)
    lacking = without_target(root, folder / f"phantoms-{cases}-without-{TARGET}")
    complete, imputed = folder / f"complete-seed{seed}", folder / f"imputed-seed{seed}"
    command("predict", f"--workdir={segmentation}", f"--input={root}", f"--output={complete}")
    runs = (f"--synthesis={synthesis}", f"--segmentation={segmentation}")
    command("impute", *runs, f"--input={lacking}", f"--output={imputed}")
    (member,) = load([str(segmentation)])
    seen = folder / "phantoms-seen"
    write_brats_phantoms(seen, cases=20, seed=0)
    regression = linear(member, prepared(seen, member, folder))
    instead = {"linear regression": regression, "zero": lambda image, brain: np.zeros(brain.shape)}
    found = {"real": complete, "synthesized by Hi-Net": imputed} | {
        name: label_with(member, root, folder, made, folder / f"{name.split()[0]}-seed{seed}")
        for name, made in instead.items()
    }
    return {name: scored(labels, root) for name, labels in found.items()}


def table(scores: dict[str, list[dict[str, float]]]) -> str:
    """Renders Dice by region, and the loss against the mean of the complete case."""
    complete = np.mean([one["mean"] for one in scores["real"]])
    lines = []
    for name, found in scores.items():
        line = {"FLAIR": name}
        for region in REGIONS:
            line[f"Dice {region}"] = spread([one[region] for one in found])
        line["below real"] = f"{complete - np.mean([one['mean'] for one in found]):.3f}"
        lines.append(line)
    return render(lines, list(lines[0]))


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--seeds", type=int, nargs="+", default=[0, 1, 2])
    parser.add_argument("--cases", type=int, default=12, help="held-out phantoms")
    parser.add_argument("--folder", type=Path, default=REPOSITORY / "runs" / "imputation")
    options = parser.parse_args()
    folder = options.folder.absolute()
    found = [measure(seed, options.cases, folder) for seed in options.seeds]
    scores = {name: [one[name] for one in found] for name in found[0]}
    write_json(HERE / "scores.json", {"seeds": options.seeds, "cases": options.cases, "flair": scores})
    text = table(scores)
    told = f"CMFF on {options.cases} held-out phantoms, seeds {options.seeds}."
    (HERE / "table.md").write_text(f"# A missing FLAIR on phantoms\n\n{told}\n\n{text}\n")
    print(text)


if __name__ == "__main__":
    main()
