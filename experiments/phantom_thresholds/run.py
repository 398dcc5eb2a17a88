"""How well do predictors that need no network find what is labeled in the phantoms?

    python -m experiments.phantom_thresholds.run
    python -m experiments.phantom_thresholds.run --phantom infant
    python -m experiments.phantom_thresholds.run --phantom stroke
    python -m experiments.phantom_thresholds.run --contrast 0.5

Draws phantoms and scores, for each region of their label scheme, by the mean Dice per case:

* threshold: for each modality (z-scored over the non-zero voxels of the case) the one threshold, above or below, that
  is best over all cases.
* linear (infant and stroke): the log odds of the region against the rest by a linear discriminant analysis (one
  normal distribution per class, one covariance for all, fitted to the voxels of all cases), above the best threshold;
  from each modality and from all together, as they are and smoothed by Gaussians of several widths, of which the best
  counts.

Thresholds and discriminants are chosen on the same cases that they are scored on, so that every score is an upper bound
for its predictor; a network has to come out clearly above them for the phantoms to be worth training on. A region is
scored over the cases that have any of it.
"""

from __future__ import annotations

import argparse
import json
import sys
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from scipy import ndimage
from scipy.special import logsumexp

from jaxfuse.data.phantom import brats, infant, stroke
from jaxfuse.data.phantom.looks import PLAIN, Looks
from jaxfuse.labels import LabelScheme, label_scheme

# Thresholds tried: multiples of 0.01 standard deviations, or of natural log odds.
EDGES = np.round(np.arange(-6.0, 12.005, 0.01), 2)
# Widths of smoothing tried, in voxels in the plane.
SIGMAS = (0.0, 0.6, 0.8, 1.0)

Case = tuple[dict[str, np.ndarray], np.ndarray]


@dataclass(frozen=True)
class Phantom:
    """One kind: its module, how a case is drawn, the grid of its demos, and along which axes its voxels are near."""

    module: Any
    make: Callable[..., Case]
    scheme: str
    shape: tuple[int, int, int]
    spacing_mm: float
    near: tuple[int, int, int] = (1, 1, 1)
    linear: bool = True


PHANTOMS: Mapping[str, Phantom] = {
    "brats": Phantom(brats, brats.make_case, "brats", (64, 64, 48), 3.0, linear=False),
    "infant": Phantom(infant, infant.make_infant, "iseg", (64, 72, 56), 2.3),
    "stroke": Phantom(stroke, stroke.make_stroke, "stroke", (64, 64, 16), 3.0, near=(1, 1, 0)),
}


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


def best_thresholds(cases: Sequence[Case], modalities: Sequence[str], scheme: LabelScheme) -> list[dict[str, Any]]:
    """One row per region and modality: the best threshold, its direction and the mean Dice per case."""
    rows = []
    for region, classes in scheme.regions.items():
        values = [scheme.decode[c] for c in classes]
        for modality in modalities:
            curves: dict[bool, list[np.ndarray]] = {True: [], False: []}
            for images, label in cases:
                brain = images[modality] != 0
                truth = np.isin(label[brain], values)
                if not truth.any():
                    continue
                for above, curve in curves.items():
                    curve.append(dice_by_threshold(z_scores(images[modality][brain]), truth, above=above))
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


def best_discriminants(
    cases: Sequence[Case], modalities: Sequence[str], scheme: LabelScheme, near: Sequence[int]
) -> list[dict[str, Any]]:
    """One row per region, set of modalities, and unsmoothed or smoothed: the mean Dice per case."""
    rows = []
    for names in (*((m,) for m in modalities), tuple(modalities)):
        plain, *smoothed = (_linear_scores(cases, names, scheme, [sigma * n for n in near]) for sigma in SIGMAS)
        for region in scheme.regions:
            best = max(range(len(smoothed)), key=lambda i, region=region: smoothed[i][region])
            rows.append(
                {
                    "region": region,
                    "modalities": list(names),
                    "dice": round(plain[region], 4),
                    "dice_smoothed": round(smoothed[best][region], 4),
                    "sigma_voxels": SIGMAS[1 + best],
                }
            )
    return rows


def _linear_scores(
    cases: Sequence[Case], names: Sequence[str], scheme: LabelScheme, sigmas: Sequence[float]
) -> dict[str, float]:
    """Mean Dice per region of the log odds of a linear discriminant, smoothed inside the brain."""
    brains = [np.all([images[name] != 0 for name in names], axis=0) for images, _ in cases]
    features = [
        np.stack([_smoothed(images[name], brain, sigmas) for name in names], axis=-1)
        for (images, _), brain in zip(cases, brains, strict=True)
    ]
    classes = [np.isin(scheme.decode, np.unique(label[brain])) for (_, label), brain in zip(cases, brains, strict=True)]
    present = np.flatnonzero(np.any(classes, axis=0))
    truths = [
        np.searchsorted([scheme.decode[c] for c in present], label[brain])
        for (_, label), brain in zip(cases, brains, strict=True)
    ]
    log_posteriors = _discriminant(np.concatenate(features), np.concatenate(truths), len(present))
    scores = {}
    for region, members in scheme.regions.items():
        inside = np.isin(present, members)
        curves = []
        for feature, truth in zip(features, truths, strict=True):
            if inside[truth].any():
                posterior = log_posteriors(feature)
                inner, outer = (np.asarray(logsumexp(posterior[:, which], axis=1)) for which in (inside, ~inside))
                curves.append(dice_by_threshold(inner - outer, inside[truth], above=True))
        scores[region] = float(np.mean(curves, axis=0).max())
    return scores


