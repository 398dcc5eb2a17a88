"""python -m experiments.throughput.scoring [--rounds 3] [--cases 20]

Times the scores of one made glioma case of 240 x 240 x 155 voxels, three regions, on one core: by the protocols brats
and brats2023, and, where MedPy is installed (extra `oracle`), by MedPy's functions for what it has of them (Dice, IoU,
sensitivity, specificity, HD95, ASD), by turns in one process. Prints seconds, best of the rounds, and their ratio.

With --cases so many such cases lie as files in a folder, and `evaluate --protocol brats2023` scores them by one process
and by one for each core, by turns; the ratio is that of the best rounds.
"""

from __future__ import annotations

import argparse
import math
import tempfile
import time
from collections.abc import Callable, Mapping
from functools import partial
from pathlib import Path
from typing import Any

import nibabel as nib
import numpy as np
from scipy.ndimage import gaussian_filter

from jaxfuse.labels import LabelScheme, label_scheme
from jaxfuse.metrics.protocols import BRATS, BRATS2023, LabelProtocol
from jaxfuse.metrics.regions import score_case
from jaxfuse.scoring.labels import score_labels
from jaxfuse.scoring.protocol import Call
from jaxfuse.workers import cores

SHAPE = (240, 240, 155)
SPACING_MM = (1.0, 1.0, 1.0)
# Centers and half axes in voxels: a large tumor and three satellites.
TUMORS = (
    ((100, 110, 80), (32, 28, 26)),
    ((60, 170, 60), (6, 6, 5)),
    ((170, 60, 100), (6, 6, 5)),
    ((150, 150, 40), (6, 6, 5)),
)
Labels = np.ndarray


def case(shift: int) -> Labels:
    """Returns class indices of tumors with rough borders, moved by some voxels along the first axis."""
    rough = gaussian_filter(np.random.default_rng(0).standard_normal(SHAPE), 3)
    rough *= 0.15 / rough.std()
    labels = np.zeros(SHAPE, np.uint8)
    for center, half in TUMORS:
        away = sum(
            ((axis - at) / side) ** 2
            for axis, at, side in zip(
                np.ogrid[[slice(n) for n in SHAPE]], (center[0] + shift, *center[1:]), half, strict=True
            )
        )
        for within, label in ((1.0, 2), (0.5, 3), (0.2, 1)):
            labels[away + rough < within] = label
    return labels


def by_protocol(protocol: LabelProtocol, scheme: LabelScheme, pred: Labels, truth: Labels) -> None:
    score_case(
        pred, truth, scheme, spacing_mm=SPACING_MM, one_empty=374.0, case="a", output="prediction", protocol=protocol
    )


def by_medpy(functions: Any, scheme: LabelScheme, pred: Labels, truth: Labels) -> None:
    for classes in scheme.regions.values():
        first, second = np.isin(pred, list(classes)), np.isin(truth, list(classes))
        for name in ("dc", "jc", "sensitivity", "specificity", "hd95", "asd"):
            getattr(functions, name)(first, second)


def by_processes(cases: int, rounds: int) -> None:
    """Scores cases on disk by one process and by one for each core, and prints the seconds and their ratio."""
    with tempfile.TemporaryDirectory() as folder:
        root = Path(folder)
        for number in range(cases):
            for name, shift in (("ref", number % 5), ("pred", number % 5 + 2)):
                (root / name).mkdir(exist_ok=True)
                volume = nib.Nifti1Image(case(shift), np.eye(4))
                volume.to_filename(root / name / f"c{number:02d}.nii.gz")
        best: dict[int, float] = {}
        for count in [count for _ in range(rounds) for count in (1, cores())]:
            options: dict[str, Any] = {"protocol": BRATS2023, "labels": "brats2023", "one_empty": None}
            begun = time.perf_counter()
            score_labels(root / "pred", root / "ref", root / f"out{count}", Call(processes=count), **options)
            best[count] = min(best.get(count, math.inf), time.perf_counter() - begun)
        for count, seconds in best.items():
            print(f"{cases} cases, {count} processes: {seconds:.1f} s, {best[1] / seconds:.2f} times the rate of one")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--cases", type=int, default=0)
    asked = parser.parse_args()
    if asked.cases:
        by_processes(asked.cases, asked.rounds)
        return
    rounds = asked.rounds
    scheme, pred, truth = label_scheme("brats2023"), case(2), case(0)
    pred[200:203, 20:23, 20:23] = 3
    ways: dict[str, Callable[..., None]] = {one.name: partial(by_protocol, one) for one in (BRATS, BRATS2023)}
    try:
        from medpy.metric import binary

        ways["MedPy"] = partial(by_medpy, binary)
    except ImportError:
        print("MedPy is not installed; pip install -e '.[oracle]' to compare")
    best: Mapping[str, float] = dict.fromkeys(ways, float("inf"))
    for _ in range(rounds):
        for name, score in ways.items():
            begun = time.perf_counter()
            score(scheme, pred, truth)
            best = {**best, name: min(best[name], time.perf_counter() - begun)}
    for name, seconds in best.items():
        print(
            f"{name}: {seconds:.2f} s"
            + (f", {best['MedPy'] / seconds:.1f} times MedPy's rate" if "MedPy" in best else "")
        )


if __name__ == "__main__":
    main()
