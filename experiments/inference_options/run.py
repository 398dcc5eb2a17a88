"""Do Gaussian weights of tiles, more overlap and mirrored passes pay?

    python -m experiments.inference_options.run

trains CMFF from random weights (row "random" of `configs/cmff.py`, its default recipe; trainings are those of the row
"none" of `experiments.augmentation`) per seed, and HyperFusionNet on stroke slices (row "full_2d"); then labels
phantoms of a seed that no training has seen in every way. Tiles of HyperFusionNet say the same wherever they lie, so
that mirrors alone are asked of it. Writes table.md and scores.json beside this file: mean Dice and HD95 (stroke: HD) of
the regions, and their paired differences from the first way, that of the recipe, with 95 % intervals over cases, each a
mean over the seeds; the number of passes of the network, and the seconds of a case as a multiple of the first way's, by
turns in one process.

The rule was written before any held-out case was opened: an option becomes a default where the interval of its gain in
Dice lies above 0 in each recipe that it means something to, and no distance grows beyond its interval; mirrors, which
take 4 or 8 times as long, only where the gain is 0.005 at least.
"""

from __future__ import annotations

import argparse
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from experiments.augmentation.run import interval
from experiments.augmentation.run import train as train_cmff
from experiments.shared import REPOSITORY, spread, train_once
from jaxfuse.data.cases import load_case
from jaxfuse.data.phantom.brats import write_brats_phantoms
from jaxfuse.data.phantom.stroke import write_stroke_phantoms
from jaxfuse.data.prepared import Prepared
from jaxfuse.data.sources.case_folders import files_of
from jaxfuse.data.sources.volumes import volume_root
from jaxfuse.engine.run_folder.workdir import compilation_cache
from jaxfuse.engine.trained.passes import Passes
from jaxfuse.engine.trained.phases import TrainedPhase, load
from jaxfuse.engine.trained.segmenter import ensemble_of
from jaxfuse.inference.label_map import masked_labels
from jaxfuse.inference.mirrors import asked_axes
from jaxfuse.io.tables import read_json, render, write_json
from jaxfuse.metrics.regions import score_case
from jaxfuse.patches import output_sides, tile_volume
from jaxfuse.prediction.ensemble import Ensemble

HERE = Path(__file__).parent
HELD_OUT_SEED = 30_117
STEPS = 800
ROUNDS = 2


@dataclass(frozen=True)
class Recipe:
    """A training, the phantoms that it is scored on, the ways in which it labels them, and the scores."""

    train: Callable[[int, Path], Path]
    phantoms: Callable[..., Any]
    ways: Mapping[str, Passes]
    scores: tuple[str, ...]


def train_stroke(seed: int, folder: Path) -> Path:
    workdir = folder / f"hyperfusion-stroke-2d-seed{seed}"
    took = train_once("configs/hyperfusion.py:,data=stroke,row=full_2d", workdir, f"--config.seed={seed}")
    print(f"HyperFusionNet, seed {seed}: {took:.0f} s", flush=True)
    return workdir


RECIPES = {
    "cmff": Recipe(
        lambda seed, folder: train_cmff("none", seed, STEPS, folder),
        write_brats_phantoms,
        {
            "overlap 0.25": Passes(overlap=0.25, weighting="equal", mirror="none"),
            "overlap 0.25, gaussian": Passes(overlap=0.25, weighting="gaussian", mirror="none"),
            "overlap 0.5": Passes(overlap=0.5, weighting="equal", mirror="none"),
            "overlap 0.5, gaussian": Passes(overlap=0.5, weighting="gaussian", mirror="none"),
            "overlap 0.25, mirrored left to right": Passes(overlap=0.25, weighting="equal", mirror="0"),
            "overlap 0.25, mirrored along all axes": Passes(overlap=0.25, weighting="equal", mirror="all"),
            "overlap 0.25, gaussian, mirrored along all axes": Passes(overlap=0.25, weighting="gaussian", mirror="all"),
        },
        ("dice", "hd95_mm"),
    ),
    "stroke": Recipe(
        train_stroke,
        write_stroke_phantoms,
        {
            "no mirrors": Passes(mirror="none"),
            "mirrored left to right": Passes(mirror="0"),
            "mirrored along both axes": Passes(mirror="all"),
        },
        ("dice", "hd_mm"),
    ),
}


def held_out(member: TrainedPhase, folder: Path) -> list[Prepared]:
    """Returns the cases of a folder as the phase was trained on them."""
    preparation = member.preparation
    found = volume_root(folder, source=member.data.source).look(preparation.modalities)
    files = [files_of(one, labels_required=True) for one in found]
    return [preparation.prepare(load_case(one, preparation.modalities, member.scheme)) for one in files]


