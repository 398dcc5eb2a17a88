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
from jaxfuse.data.cases import encode_label, whole_values
from jaxfuse.data.phantom.brats import write_brats_phantoms
from jaxfuse.data.prepared import Prepared, PreparedCase
from jaxfuse.data.preprocess import uncrop
from jaxfuse.data.sources.brats import SOURCE
from jaxfuse.engine.trained.phases import TrainedPhase, load
from jaxfuse.engine.trained.segmenter import ensemble_of
from jaxfuse.inference.label_map import masked_labels
from jaxfuse.io.nifti import read_volume
from jaxfuse.io.tables import render, write_json
from jaxfuse.labels import LabelScheme
from jaxfuse.metrics.protocols import default_one_empty_mm
from jaxfuse.metrics.regions import score_case, summarize

HERE = Path(__file__).parent

SOURCES, TARGET = ("t1", "t2"), "flair"
REGIONS = ("WT", "TC", "ET", "mean")
CONFIGS = {"segmentation": "configs/cmff.py", "synthesis": "configs/hinet.py"}

Labels = dict[str, np.ndarray]  # class indices of the whole volume, by case


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


def prepared(root: Path, member: TrainedPhase, folder: Path) -> tuple[PreparedCase, ...]:
    """Prepares cases as the segmentation sees them."""
    modalities = member.data.modalities
    files = SOURCE.find(root, modalities, labels_required=True)
    return prepare(files, modalities, member.scheme, normalize=member.data.normalization, cache=folder / "cases")


def read_labels(folder: Path, cases: Sequence[PreparedCase], scheme: LabelScheme) -> Labels:
    """Reads label maps that a command has written, in the orientation of the prepared cases."""
    return {case.id: encode_label(whole_values(read_volume(folder / f"{case.id}.nii.gz")), scheme) for case in cases}


def labels_with(
    member: TrainedPhase, cases: Sequence[PreparedCase], instead: Callable[[np.ndarray, np.ndarray], np.ndarray]
) -> Labels:
    """Label maps with another image in the place of the target's: `instead` makes it of the image and the brain."""
    ensemble, place = ensemble_of([member]), member.data.modalities.index(TARGET)
    found = {}
    for case in cases:
        image, brain = np.array(case.image), np.zeros(case.facts.shape, bool)
        brain.flat[case.brain] = True
        image[..., place] = np.where(brain, instead(image, brain), 0)
        given = Prepared(case.facts, image, None, np.asarray(case.tumor), np.asarray(case.brain))
        found[case.id] = uncrop(masked_labels(ensemble.labels(given), given.brain), case, 0)
    return found


def linear(member: TrainedPhase, cases: Sequence[PreparedCase]) -> Callable[[np.ndarray, np.ndarray], np.ndarray]:
    """Fits a linear regression by voxel of the target; returns it normalized like a real image."""
    read = [member.data.modalities.index(name) for name in (*SOURCES, TARGET)]
    voxels = np.concatenate([np.asarray(case.image).reshape(-1, 4)[case.brain][:, read] for case in cases])
    weights = np.linalg.lstsq(voxels[:, :-1], voxels[:, -1], rcond=None)[0]

    def instead(image: np.ndarray, brain: np.ndarray) -> np.ndarray:
        made = image[..., read[:-1]] @ weights
        return (made - made[brain].mean()) / made[brain].std()

    return instead


def scored(found: Labels, cases: Sequence[PreparedCase], scheme: LabelScheme) -> dict[str, float]:
    """Mean Dice over the cases, by region."""
    rows = []
    for case in cases:
        rows += score_case(
            found[case.id],
            uncrop(np.asarray(case.label), case, 0),
            scheme,
            spacing_mm=case.facts.spacing_mm,
            one_empty=default_one_empty_mm(scheme),
            case=case.id,
            output="labels",
        )
    statistics = summarize(rows)["labels"]
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
    held_out = prepared(root, member, folder)
    seen = folder / "phantoms-seen"
    write_brats_phantoms(seen, cases=20, seed=0)
    regression = linear(member, prepared(seen, member, folder))
    found = {
        "real": read_labels(complete, held_out, member.scheme),
        "synthesized by Hi-Net": read_labels(imputed, held_out, member.scheme),
        "linear regression": labels_with(member, held_out, regression),
        "zero": labels_with(member, held_out, lambda image, brain: np.zeros(brain.shape)),
    }
    return {name: scored(labels, held_out, member.scheme) for name, labels in found.items()}


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
