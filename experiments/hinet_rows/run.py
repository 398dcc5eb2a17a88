"""Does Hi-Net beat what needs no network, and its own ablations? On phantoms.

    python -m experiments.hinet_rows.run

Per seed and row: trains by the command that a user would run, then makes FLAIR of T1 and T2 for phantoms of a seed
that no training has seen. Beside the rows: each source in place of the target, a linear regression by voxel fitted on
the training phantoms, and the "noise ceiling", the same phantoms without noise, which no network reaches: nothing in
the sources tells the target's gain and sensitivity. Writes table.md, scores.json and a panel beside this file. Finished
trainings are not repeated.
"""

from __future__ import annotations

import argparse
import functools
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import replace
from pathlib import Path

import numpy as np

from configs import hinet
from experiments.shared import HELD_OUT_SEED, spread, train_all, train_once
from jaxfuse.data.cache import prepare
from jaxfuse.data.intensities import NORMALIZATIONS, stored_range
from jaxfuse.data.phantom.brats import is_low_grade, make_case, write_brats_phantoms
from jaxfuse.data.prepared import PreparedCase
from jaxfuse.data.sources.brats import SOURCE
from jaxfuse.engine.trained.phases import load
from jaxfuse.engine.trained.predictor import case_predictor
from jaxfuse.inference.tiling import Asked
from jaxfuse.io.tables import render, write_json
from jaxfuse.learning.system import SYNTHESIZED
from jaxfuse.metrics.synthesis import apply_linear, fit_linear, score_synthesized
from jaxfuse.report.synthesis import synthesis_panel

HERE = Path(__file__).parent

SOURCES, TARGET = ("t1", "t2"), "flair"
MODALITIES = ("t1", "t1ce", "t2", "flair")
ROWS = ("full", "degraded1", "degraded2", "degraded3", "early", "late")
FURTHER = ("pix2pix", "pix2pix_second", "cyclegan", "cyclegan_second", "mmsyns")
HELD_OUT = 8
METRICS = {"psnr_db": "PSNR (dB)", "nmse": "NMSE", "ssim": "SSIM"}


def train(row: str, seed: int, folder: Path) -> float:
    options = (f"--config.seed={seed}", "--config.synthesis.validation.every=0")
    return train_once(f"configs/hinet.py:,row={row}", folder / f"{row}-seed{seed}", *options)


def phantoms(folder: Path, cases: int, seed: int) -> tuple[PreparedCase, ...]:
    """Reads phantoms as volumes, prepared as in the recipe."""
    phantom, root = hinet.SIZES[""].phantom, folder / f"phantoms-{cases}-seed{seed}"
    write_brats_phantoms(root, cases=cases, seed=seed, shape=phantom["shape"], spacing_mm=phantom["spacing_mm"])
    files = SOURCE.find(root, MODALITIES, labels_required=False)
    return prepare(files, MODALITIES, None, normalize=NORMALIZATIONS["minmax"], cache=folder / "cases")


Make = Callable[[PreparedCase], np.ndarray]  # the target, by whatever means
Made = dict[str, np.ndarray]  # by case


def image(case: PreparedCase, modality: str) -> np.ndarray:
    return np.asarray(case.image)[..., case.facts.modalities.index(modality)]


def sources(case: PreparedCase) -> np.ndarray:
    return np.stack([image(case, name) for name in SOURCES], axis=-1)


def judged(make: Make, cases: Sequence[PreparedCase]) -> tuple[dict[str, float], Made]:
    """Means over the cases, as a run judges its own, and the images."""
    made: Made = {}
    rows = []
    for case in cases:
        inside = np.any(sources(case) != 0, axis=-1)
        made[case.id] = np.where(inside, np.clip(make(case), 0, 1), 0)
        rows.append(score_synthesized(image(case, TARGET), made[case.id]))
    return {metric: float(np.mean([row[metric] for row in rows])) for metric in METRICS}, made


def copies() -> dict[str, Make]:
    """Each source in place of the target."""
    return {f"copy of {name}": functools.partial(image, modality=name) for name in SOURCES}


