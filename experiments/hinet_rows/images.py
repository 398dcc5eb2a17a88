"""FLAIR of T1 and T2 by whatever means, and how near to the real one it comes."""

from __future__ import annotations

import functools
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import replace
from pathlib import Path

import numpy as np

from configs import hinet
from experiments.shared import spread
from jaxfuse.data.cache import prepare
from jaxfuse.data.intensities import NORMALIZATIONS
from jaxfuse.data.phantom.brats import write_brats_phantoms
from jaxfuse.data.prepared import PreparedCase
from jaxfuse.data.sources.brats import SOURCE
from jaxfuse.engine.trained.phases import load
from jaxfuse.engine.trained.predictor import case_predictor
from jaxfuse.inference.tiling import Asked
from jaxfuse.io.tables import render
from jaxfuse.learning.system import SYNTHESIZED
from jaxfuse.metrics.synthesis import apply_linear, fit_linear, score_synthesized

SOURCES, TARGET = ("t1", "t2"), "flair"
MODALITIES = ("t1", "t1ce", "t2", "flair")
METRICS = {"psnr_db": "PSNR (dB)", "nmse": "NMSE", "ssim": "SSIM"}
Make = Callable[[PreparedCase], np.ndarray]  # the target, by whatever means
Made = dict[str, np.ndarray]  # by case


def phantoms(folder: Path, cases: int, seed: int) -> tuple[PreparedCase, ...]:
    """Reads phantoms as volumes, prepared as in the recipe."""
    phantom, root = hinet.SIZES[""].phantom, folder / f"phantoms-{cases}-seed{seed}"
    write_brats_phantoms(root, cases=cases, seed=seed, shape=phantom["shape"], spacing_mm=phantom["spacing_mm"])
    files = SOURCE.find(root, MODALITIES, labels_required=False)
    return prepare(files, MODALITIES, None, normalize=NORMALIZATIONS["minmax"], cache=folder / "cases")


def image(case: PreparedCase, modality: str) -> np.ndarray:
    return np.asarray(case.image)[..., case.facts.modalities.index(modality)]


def sources(case: PreparedCase) -> np.ndarray:
    return np.stack([image(case, name) for name in SOURCES], axis=-1)


def made_of(make: Make, case: PreparedCase) -> np.ndarray:
    """Returns the target by `make`, within the range of images and the brain, as a run writes it."""
    inside = np.any(sources(case) != 0, axis=-1)
    return np.where(inside, np.clip(make(case), 0, 1), 0)


def judged(make: Make, cases: Sequence[PreparedCase]) -> tuple[dict[str, float], Made]:
    """Means over the cases, as a run judges its own, and the images."""
    made = {case.id: made_of(make, case) for case in cases}
    rows = [score_synthesized(image(case, TARGET), made[case.id]) for case in cases]
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


def table(scores: Mapping[str, Sequence[Mapping[str, float]]]) -> str:
    """Renders means over cases, by image and seed."""
    lines = [
        {
            "Image": name,
            **{title: spread([one[m] for one in found], 2 if m == "psnr_db" else 4) for m, title in METRICS.items()},
        }
        for name, found in scores.items()
    ]
    return render(lines, list(lines[0]))