def _discriminant(features: np.ndarray, truth: np.ndarray, classes: int) -> Callable[[np.ndarray], np.ndarray]:
    """Log posteriors (n k), up to a constant per voxel, of normal distributions with one covariance."""
    means = np.stack([features[truth == k].mean(axis=0) for k in range(classes)])
    priors = np.bincount(truth, minlength=classes) / len(truth)
    spread = features - means[truth]
    precision = np.linalg.inv(spread.T @ spread / len(truth))
    offsets = np.log(priors) - 0.5 * np.einsum("ki,ij,kj->k", means, precision, means)
    return lambda voxels: voxels @ precision @ means.T + offsets


def z_scores(voxels: np.ndarray) -> np.ndarray:
    return (voxels - voxels.mean()) / voxels.std()


def _smoothed(image: np.ndarray, brain: np.ndarray, sigmas: Sequence[float]) -> np.ndarray:
    """Z-scores of the brain's voxels, each first averaged with those of the brain near it."""
    weight = np.asarray(ndimage.gaussian_filter(brain.astype(np.float64), sigmas))
    near = np.asarray(ndimage.gaussian_filter(np.where(brain, image, 0).astype(np.float64), sigmas))
    return z_scores(near[brain] / weight[brain])


def main(argv: list[str]) -> None:
    args = parse(argv)
    phantom = PHANTOMS[args.phantom]
    modalities, scheme = phantom.module.MODALITIES, label_scheme(phantom.scheme)
    cases = [_draw(phantom, index, args) for index in range(args.cases)]
    rows = best_thresholds(cases, modalities, scheme)
    print(f"{'region':8}{'modality':10}{'direction':11}{'threshold z':>12}{'mean Dice':>11}{'cases':>7}")
    for r in rows:
        print(
            f"{r['region']:8}{r['modality']:10}{r['direction']:11}"
            f"{r['threshold_z']:12.2f}{r['dice']:11.3f}{r['cases']:7d}"
        )
    given = {k: list(v) if isinstance(v, (list, tuple)) else v for k, v in vars(args).items() if k != "out"}
    record = {
        "command": " ".join(["python -m experiments.phantom_thresholds.run", *argv]),
        "generator": {"module": phantom.module.__name__, "version": phantom.module.VERSION},
        "arguments": given,
        "best_per_region": _best(rows, "dice"),
        "scores": rows,
    }
    if phantom.linear:
        linear = best_discriminants(cases, modalities, scheme, phantom.near)
        print(f"\n{'region':8}{'linear in':24}{'mean Dice':>11}{'smoothed':>11}")
        for r in linear:
            print(f"{r['region']:8}{'+'.join(r['modalities']):24}{r['dice']:11.3f}{r['dice_smoothed']:11.3f}")
        record |= {"best_linear_per_region": _best(linear, "dice_smoothed"), "linear_scores": linear}
    args.out.write_text(json.dumps(record, indent=2) + "\n")


def _best(rows: Sequence[Mapping[str, Any]], score: str) -> dict[str, float]:
    regions = dict.fromkeys(r["region"] for r in rows)
    return {region: max(r[score] for r in rows if r["region"] == region) for region in regions}


def _draw(phantom: Phantom, index: int, args: argparse.Namespace) -> Case:
    grade: dict[str, Any] = {}
    if phantom.module is brats:
        looks = Looks(args.contrast, args.noise_scale, args.lesion_mm, args.mimics)
        grade = {"low_grade": brats.is_low_grade(index, args.low_grade_fraction), "looks": looks}
    return phantom.make(args.seed, index, shape=tuple(args.shape), spacing_mm=args.spacing_mm, **grade)


def parse(argv: list[str]) -> argparse.Namespace:
    """Reads the command's options and fills in those that depend on the kind of phantom."""
    parser = argparse.ArgumentParser(description="Best thresholds and linear discriminants on phantoms.")
    parser.add_argument("--phantom", choices=tuple(PHANTOMS), default="brats")
    parser.add_argument("--cases", type=int, default=16)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--shape", type=int, nargs=3)
    parser.add_argument("--spacing_mm", type=float)
    parser.add_argument("--low_grade_fraction", type=float, help="of the gliomas; 0.2 if not given")
    for name, usual in vars(PLAIN).items():
        parser.add_argument(f"--{name}", type=float, help=f"of harder gliomas; {usual:g} if not given")
    parser.add_argument("--out", type=Path)
    args = parser.parse_args(argv)
    harder = {name: value for name in vars(PLAIN) if (value := getattr(args, name)) is not None}
    if args.phantom == "brats":
        args.low_grade_fraction = 0.2 if args.low_grade_fraction is None else args.low_grade_fraction
    elif args.low_grade_fraction is not None:
        parser.error("--low_grade_fraction is an option of the gliomas")
    if harder and args.phantom != "brats":
        parser.error(f"--{next(iter(harder))} is an option of the gliomas")
    for name, usual in vars(PLAIN).items():
        setattr(args, name, harder.get(name, usual))
    phantom = PHANTOMS[args.phantom]
    args.shape = args.shape or phantom.shape
    args.spacing_mm = args.spacing_mm or phantom.spacing_mm
    own = "" if args.phantom == "brats" else f"_{args.phantom}"
    own += "".join(f"_{name}_{value:g}" for name, value in harder.items())
    args.out = args.out or Path(__file__).with_name(f"scores{own}.json")
    return args


if __name__ == "__main__":
    main(sys.argv[1:])
