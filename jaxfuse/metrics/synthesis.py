"""Metrics of synthesized images against the real ones: PSNR, NMSE and SSIM, cleanly and as public code has them.

Source: "Hi-Net: Hybrid-fusion Network for Multi-modal MR Image Synthesis" (Zhou et al., IEEE TMI 2020), section IV, and
its public code, which computes other values. Images are arrays of one grid, 2D or 3D, meant to be scaled to [0, 1]
with background 0; everything is computed in float64. A subject is scored as one volume: slices are never averaged, but
for SSIM, whose windows are 2D.

Each docstring states the value of blank images.

Raises:
    UserError: arrays of different shapes, without a pixel or with values that are not finite.
"""

from __future__ import annotations

import math
import warnings
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import replace
from typing import Any

import numpy as np
from jaxtyping import Float64, Real
from skimage.metrics import structural_similarity

from jaxfuse.errors import UserError
from jaxfuse.metrics.names import Metric, names_of
from jaxfuse.metrics.statistics import statistics_by_output

# Equal shapes are checked by `_pair`.
Image = Real[np.ndarray, "..."]
Double = Float64[np.ndarray, "*space"]
# Patches one after the other, of any number of axes.
Patches, Stretched = Real[np.ndarray, "n side *sides"], Float64[np.ndarray, "n side *sides"]
# Weights of the sources, then the constant.
Coefficients = Float64[np.ndarray, " weights"]

PSNR = Metric("psnr_db", "PSNR (dB)", 2, True)
METRICS = (PSNR, Metric("nmse", "NMSE", 4, False), Metric("ssim", "SSIM", 3, True))
# The same three as the public code computes them.
OFFICIAL = tuple(replace(m, name=f"official_{m.name}", title=f"{m.title}, official") for m in METRICS)
# Printed name -> definition.
DEFINITIONS: Mapping[str, str] = {
    "PSNR, NMSE": "of a subject's whole volume, background included; PSNR takes the greatest value of both volumes as "
    "its range, so that it depends on how much background the volume has",
    "SSIM": "mean over the axial slices whose truth is not blank; Gaussian windows of 11 x 11 (sigma 1.5), range 1",
}
_AS_THE_CODE = (
    "as the public code of Hi-Net: {each} stretched to [0, 1] by its own least and greatest value, the synthesized one "
    "0 wherever the truth is 0, SSIM in 3D windows of 7 x 7 x 7 with range 2; not to be mixed with the others"
)
# For predictions in patches, and for volumes, whose patches are not known.
OFFICIAL_DEFINITIONS: Mapping[str, str] = {
    "official": _AS_THE_CODE.format(each="each patch, and then each of the two volumes that patches make up,")
}
OFFICIAL_OF_VOLUMES: Mapping[str, str] = {
    "official": f"{_AS_THE_CODE.format(each='each volume')}. Its stretching of each patch before patches are averaged "
    "is left out"
}
SSIM_TAPS, SSIM_SIGMA = 11, 1.5
OFFICIAL_TAPS = 7
_OFFICIAL_RANGE = 2.0  # a library once took float images to run from -1 to 1
_AXIAL = 2


def psnr_db(real: Image, made: Image, *, data_range: float | None = None) -> float:
    """Peak signal-to-noise ratio in dB, 10 log10(R^2 / mean squared error); identical images: inf.

    R is `data_range`, by default the greatest value of both images. That fits images from 0 upwards only, so that a
    negative value is warned of unless R is given.
    """
    y, x = _pair(real, made)
    if data_range is None and min(y.min(), x.min()) < 0:
        warnings.warn(
            "an image holds negative values, of which the greatest value is no range: scale to [0, 1] or name R",
            stacklevel=2,
        )
    return _psnr_db(float(np.mean((y - x) ** 2)), _range_of(y, x) if data_range is None else _positive(data_range))


def nmse(real: Image, made: Image) -> float:
    """Squared error over the squares of the real image, at least 0; inf for a real image of zeros, nan if both are.

    The formula that the paper prints lacks the square of the numerator.
    """
    y, x = _pair(real, made)
    with np.errstate(divide="ignore", invalid="ignore"):
        return float(np.float64(np.sum((y - x) ** 2)) / np.sum(y**2))