def score(ensemble: Ensemble, member: TrainedPhase, case: Prepared, names: Sequence[str]) -> list[float]:
    """Returns the scores of a case, each a mean over the regions; a distance to nothing is left out."""
    labels, truth = ensemble.labels(case), np.asarray(case.label)
    labels = masked_labels(labels, case.brain) if member.phase.mask_to_brain else labels
    sides = {"spacing_mm": case.facts.spacing_mm, "one_empty": np.nan}
    rows = score_case(labels, truth, member.scheme, case=case.facts.id, output="", **sides)
    return [float(np.nanmean([row[name] for row in rows])) for name in names]


def passes_of(member: TrainedPhase, way: Passes, case: Prepared) -> int:
    """Counts the passes of the network over a case."""
    geometry, filled = member.system.geometry, way.filled(member.phase)
    tile, margin = output_sides(member.phase.patch, geometry.margin), (geometry.margin,) * geometry.ndim
    # Heads and slices of one size: the axes of a picture are those of an axial slice.
    sides = case.facts.shape if geometry.ndim == 3 else (case.facts.shape[1], case.facts.shape[0])
    tiles = len(tile_volume(sides, tile, overlap=filled.overlap or 0.0, margin=margin))
    slices = 1 if geometry.ndim == 3 else case.facts.shape[2]
    return tiles * slices * 2 ** min(geometry.ndim, len(asked_axes("mirror", filled.mirror or "none")))


def seconds(ensembles: Mapping[str, Ensemble], case: Prepared) -> dict[str, float]:
    """Returns the least seconds of each way over some rounds, by turns; all programs are compiled."""
    found = {name: float("inf") for name in ensembles}
    for _ in range(ROUNDS):
        for name, ensemble in ensembles.items():
            started = time.perf_counter()
            ensemble.labels(case)
            found[name] = min(found[name], time.perf_counter() - started)
    return found


def table(recipe: Recipe, scores: np.ndarray, passes: Sequence[int], taken: Sequence[float]) -> str:
    """Renders scores (ways, seeds, cases, names)."""
    lines = []
    for number, name in enumerate(recipe.ways):
        line = {"Way": name}
        for place, score in enumerate(recipe.scores):
            gain = (scores[number] - scores[0])[..., place].mean(0)
            line[score] = spread(np.nanmean(scores[number, ..., place], axis=1).tolist())
            line[f"{score}, difference"] = "" if number == 0 else interval(gain[np.isfinite(gain)].tolist())
        line |= {"passes": f"{passes[number] / passes[0]:.2f}", "seconds": f"{taken[number] / taken[0]:.2f}"}
        lines.append(line)
    return render(lines, list(lines[0]))


def examine(name: str, seeds: Sequence[int], cases: int, folder: Path) -> tuple[str, dict[str, Any]]:
    """Trains and scores one recipe; returns its table, and its figures. What was scored is not scored again."""
    recipe, held = RECIPES[name], folder / f"held-out-ways-{name}"
    runs = [recipe.train(seed, folder) for seed in seeds]
    recipe.phantoms(held, cases=cases, seed=HELD_OUT_SEED)
    found = [scored(recipe, run, held, folder / f"ways-{run.name}-{cases}.json") for run in runs]
    scores = np.moveaxis(np.array([one["scores"] for one in found]), 0, 1)
    least = np.min([one["seconds"] for one in found], axis=0).tolist()
    figures = {"ways": list(recipe.ways), "scores": scores.tolist(), "passes": found[0]["passes"], "seconds": least}
    return table(recipe, scores, figures["passes"], least), figures


def scored(recipe: Recipe, run: Path, held: Path, kept: Path) -> dict[str, Any]:
    """Returns scores (ways, cases, names), passes and seconds by way of one training."""
    if not kept.is_file():
        (member,) = load([str(run)])
        given = held_out(member, held)
        ensembles = {way: ensemble_of([member], passes=one) for way, one in recipe.ways.items()}
        scores = [[score(one, member, case, recipe.scores) for case in given] for one in ensembles.values()]
        passes = [sum(passes_of(member, one, case) for case in given) for one in recipe.ways.values()]
        taken = list(seconds(ensembles, given[0]).values())
        write_json(kept, {"scores": scores, "passes": passes, "seconds": taken})
        print(f"{run.name} is scored", flush=True)
    return read_json(kept)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--seeds", type=int, nargs="+", default=[0, 1, 2])
    parser.add_argument("--recipes", nargs="+", choices=RECIPES, default=list(RECIPES))
    parser.add_argument("--cases", type=int, default=8, help="held-out phantoms")
    parser.add_argument("--folder", type=Path, default=REPOSITORY / "runs" / "augmentation")
    options = parser.parse_args()
    compilation_cache(options.folder.absolute() / "cache")
    found = {name: examine(name, options.seeds, options.cases, options.folder.absolute()) for name in options.recipes}
    text = "\n\n".join(f"### {name}\n\n{one}" for name, (one, _) in found.items())
    (HERE / "table.md").write_text(text + "\n")
    asked = {"seeds": options.seeds, "held_out_seed": HELD_OUT_SEED, "cases": options.cases}
    write_json(HERE / "scores.json", {**asked, **{name: figures for name, (_, figures) in found.items()}})
    print(text)


if __name__ == "__main__":
    main()
