"""Metrics that no public tool has in this form, against their definitions, step by step, in loops.

Every test runs on a few cases, and under the mark `oracle` on two hundred.
"""

import math
from fractions import Fraction
from itertools import combinations, groupby

import numpy as np
import pytest
from scipy import ndimage
from skimage.morphology import skeletonize

from jaxfuse.metrics.calibration import BINS, ace, brier, ece, reliability
from jaxfuse.metrics.centerlines import cl_dice
from jaxfuse.metrics.comparison import holm
from jaxfuse.metrics.fusion import VIF_SMALLEST_SIDE, qabf, sf, vif
from jaxfuse.metrics.lesions import GLIOMA, MENINGIOMA, METASTASES, Matching, lesion_scores
from tests.metrics.mask_pairs import COUNT, mask_pairs
from tests.metrics.slow_lesions import slow_lesion_scores

FEW_OR_ALL = pytest.mark.parametrize("count", [8, pytest.param(COUNT, marks=pytest.mark.oracle)])
CLOSE = {"rel": 1e-9, "abs": 1e-12}


@FEW_OR_ALL
def test_center_lines(count):
    def points(mask):
        return {tuple(place) for place in np.argwhere(mask).tolist()}

    def line(mask):
        """Where nothing is left of a part, its deepest voxel is: that which is farthest from any other."""
        left = points(skeletonize(mask))
        parts, number = ndimage.label(mask, np.ones((3,) * mask.ndim))
        for one in range(1, number + 1):
            part = np.argwhere(parts == one)
            if not left & set(map(tuple, part.tolist())):
                others = np.argwhere(np.pad(parts, 1) != one) - 1
                gaps = np.linalg.norm(part[:, None] - others[None], axis=-1).min(axis=1)
                left.add(tuple(part[np.argmax(gaps)].tolist()))
        return left

    for name, (pred, truth, _) in list(mask_pairs())[:: COUNT // count]:
        found = cl_dice(pred, truth)
        if not pred.any() or not truth.any():
            assert found == float(pred.any() == truth.any()), name
            continue
        of_pred, of_truth = line(pred), line(truth)
        precision = Fraction(len(of_pred & points(truth)), len(of_pred))
        recall = Fraction(len(of_truth & points(pred)), len(of_truth))
        wanted = 2 / (1 / precision + 1 / recall) if precision and recall else 0
        assert found == pytest.approx(float(wanted), **CLOSE), name


def _chances(seed):
    """Probabilities of some voxels and their true classes; many confidences are equal in every third case."""
    rng = np.random.default_rng(seed)
    classes, voxels = int(rng.integers(2, 6)), int(rng.integers(1, 120))
    chances = rng.dirichlet(np.full(classes, rng.uniform(0.3, 2)), voxels)
    if seed % 3 == 0:
        shares = rng.multinomial(4, np.full(classes, 1 / classes), voxels)
        chances = shares / 4
    return chances, rng.integers(0, classes, voxels)


def _slow_calibration(chances, truth, bins):
    """ECE and MCE of bins of equal width, ACE of bins of equal counts, and Brier, voxel by voxel."""
    voxels = []
    for row, right in zip(chances.tolist(), truth.tolist(), strict=True):
        named = row.index(max(row))
        voxels.append((max(row), named == right))
    by_width, by_count = {}, {}
    for confidence, hit in voxels:
        # Bin i holds what is greater than i / bins, up to (i + 1) / bins.
        (place,) = (i for i in range(bins) if i < confidence * bins <= i + 1)
        by_width.setdefault(place, []).append((confidence, hit))
    behind = 0
    for _, group in groupby(sorted(voxels), key=lambda voxel: voxel[0]):
        equal = list(group)
        middle = Fraction(behind + behind + len(equal) - 1, 2)
        by_count.setdefault(math.floor(middle * bins / len(voxels)), []).extend(equal)
        behind += len(equal)

    def gaps(held):
        sums = [(len(one), abs(math.fsum(c for c, _ in one) - sum(h for _, h in one))) for one in held.values()]
        return math.fsum(gap for _, gap in sums) / len(voxels), max(gap / number for number, gap in sums)

    squares = [
        math.fsum((value - (place == right)) ** 2 for place, value in enumerate(row))
        for row, right in zip(chances.tolist(), truth.tolist(), strict=True)
    ]
    return *gaps(by_width), gaps(by_count)[0], math.fsum(squares) / len(voxels)


@FEW_OR_ALL
def test_calibration(count):
    for seed in range(count):
        chances, truth = _chances(seed)
        for bins in (BINS, 4):
            found = reliability(chances, truth, bins=bins)
            values = ece(chances, truth, bins=bins), found.greatest_error, ace(chances, truth, bins=bins)
            wanted = _slow_calibration(chances, truth, bins)
            assert (*values, brier(chances, truth)) == pytest.approx(wanted, **CLOSE), seed


@pytest.mark.oracle
def test_bins_of_equal_counts_are_the_quantiles_of_scikit_learn():
    """Its edges are interpolated between voxels, so that the bins are ours where each can hold as many as any other."""
    curves = pytest.importorskip("sklearn.calibration", reason="scikit-learn comes with the oracle extra")
    for seed in range(COUNT):
        rng = np.random.default_rng(seed)
        voxels = BINS * int(rng.integers(2, 20))
        confidence = rng.uniform(0.5, 1, voxels)
        hits = rng.random(voxels) < confidence
        accuracy, mean = curves.calibration_curve(hits, confidence, n_bins=BINS, strategy="quantile")
        chances = np.stack([1 - confidence, confidence], axis=-1)
        assert ace(chances, hits.astype(int)) == pytest.approx(np.mean(np.abs(accuracy - mean)), rel=1e-6), seed


@FEW_OR_ALL
def test_holm_is_the_closure_of_bonferroni(count):
    """A hypothesis falls where Bonferroni's test refuses each set of hypotheses that it is in (Marcus et al. 1976)."""
    for seed in range(count):
        rng = np.random.default_rng(seed)
        p = rng.beta(0.5, 2, int(rng.integers(1, 8)))
        if seed % 2:
            p = np.round(p, 1)  # ties, zeros
        undefined = rng.random(len(p)) < 0.1
        tested = [place for place in range(len(p)) if not undefined[place]]
        wanted = [math.nan] * len(p)
        for place in tested:
            sets = (others for size in range(1, len(tested) + 1) for others in combinations(tested, size))
            wanted[place] = max(min(1.0, len(one) * min(p[list(one)])) for one in sets if place in one)
        assert holm(np.where(undefined, math.nan, p).tolist()) == pytest.approx(wanted, nan_ok=True, **CLOSE), seed


def _pictures(seed, sides):
    """A fused image and its two sources in whole levels: random ones, and in turns some of a known kind."""
    rng = np.random.default_rng(seed)
    shape = tuple(int(side) for side in rng.integers(*sides, 2))
    rows, columns = np.indices(shape)
    kinds = {
        "noise": rng.integers(0, 256, shape),
        "flat": np.full(shape, int(rng.integers(0, 256))),
        "ramp": columns * 255 // max(1, shape[1] - 1),
        "checkered": 255 * ((rows + columns) % 2),
        "step": np.where(columns < shape[1] // 2, 40, 200),
        "one pixel": 255 * ((rows == 3) & (columns == 5)),
        "smooth": np.round(127 + 90 * np.sin(rows / 5 + seed) * np.cos(columns / 7)),
    }
    names = list(kinds)
    first, second = (kinds[names[number % len(names)]] for number in (seed, seed // len(names)))
    fused = (np.round((first + second) / 2), np.maximum(first, second), first, 255 - first, kinds["noise"])[seed % 5]
    return [image.astype(np.float64) for image in (fused, first, second)]


@FEW_OR_ALL
def test_spatial_frequency(count):
    for seed in range(count):
        fused, *_ = _pictures(seed, (2, 14))
        levels = fused.tolist()
        height, width = fused.shape
        along = [(levels[i][j] - levels[i][j - 1]) ** 2 for i in range(height) for j in range(1, width)]
        across = [(levels[i][j] - levels[i - 1][j]) ** 2 for i in range(1, height) for j in range(width)]
        wanted = math.sqrt(sum(along) / len(along) + sum(across) / len(across))
        assert sf(fused) == pytest.approx(wanted, **CLOSE), seed


def _slow_edges(image):
    """(strength, angle) of each pixel by convolution with the published masks, zeros beyond the border."""
    down, right = ((1, 2, 1), (0, 0, 0), (-1, -2, -1)), ((-1, 0, 1), (-2, 0, 2), (-1, 0, 1))
    height, width = image.shape

    def convolved(mask, i, j):
        total = 0.0
        for a in range(3):
            for b in range(3):
                row, column = i + 1 - a, j + 1 - b
                if 0 <= row < height and 0 <= column < width:
                    total += mask[a][b] * image[row, column]
        return total

    edges = {}
    for i in range(height):
        for j in range(width):
            x, y = convolved(right, i, j), convolved(down, i, j)
            edges[i, j] = math.sqrt(x * x + y * y), math.atan(y / x) if x else math.pi / 2
    return edges


def _slow_qabf(fused, sources):
    of_fused, kept, weights = _slow_edges(fused), 0.0, 0.0
    for source in sources:
        for place, (strength, angle) in _slow_edges(source).items():
            other, other_angle = of_fused[place]
            ratio = other if strength == other else min(strength, other) / max(strength, other)
            alike = 1 - abs(angle - other_angle) / (math.pi / 2)
            quality = 0.9994 / (1 + math.exp(-15 * (ratio - 0.5))) * 0.9879 / (1 + math.exp(-22 * (alike - 0.8)))
            kept, weights = kept + quality * strength, weights + strength
    return kept / weights if weights else math.nan


@FEW_OR_ALL
def test_edge_preservation(count):
    for seed in range(count):
        fused, *sources = _pictures(seed, (4, 13))
        assert qabf(fused, sources) == pytest.approx(_slow_qabf(fused, sources), nan_ok=True, **CLOSE), seed


def _slow_vif(reference, distorted):
    """VIF of one pair, window by window, as the published code corrects what is flat."""
    tiny, kept, held = 1e-10, 0.0, 0.0
    for taps in (17, 9, 5, 3):
        reach = np.arange(taps) - taps // 2
        weights = np.exp(-(reach[:, None] ** 2 + reach[None] ** 2) / (2 * (taps / 5) ** 2))
        weights /= weights.sum()

        def windows(image, taps=taps):
            for i in range(image.shape[0] - taps + 1):
                for j in range(image.shape[1] - taps + 1):
                    yield i, j, image[i : i + taps, j : j + taps]

        def smoothed(image, weights=weights, windows=windows, taps=taps):
            out = np.zeros([side - taps + 1 for side in image.shape])
            for i, j, part in windows(image):
                out[i, j] = (weights * part).sum()
            return out

        if taps < 17:
            reference, distorted = smoothed(reference)[::2, ::2], smoothed(distorted)[::2, ::2]
        for (_, _, r), (_, _, d) in zip(windows(reference), windows(distorted), strict=True):
            mean_r, mean_d = (weights * r).sum(), (weights * d).sum()
            var_r = max((weights * (r - mean_r) ** 2).sum(), 0.0)
            var_d = max((weights * (d - mean_d) ** 2).sum(), 0.0)
            covariance = (weights * (r - mean_r) * (d - mean_d)).sum()
            gain = covariance / (var_r + tiny)
            rest = var_d - gain * covariance
            if var_r < tiny:
                gain, rest, var_r = 0.0, var_d, 0.0
            if var_d < tiny:
                gain, rest = 0.0, 0.0
            if gain < 0:
                gain, rest = 0.0, var_d
            rest = max(rest, tiny)
            kept += math.log10(1 + gain**2 * var_r / (rest + 2))
            held += math.log10(1 + var_r / 2)
    return kept / held if held else 1.0


@FEW_OR_ALL
def test_information_fidelity(count):
    for seed in range(0, COUNT, COUNT // count):
        fused, *sources = _pictures(seed, (VIF_SMALLEST_SIDE, VIF_SMALLEST_SIDE + 5))
        wanted = sum(_slow_vif(source, fused) for source in sources)
        # Variances of flat windows are differences of squares of levels in one, and exact in the other.
        assert vif(fused, sources) == pytest.approx(wanted, rel=1e-6, abs=1e-9), seed


@pytest.mark.oracle
@pytest.mark.parametrize("matching", [GLIOMA, MENINGIOMA, METASTASES, Matching(dilations=0, smallest_mm3=0.0)])
def test_lesions(matching):
    for name, (pred, truth, spacing) in mask_pairs():
        found = lesion_scores(pred, truth, spacing_mm=spacing, matching=matching)
        values = (found.dice, found.hd95_mm, found.true_positives, found.false_negatives, found.false_positives)
        assert values == pytest.approx(slow_lesion_scores(pred, truth, spacing, matching), **CLOSE), name