def ssim(real: Image, made: Image, *, data_range: float | None = None) -> float:
    """Structural similarity in [-1, 1], 2D or 3D by the images: the mean over windows inside them (Wang et al. 2004).

    Gaussian windows of 11 taps along each axis (sigma 1.5), population covariance, K1 0.01, K2 0.03. The range is
    `data_range`, by default the greatest value of both images; two images of zeros: 1.

    Raises:
        UserError: sides below 11 pixels.
    """
    y, x = _pair(real, made)
    span = _range_of(y, x) if data_range is None else _positive(data_range)
    _check_sides(y, SSIM_TAPS, (2, 3))
    if not span:
        return 1.0  # both are 0 throughout, and identical images have 1 in any range
    found: Any = structural_similarity(
        y, x, gaussian_weights=True, sigma=SSIM_SIGMA, use_sample_covariance=False, data_range=span
    )
    return float(found)


def ssim_of_slices(real: Image, made: Image, *, axis: int = _AXIAL, data_range: float = 1.0) -> float:
    """Mean 2D `ssim` of the slices across an axis of two volumes, those left out whose truth is 0 throughout.

    nan where all are. `axis` is by default the axial one of the canonical axes.
    """
    y, x = _pair(real, made)
    _check_sides(np.moveaxis(y, axis, 0)[0], SSIM_TAPS, (2,))
    couples = zip(np.moveaxis(y, axis, 0), np.moveaxis(x, axis, 0), strict=True)
    found = [ssim(truth, slice_, data_range=data_range) for truth, slice_ in couples if truth.any()]
    return float(np.mean(found)) if found else math.nan


def score_synthesized(real: Image, made: Image) -> dict[str, float]:
    """The METRICS of one volume, or picture, in [0, 1] as `DEFINITIONS` has them.

    A blank truth makes NMSE and SSIM nan or infinite, an identical prediction makes PSNR inf, and slices smaller than
    its windows make SSIM nan: an average must count such cases apart.
    """
    y, x = _pair(real, made)
    if min(y.shape[:2]) < SSIM_TAPS:
        similarity = math.nan
    elif y.ndim == 3:
        similarity = ssim_of_slices(y, x)
    else:
        similarity = ssim(y, x, data_range=1.0) if y.any() else math.nan
    # The range is named: what falls below 0 is the caller's to tell of. Two blank images have none, and need none.
    return {"psnr_db": psnr_db(y, x, data_range=_range_of(y, x) or 1.0), "nmse": nmse(y, x), "ssim": similarity}


def official_patches(patches: Patches) -> Stretched:
    """Stretches each patch to [0, 1] by its own least and greatest value, as the public code does before it averages.

    A constant patch, for which that code divides 0 by 0, becomes 0.
    """
    values = patches.astype(np.float64)
    axes = tuple(range(1, values.ndim))
    low, high = values.min(axes, keepdims=True), values.max(axes, keepdims=True)
    return (values - low) / np.where(high > low, high - low, 1.0)


def official_scores(real: Image, made: Image) -> dict[str, float]:
    """The metrics of two stacks of slices by the names of OFFICIAL, as the public code of Hi-Net computes them.

    Both stacks are stretched to [0, 1]; the made one becomes 0 where the truth then is 0. PSNR takes the whole range of
    both; SSIM uniform 3D windows of 7 taps, sample covariance and the range 2. The code stretches every patch before,
    too: pass patches through `official_patches` and average them first.

    A constant truth becomes 0 throughout, and the image that is made with it: PSNR inf, NMSE nan, SSIM 1.

    Raises:
        UserError: other arrays than volumes of at least 7 voxels along each side.
    """
    y, x = _pair(real, made)
    _check_sides(y, OFFICIAL_TAPS, (3,))
    y, x = official_patches(y[None])[0], official_patches(x[None])[0]
    x = np.where(y == 0, 0.0, x)  # nothing is below 0 any more, which the code sets to 0 as well
    span = max(y.max(), x.max()) - min(y.min(), x.min())
    similarity: Any = structural_similarity(y, x, win_size=OFFICIAL_TAPS, data_range=_OFFICIAL_RANGE)
    values = (_psnr_db(float(np.mean((y - x) ** 2)), float(span)), nmse(y, x), float(similarity))
    return dict(zip(names_of(OFFICIAL), values, strict=True))


