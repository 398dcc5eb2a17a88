"""Metrics of fused images: the eight that papers on image fusion print, for how well an image keeps its sources.

Images are 2D arrays of gray levels from 0 to 255 on one pixel grid; every metric rounds them to whole levels and
computes in float64. The definitions are those of CDDFuse's evaluation (Zhao et al. 2023), so values compare with the
tables of that paper and its successors. The values of the 2 to 4 sources are **summed**, except where a docstring says
otherwise. MATLAB toolboxes give mutual information in bits and average the SSIM;
others divide spatial frequency by all pixels or stretch images first: never mix such tables.

Images without a pixel have no value: nan. Constant images have the value that each docstring states.

Raises:
    UserError: other shapes than 2D, sources on another grid, values that are not finite or lie outside 0 to 255.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import numpy as np
from jaxtyping import Float64, Int64, Real
from scipy.ndimage import convolve1d, sobel
from skimage.metrics import structural_similarity

from jaxfuse.errors import UserError
from jaxfuse.metrics.names import Metric, names_of
from jaxfuse.metrics.statistics import statistics_by_output

# Two axes, checked by `_gray`; a color image passes through `luminance` first.
Image = Real[np.ndarray, "..."]
Gray = Float64[np.ndarray, "h w"]
Samples = Float64[np.ndarray, "_ _"]  # smoothed in valid windows, so smaller than what they came from

QABF = Metric("qabf", "Qabf", 3, True)
METRICS = (
    Metric("en_bits", "EN (bits)", 2, True),
    Metric("sd", "SD", 2, True),
    Metric("sf", "SF", 2, True),
    Metric("mi_nats", "MI (nats)", 2, True),
    Metric("scd", "SCD", 2, True),
    Metric("vif", "VIF", 3, True),
    QABF,
    Metric("ssim", "SSIM", 3, True),
    Metric("ssim_255", "SSIM, range 255", 3, True),
)
LEVELS = 256
VIF_SMALLEST_SIDE = 41  # the four scales of `vif` leave one window at exactly this side
SSIM_WINDOW = 7
FEWEST_SOURCES, MOST_SOURCES = 2, 4


def score_fused(fused: Image, sources: Sequence[Image]) -> dict[str, float]:
    """Every metric of one fused image by name, in the order of METRICS; `scd` is absent unless there are 2 sources."""
    gray, grays = _grays(fused, sources)
    scores = {
        "en_bits": en_bits(gray),
        "sd": sd(gray),
        "sf": sf(gray),
        "mi_nats": mi(gray, grays),
        "scd": scd(gray, grays) if len(grays) == 2 else None,
        "vif": vif(gray, grays),
        "qabf": qabf(gray, grays),
        "ssim": ssim(gray, grays),
        "ssim_255": ssim_255(gray, grays),
    }
    return {name: value for name, value in scores.items() if value is not None}


def summarize_fused(rows: Sequence[Mapping[str, Any]]) -> dict[str, dict[str, dict[str, float]]]:
    """Statistics over subjects by image (the rows' "output") and metric.

    A subject of several pictures has the mean over those for which a metric is defined.
    """
    return statistics_by_output([_mean_row(group) for group in _by_subject(rows)], METRICS)


def _by_subject(rows: Sequence[Mapping[str, Any]]) -> list[list[Mapping[str, Any]]]:
    """The rows of each subject (that of the column "subject", else the case) and image."""
    groups: dict[object, list[Mapping[str, Any]]] = {}
    for row in rows:
        groups.setdefault((row.get("subject", row["case"]), row["output"]), []).append(row)
    return list(groups.values())


def _mean_row(rows: Sequence[Mapping[str, Any]]) -> dict[str, Any]:
    first, values = rows[0], {}
    for name in first.keys() & set(names_of(METRICS)):
        defined = [row[name] for row in rows if math.isfinite(row[name])]
        values[name] = math.fsum(defined) / len(defined) if defined else math.nan
    return {**{name: first[name] for name in first if name not in values}, **values}


def luminance(rgb: Image) -> Gray:
    """Gray levels of a color image (h w 3) of levels 0 to 255: 0.299 R + 0.587 G + 0.114 B (ITU-R BT.601), rounded."""
    if rgb.ndim != 3 or rgb.shape[-1] != 3:
        raise UserError(f"the color image has shape {rgb.shape}; give red, green and blue on the last of three axes")
    return np.round(rgb.astype(np.float64) @ np.array([0.299, 0.587, 0.114]))


def stretch(image: Image) -> Gray:
    """An image of any range with its least value moved to 0 and its greatest to 255; a constant image becomes 0.

    CDDFuse does this to every fused image before it is scored. It changes the scores: say whether it was done.
    """
    values = _plane(image, "image")
    if not values.size:
        return values
    low, high = values.min(), values.max()
    return (values - low) * (255 / (high - low)) if high > low else np.zeros_like(values)


def en_bits(fused: Image) -> float:
    """Entropy of the 256 gray levels in bits, in [0, 8]. Constant: 0."""
    gray = _gray(fused)
    if not gray.size:
        return math.nan
    return float(_entropy_nats(_counts(gray)) / math.log(2))


def sd(fused: Image) -> float:
    """Population standard deviation in gray levels, in [0, 127.5]. Constant: 0."""
    gray = _gray(fused)
    return float(gray.std()) if gray.size else math.nan


def sf(fused: Image) -> float:
    """Spatial frequency: root of the mean squared step along rows plus that along columns, in gray levels.

    Each mean is over its own number of steps, of which there are fewer than pixels. Constant: 0.
    A side of one pixel has no step: nan.
    """
    gray = _gray(fused)
    if min(gray.shape) < 2:
        return math.nan
    return math.sqrt(sum(float(np.mean(np.diff(gray, axis=axis) ** 2)) for axis in (0, 1)))


def mi(fused: Image, sources: Sequence[Image], *, unit: str = "nats") -> float:
    """Mutual information of the gray levels of fused image and source, summed over the sources, at least 0.

    From the joint histogram of exact levels (256 x 256), in "nats" or in "bits". Constant: 0.
    """
    if unit not in ("nats", "bits"):
        raise UserError(f'unit={unit!r} is not a unit of information; choose "nats" or "bits"')
    gray, grays = _grays(fused, sources)
    if not gray.size:
        return math.nan
    nats = sum(_mutual_information_nats(gray, source) for source in grays)
    return nats / math.log(2) if unit == "bits" else nats


def scd(fused: Image, sources: Sequence[Image]) -> float:
    """Sum of the correlations of differences, corr(F - B, A) + corr(F - A, B), in [-2, 2] (Aslantas and Bendes 2015).

    Pearson correlations over all pixels. Defined for two sources. A constant source or difference, such as a fused
    image that copies a source, has no correlation: nan.
    """
    gray, grays = _grays(fused, sources)
    if len(grays) != 2:
        raise UserError(f"scd came with {len(grays)} sources; it is defined for exactly 2")
    a, b = grays
    return _pearson(gray - b, a) + _pearson(gray - a, b)


def vif(fused: Image, sources: Sequence[Image]) -> float:
    """Visual information fidelity in the pixel domain, summed over the sources (Sheikh and Bovik 2006).

    About 1 for each source that the fused image repeats; more where it has higher contrast. Four scales with noise
    variance 2. A constant source counts 1; a constant fused image keeps nothing of the others: 0.

    Raises:
        UserError: sides below 41 pixels, which leave no window at the coarsest scale.
    """
    gray, grays = _grays(fused, sources)
    if not gray.size:
        return math.nan
    if min(gray.shape) < VIF_SMALLEST_SIDE:
        raise UserError(
            f"vif needs {VIF_SMALLEST_SIDE} pixels along each side for its four scales, but the image has shape "
            f"{gray.shape}; give a larger image"
        )
    return sum(_fidelity(source, gray) for source in grays)


def qabf(fused: Image, sources: Sequence[Image], *, compat: bool = True) -> float:
    """Share of the sources' edges that the fused image keeps, in strength and direction, from 0 to 0.9754.

    After Xydeas and Petrovic (2000). The preservation Q of every source and pixel is averaged with the source's edge
    strength as its weight: a mean, not a sum. Pixels outside the image count as 0, so the border of a constant image
    is an edge. Sources of level 0 throughout have no edge: nan.

    Args:
        compat: take, as the published evaluation does, the fused image's edge strength in place of the ratio 1 where
            both strengths are equal; edges of whole levels are at least 1 strong, so that never lowers the score.
            False: the ratio 1.
    """
    gray, grays = _grays(fused, sources)
    fused_edges = _edges(gray)
    weighted = weights = 0.0
    for source in grays:
        strength, angle = _edges(source)
        weighted += float(np.sum(_preserved((strength, angle), fused_edges, compat) * strength))
        weights += float(np.sum(strength))
    return weighted / weights if weights else math.nan


def ssim(fused: Image, sources: Sequence[Image], *, data_range: float = 2.0) -> float:
    """Structural similarity of fused image and source, summed over the sources: up to the number of sources.

    Uniform 7 x 7 windows inside the image, sample covariance, K1 0.01, K2 0.03 (Wang et al. 2004). The default range
    2 is what the published tables were computed with, by an accident of their library, though levels run to 255: it
    punishes noise in flat areas. Two constant images: their luminance term, 1 if equal.

    Raises:
        UserError: sides below 7 pixels, or a range that is not positive.
    """
    if not (math.isfinite(data_range) and data_range > 0):
        raise UserError(f"data_range is {data_range}; give a positive number of gray levels")
    gray, grays = _grays(fused, sources)
    if not gray.size:
        return math.nan
    if min(gray.shape) < SSIM_WINDOW:
        raise UserError(
            f"ssim needs {SSIM_WINDOW} pixels along each side for its window, but the image has shape {gray.shape}; "
            "give a larger image"
        )
    scores = [structural_similarity(gray, source, win_size=SSIM_WINDOW, data_range=data_range) for source in grays]
    return float(np.sum(scores))


def ssim_255(fused: Image, sources: Sequence[Image]) -> float:
    """`ssim` with the true range of the gray levels, 255; higher than the published kind where images are flat."""
    return ssim(fused, sources, data_range=255.0)


def _grays(fused: Image, sources: Sequence[Image]) -> tuple[Gray, list[Gray]]:
    """Fused image and sources as whole gray levels in float64, refused unless they fit each other."""
    if not FEWEST_SOURCES <= len(sources) <= MOST_SOURCES:
        raise UserError(f"there are {len(sources)} sources; a fused image has {FEWEST_SOURCES} to {MOST_SOURCES}")
    for number, source in enumerate(sources, start=1):
        if source.shape != fused.shape:
            raise UserError(
                f"source {number} has shape {source.shape} but the fused image {fused.shape}; "
                "bring all onto one pixel grid"
            )
    return _gray(fused), [_gray(source, f"source {number}") for number, source in enumerate(sources, start=1)]


def _gray(image: Image, name: str = "fused image") -> Gray:
    levels = np.round(_plane(image, name))
    if levels.size and not (levels.min() >= 0 and levels.max() < LEVELS):
        raise UserError(
            f"the {name} holds values from {image.min()} to {image.max()}; gray levels run from 0 to {LEVELS - 1}: "
            "scale the image first"
        )
    return levels


def _plane(image: Image, name: str) -> Gray:
    if image.ndim != 2:
        raise UserError(
            f"the {name} has shape {image.shape}; give a 2D array of gray levels (for a color image its luminance)"
        )
    values = image.astype(np.float64)
    if not np.isfinite(values).all():
        raise UserError(f"the {name} holds values that are not finite; replace them first")
    return values


def _counts(gray: Gray) -> Int64[np.ndarray, " levels"]:
    return np.bincount(gray.astype(np.int64).ravel(), minlength=LEVELS)


def _entropy_nats(counts: Int64[np.ndarray, " bins"]) -> float:
    """-sum p ln p of a histogram, empty bins adding nothing."""
    p = counts[counts > 0] / counts.sum()
    # Against -0.0 where one bin holds all.
    return float(np.sum(p * -np.log(p)))


def _mutual_information_nats(fused: Gray, source: Gray) -> float:
    joint = _entropy_nats(np.unique(fused * LEVELS + source, return_counts=True)[1])
    # Never negative but for rounding.
    return max(0.0, _entropy_nats(_counts(fused)) + _entropy_nats(_counts(source)) - joint)


def _pearson(x: Gray, y: Gray) -> float:
    """Correlation over all pixels; nan where x or y is constant. Levels are whole, so constancy is exact."""
    if not x.size or x.min() == x.max() or y.min() == y.max():
        return math.nan
    x, y = x - x.mean(), y - y.mean()
    return float(np.sum(x * y) / math.sqrt(np.sum(x * x) * np.sum(y * y)))


def _fidelity(reference: Samples, distorted: Samples) -> float:
    """VIF of one pair: information about the reference that the distorted image keeps over what the reference has.

    Windows of 17, 9, 5 and 3 taps; before every scale but the first, both images are smoothed with that scale's
    window and every second sample is kept.
    """
    if reference.min() == reference.max():
        return 1.0  # 0/0: nothing to keep, nothing lost
    noise, kept, held = 2.0, 0.0, 0.0
    for scale in range(1, 5):
        smooth = _gaussian_valid(2 ** (5 - scale) + 1)
        if scale > 1:
            reference, distorted = smooth(reference)[::2, ::2], smooth(distorted)[::2, ::2]
        variance, gain, residual = _gain_channel(reference, distorted, smooth)
        kept += float(np.sum(np.log10(1 + gain**2 * variance / (residual + noise))))
        held += float(np.sum(np.log10(1 + variance / noise)))
    return kept / held  # every pixel lies in a window, so levels that differ anywhere hold something


def _gaussian_valid(taps: int) -> Callable[[Samples], Samples]:
    """Gaussian smoothing, sigma = taps / 5, normalized, of windows that lie fully inside the image."""
    reach = taps // 2
    window = np.exp(-(np.arange(-reach, reach + 1) ** 2) / (2 * (taps / 5) ** 2))
    window /= window.sum()

    def smooth(image: Samples) -> Samples:
        # Values beyond the edge touch only the samples that the slice removes.
        rows = convolve1d(image, window, axis=0, mode="constant")[reach:-reach]
        return convolve1d(rows, window, axis=1, mode="constant")[:, reach:-reach]

    return smooth


def _gain_channel(
    reference: Samples, distorted: Samples, smooth: Callable[[Samples], Samples]
) -> tuple[Samples, Samples, Samples]:
    """Local variance of the reference, gain g and residual variance s of distorted = g reference + noise.

    No gain where either image is locally flat or where they run against each other. The residual needs no such
    correction: it only matters where there is gain.
    """
    tiny = 1e-10
    mean_r, mean_d = smooth(reference), smooth(distorted)
    variance = np.maximum(smooth(reference**2) - mean_r**2, 0)
    variance_d = np.maximum(smooth(distorted**2) - mean_d**2, 0)
    covariance = smooth(reference * distorted) - mean_r * mean_d
    gain = covariance / (variance + tiny)
    residual = np.maximum(variance_d - gain * covariance, tiny)
    gain[(variance < tiny) | (variance_d < tiny) | (gain < 0)] = 0
    return np.where(variance < tiny, 0, variance), gain, residual


def _edges(gray: Gray) -> tuple[Gray, Gray]:
    """Edge strength and angle in [-pi/2, pi/2] of every pixel by the 3 x 3 Sobel masks, zeros around the image.

    The published masks let x grow to the left and y downward. The hand matters: a vanishing x response gets the angle
    pi/2, never -pi/2, so mirrored images may score differently.
    """
    x, y = -sobel(gray, axis=1, mode="constant"), sobel(gray, axis=0, mode="constant")
    angle = np.full_like(gray, math.pi / 2)
    slanted = x != 0
    angle[slanted] = np.arctan(y[slanted] / x[slanted])
    return np.sqrt(x**2 + y**2), angle


def _preserved(source: tuple[Gray, Gray], fused: tuple[Gray, Gray], compat: bool) -> Gray:
    """Q of every pixel: strength preserved times angle preserved, each through its sigmoid (Xydeas 2000)."""
    (strength_s, angle_s), (strength_f, angle_f) = source, fused
    ratio = np.where(strength_s == strength_f, strength_f if compat else 1.0, 0.0)
    least, most = np.minimum(strength_s, strength_f), np.maximum(strength_s, strength_f)
    np.divide(least, most, out=ratio, where=least < most)
    alike = 1 - np.abs(angle_s - angle_f) / (math.pi / 2)
    return 0.9994 / (1 + np.exp(-15 * (ratio - 0.5))) * 0.9879 / (1 + np.exp(-22 * (alike - 0.8)))