def network(workdir: Path, patch: tuple[int, int] | None = None) -> Make:
    """Images that a run makes, in patches of its training or of another size."""
    (trained,) = load([str(workdir)])
    phase = replace(trained.phase, patch=patch or trained.phase.patch)
    predictor, weights = case_predictor(trained.system, phase), trained.weights()
    return lambda case: predictor(weights, case, Asked(values=(SYNTHESIZED,)))[SYNTHESIZED][..., 0]


def linear(cases: Iterable[PreparedCase]) -> Make:
    """A regression by voxel, fitted on these cases."""
    weights = fit_linear((sources(case), image(case, TARGET)) for case in cases)
    return lambda case: apply_linear(weights, sources(case))


def without_noise(case: PreparedCase) -> np.ndarray:
    """Makes the target of the same phantom without noise, in the gray levels of the noisy one."""
    phantom, index = hinet.SIZES[""].phantom, int(case.id.split("_")[2])
    clean, _ = make_case(
        HELD_OUT_SEED,
        index,
        shape=phantom["shape"],
        spacing_mm=phantom["spacing_mm"],
        low_grade=is_low_grade(index, 0.2),
        noise=False,
    )
    low, high = stored_range(case.facts, TARGET)
    # Phantoms lie in LPS, prepared cases in RAS.
    volume = clean[TARGET][::-1, ::-1]
    box = tuple(slice(a, a + n) for a, n in zip(case.facts.crop_start, case.facts.shape, strict=True))
    return (volume[box] - low) / (high - low)


def table(scores: dict[str, list[dict[str, float]]]) -> str:
    lines = [
        {
            "Image": name,
            **{title: spread([one[m] for one in found], 2 if m == "psnr_db" else 4) for m, title in METRICS.items()},
        }
        for name, found in scores.items()
    ]
    return render(lines, list(lines[0]))


def draw(case: PreparedCase, made: Mapping[str, Mapping[str, np.ndarray]]) -> None:
    """Draws one case as every row makes it; `made` is by row and case id."""
    synthesis_panel(
        HERE / "panel.png",
        sources={name: image(case, name) for name in SOURCES},
        made={name: images[case.id] for name, images in made.items()},
        truth=image(case, TARGET),
        target=TARGET,
        title=f"{TARGET} from {' and '.join(SOURCES)}, phantom of seed {HELD_OUT_SEED}",
        spacing_mm=case.facts.spacing_mm,
        label=None,
    )


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--seeds", type=int, nargs="+", default=[0, 1, 2])
    parser.add_argument("--rows", nargs="+", default=list(ROWS), choices=(*ROWS, *FURTHER))
    parser.add_argument("--folder", type=Path, default=Path("runs") / "hinet_rows", help="trainings and phantoms")
    parser.add_argument("--together", type=int, default=1, help="trainings at a time")
    options = parser.parse_args()
    folder = options.folder.absolute()
    folder.mkdir(parents=True, exist_ok=True)
    jobs = [(row, seed) for seed in options.seeds for row in options.rows]
    named = {f"{row}-seed{seed}": functools.partial(train, row, seed, folder) for row, seed in jobs}
    seconds = train_all(named, options.together)
    cases = phantoms(folder, HELD_OUT, HELD_OUT_SEED)
    # All phantoms that the recipe has, its validation cases included.
    seen = phantoms(folder, hinet.SIZES[""].phantom["cases"], seed=0)
    trivial = {**copies(), "linear regression": linear(seen), "noise ceiling": without_noise}
    scores, shown = {}, {}
    for name, make in trivial.items():
        found, shown[name] = judged(make, cases)
        scores[name] = [found]
    for row in options.rows:
        scores[row] = []
        for seed in options.seeds:
            found, made = judged(network(folder / f"{row}-seed{seed}"), cases)
            scores[row].append(found)
            shown.setdefault(row, made)
        print(f"{row}: scored", flush=True)
    draw(cases[0], {name: shown[name] for name in ("linear regression", *options.rows)})
    write_json(
        HERE / "scores.json", {"seeds": options.seeds, "cases": HELD_OUT, "images": scores, "training_s": seconds}
    )
    text = table(scores)
    (HERE / "table.md").write_text(
        f"# Hi-Net on held-out phantoms\n\nSeeds {options.seeds}; see README.md.\n\n{text}\n"
    )
    print(text)


if __name__ == "__main__":
    main()