def fit_linear(cases: Iterable[tuple[Real[np.ndarray, "*space s"], Real[np.ndarray, "*space"]]]) -> Coefficients:
    """Weights of the sources, then a constant, that give the target with the least squared error, without any network.

    Each case is its sources and its target. Voxels of all cases count alike; those where no source shows anything do
    not count. One case is held at a time.

    Raises:
        UserError: no source shows anything.
    """
    products = moments = None
    for sources, target in cases:
        inside = np.any(sources != 0, axis=-1)
        columns = _with_constant(sources[inside])
        products = columns.T @ columns + (0 if products is None else products)
        moments = columns.T @ target[inside].astype(np.float64) + (0 if moments is None else moments)
    if products is None or moments is None or not products.any():
        raise UserError("no voxel of any source shows anything; give the sources of at least one case")
    return np.linalg.lstsq(products, moments, rcond=None)[0]


def apply_linear(coefficients: Coefficients, sources: Real[np.ndarray, "*space s"]) -> Double:
    """The target by the weights of `fit_linear`, within [0, 1]; exactly 0 where no source shows anything."""
    if len(coefficients) != sources.shape[-1] + 1:
        raise UserError(f"there are {len(coefficients)} weights for {sources.shape[-1]} sources and a constant")
    inside = np.any(sources != 0, axis=-1)
    made = np.zeros(inside.shape)
    made[inside] = np.clip(_with_constant(sources[inside]) @ coefficients, 0, 1)
    return made


def summarize_synthesized(rows: Sequence[Mapping[str, Any]]) -> dict[str, dict[str, dict[str, float]]]:
    """Statistics over cases by image (the rows' "output") and metric; values that are not finite are counted apart."""
    return statistics_by_output(rows, (*METRICS, *OFFICIAL))


def _with_constant(values: Real[np.ndarray, "n s"]) -> Float64[np.ndarray, "n weights"]:
    return np.column_stack([values.astype(np.float64), np.ones(len(values))])


def _psnr_db(error: float, span: float) -> float:
    return 10 * math.log10(span**2 / error) if error else math.inf


def _pair(real: Image, made: Image) -> tuple[Double, Double]:
    """Both in float64, refused unless they fit each other."""
    if real.shape != made.shape:
        raise UserError(
            f"the real image has shape {real.shape}, the synthesized one {made.shape}; bring both to one grid"
        )
    if not real.size:
        raise UserError(f"the images have shape {real.shape} and no pixel; give images that show something")
    y, x = real.astype(np.float64), made.astype(np.float64)
    for name, values in (("real", y), ("synthesized", x)):
        if not np.isfinite(values).all():
            raise UserError(f"the {name} image holds values that are not finite; replace them first")
    return y, x


def _range_of(y: Double, x: Double) -> float:
    """The greatest value of both; 0 where both are 0 throughout."""
    span = max(float(y.max()), float(x.max()))
    if span < 0 or (span == 0 and (y.any() or x.any())):
        raise UserError("neither image holds a value above 0, so that they have no range; scale them to [0, 1]")
    return span


def _positive(data_range: float) -> float:
    if not (math.isfinite(data_range) and data_range > 0):
        raise UserError(f"data_range is {data_range}; give a positive number")
    return data_range


def _check_sides(image: Double, taps: int, axes: Sequence[int]) -> None:
    if image.ndim not in axes or min(image.shape) < taps:
        kinds = " or ".join(f"{n}D" for n in axes)
        raise UserError(
            f"SSIM needs a {kinds} image of at least {taps} pixels along each side for its windows, and got shape "
            f"{image.shape}; give a larger image"
        )
