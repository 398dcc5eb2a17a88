"""How well does one threshold on one modality find the tumor in the phantoms?

    python experiments/phantom_thresholds.py

Draws phantom gliomas and looks, for each region (WT, TC, ET) and each modality (z-scored over the non-zero
voxels of the case), for the one threshold, above or below, that gives the best mean Dice per case over all
cases. The threshold is chosen on the same cases that it is scored on, so the score is an upper bound for this
predictor; a network has to come out clearly above it for the phantoms to be worth training on. ET is scored
over the cases that have any.
"""

from __future__ import annotations

import argparse
import json
import sys
from pathlib import Path
from typing import Any

import numpy as np

from jaxfuse.data.phantom.brats import MODALITIES, VERSION, is_low_grade, make_case
from jaxfuse.labels import label_scheme

# Thresholds tried: multiples of 0.01 standard deviations.
EDGES = np.round(np.arange(-6.0, 12.005, 0.01), 2)


def dice_by_threshold(score: np.ndarray, truth: np.ndarray, *, above: bool) -> np.ndarray:
    """Dice of `score >= edge` (or `score < edge`) with a boolean truth that is not empty, for every edge of EDGES."""
    place = np.digitize(score, EDGES)
    count = np.bincount(place, minlength=len(EDGES) + 1)
    hit = np.bincount(place[truth], minlength=len(EDGES) + 1)
    # digitize puts x into bin i where EDGES[i-1] <= x < EDGES[i]: what lies below EDGES[i] is the sum of bins 0..i.
    predicted, true_positive = np.cumsum(count)[:-1], np.cumsum(hit)[:-1]
    if above:
        predicted, true_positive = count.sum() - predicted, hit.sum() - true_positive
    return 2 * true_positive / (predicted + truth.sum())


def best_thresholds(cases: list[tuple[dict[str, np.ndarray], np.ndarray]]) -> list[dict[str, Any]]:
    """One row per region and modality: the best threshold, its direction and the mean Dice per case."""
    scheme = label_scheme("brats")
    rows = []
    for region, classes in scheme.regions.items():
        values = [scheme.decode[c] for c in classes]
        for modality in MODALITIES:
            curves: dict[bool, list[np.ndarray]] = {True: [], False: []}
            for images, label in cases:
                brain = images[modality] != 0
                truth = np.isin(label[brain], values)
                if not truth.any():
                    continue
                voxels = images[modality][brain]
                score = (voxels - voxels.mean()) / voxels.std()
                for above, curve in curves.items():
                    curve.append(dice_by_threshold(score, truth, above=above))
            means = {above: np.mean(curve, axis=0) for above, curve in curves.items()}
            above = bool(means[True].max() >= means[False].max())
            best = int(np.argmax(means[above]))
            rows.append(
                {
                    "region": region,
                    "modality": modality,
                    "direction": "above" if above else "below",
                    "threshold_z": float(EDGES[best]),
                    "dice": round(float(means[above][best]), 4),
                    "cases": len(curves[above]),
                }
            )
    return rows


def main(argv: list[str]) -> None:
    parser = argparse.ArgumentParser(description="Best single-modality thresholds on the phantom gliomas.")
    parser.add_argument("--cases", type=int, default=16)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--shape", type=int, nargs=3, default=(64, 64, 48))
    parser.add_argument("--spacing_mm", type=float, default=3.0)
    parser.add_argument("--low_grade_fraction", type=float, default=0.2)
    parser.add_argument("--out", type=Path, default=Path(__file__).with_suffix(".json"))
    args = parser.parse_args(argv)
    cases = [
        make_case(
            args.seed,
            index,
            shape=tuple(args.shape),
            spacing_mm=args.spacing_mm,
            low_grade=is_low_grade(index, args.low_grade_fraction),
        )
        for index in range(args.cases)
    ]
    rows = best_thresholds(cases)
    print(f"{'region':8}{'modality':10}{'direction':11}{'threshold z':>12}{'mean Dice':>11}{'cases':>7}")
    for r in rows:
        print(
            f"{r['region']:8}{r['modality']:10}{r['direction']:11}"
            f"{r['threshold_z']:12.2f}{r['dice']:11.3f}{r['cases']:7d}"
        )
    record = {
        "command": " ".join(["python experiments/phantom_thresholds.py", *argv]),
        "generator": {"module": "jaxfuse.data.phantom.brats", "version": VERSION},
        "arguments": {k: list(v) if isinstance(v, (list, tuple)) else v for k, v in vars(args).items() if k != "out"},
        "best_per_region": {
            region: max((r for r in rows if r["region"] == region), key=lambda r: r["dice"])["dice"]
            for region in dict.fromkeys(r["region"] for r in rows)
        },
        "scores": rows,
    }
    args.out.write_text(json.dumps(record, indent=2) + "\n")


if __name__ == "__main__":
    main(sys.argv[1:])
