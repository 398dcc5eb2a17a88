"""Distances and overlap of the surfaces of two masks by surface elements with areas, as BraTS has measured since 2023.

A surface element (surfel) lies at the corner of eight voxels (four pixels) that are not all alike, and has the area in
mm2 (the length in mm) of the surface that marching cubes would draw between their centers. Of a cube and its
complement, that with fewer voxels inside is drawn, so that swapping mask and background changes nothing. D1 holds the
distance of every surfel of the prediction to the nearest one of the truth, D2 the reverse. Means and percentiles weigh
distances by areas, so that neither the slant of a surface nor thick slices count more than they should.

Nikolov et al., J Med Internet Res 23(7):e26151, 2021; the definitions are those of its public tool. Empty masks and
`spacing_mm` as in `metrics.surface`.

Raises:
    UserError: different shapes, a spacing that does not fit, or a tolerance or percentile out of range.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from functools import cache
from itertools import product

import numpy as np
from jaxtyping import Float64, Int, UInt8
from skimage.measure import marching_cubes

from jaxfuse.errors import UserError
from jaxfuse.metrics.distances import BOTH, BoolMask, Distances, Spacing, between, paired
from jaxfuse.metrics.overlap import Mask

Areas = Float64[np.ndarray, " _"]


@dataclass(frozen=True)
class Directed:
    """The surfels of one mask.

    Attributes:
        mm: of each, its distance to the nearest surfel of the other mask.
        areas: of each, in mm2; of slices its length in mm.
    """

    mm: Distances
    areas: Areas

    def mean_mm(self) -> float:
        """Returns the mean distance, weighted by areas."""
        return float(self.mm @ self.areas / self.areas.sum())

    def percentile_mm(self, percent: float) -> float:
        """Returns the first distance that bounds so much of the area, without interpolation."""
        order = np.lexsort((self.areas, self.mm))
        share = np.cumsum(self.areas[order]) / self.areas.sum()
        return float(self.mm[order][min(np.searchsorted(share, percent / 100), len(order) - 1)])

    def area_within(self, mm: float) -> float:
        """Returns the area no farther away than this."""
        return float(self.areas[self.mm <= mm].sum())


@dataclass(frozen=True)
class Surfels:
    """The surfels of two masks, from which all metrics of this module follow at the price of one.

    Attributes:
        both: those of the prediction and those of the truth; or `distances.BOTH` or `distances.ONE`, where so many of
            the masks are empty.
    """

    both: tuple[Directed, Directed] | str

    def hd95_mm(self, *, one_empty: float, percent: float = 95.0) -> float:
        """Returns what `surfel_hd95_mm` does."""
        if not 0 < percent <= 100:
            raise UserError(f"percent is {percent}; give a percentile above 0 and up to 100")
        if isinstance(self.both, str):
            return 0.0 if self.both == BOTH else float(one_empty)
        return max(one.percentile_mm(percent) for one in self.both)

    def asd_mm(self, *, one_empty: float) -> float:
        """Returns what `surfel_asd_mm` does."""
        if isinstance(self.both, str):
            return 0.0 if self.both == BOTH else float(one_empty)
        return self.both[0].mean_mm()

    def nsd(self, tolerance_mm: float) -> float:
        """Returns what the function `nsd` does."""
        if not (math.isfinite(tolerance_mm) and tolerance_mm >= 0):
            raise UserError(f"tolerance_mm is {tolerance_mm}; give a distance in mm that is not negative")
        if isinstance(self.both, str):
            return 1.0 if self.both == BOTH else 0.0
        within = sum(one.area_within(tolerance_mm) for one in self.both)
        return float(within / sum(one.areas.sum() for one in self.both))


def surfels(pred: Mask, truth: Mask, *, spacing_mm: Spacing) -> Surfels:
    """Returns the surfels of both masks and the distances between them."""
    pair = paired(pred, truth, spacing_mm)
    if isinstance(pair, str):
        return Surfels(pair)
    codes = _codes(pair.pred), _codes(pair.truth)
    mixed = [(code > 0) & (code < 2 ** (2**code.ndim) - 1) for code in codes]
    table = _areas(pair.spacing)
    distances = between(mixed[0], mixed[1], pair.spacing)
    first, second = (Directed(mm, table[c[m]]) for mm, c, m in zip(distances, codes, mixed, strict=True))
    return Surfels((first, second))


def surfel_hd95_mm(pred: Mask, truth: Mask, *, spacing_mm: Spacing, one_empty: float, percent: float = 95.0) -> float:
    """Returns the larger of the 95th percentiles by area of D1 and D2 in mm: the HD95 of BraTS since 2023.

    Args:
        percent: another percentile; 100 gives the Hausdorff distance between surfels.
    """
    return surfels(pred, truth, spacing_mm=spacing_mm).hd95_mm(one_empty=one_empty, percent=percent)


def surfel_asd_mm(pred: Mask, truth: Mask, *, spacing_mm: Spacing, one_empty: float) -> float:
    """Returns the mean by area of D1 in mm: directed, from the prediction to the truth."""
    return surfels(pred, truth, spacing_mm=spacing_mm).asd_mm(one_empty=one_empty)


def nsd(pred: Mask, truth: Mask, *, spacing_mm: Spacing, tolerance_mm: float) -> float:
    """Returns the normalized surface Dice: the share of both surfaces no farther than a tolerance from the other.

    Both masks empty: 1; one empty: 0.

    Args:
        tolerance_mm: such as the distance between two raters; print it in every table.
    """
    return surfels(pred, truth, spacing_mm=spacing_mm).nsd(tolerance_mm)


def _corners(ndim: int) -> list[tuple[int, ...]]:
    """The places of the voxels around a corner; the n-th has the bit 2**n in a code."""
    return list(product((0, 1), repeat=ndim))


def _codes(mask: BoolMask) -> UInt8[np.ndarray, ...]:
    """The voxels around each inner corner of the grid that belong to the mask, as bits."""
    codes = np.zeros(tuple(side - 1 for side in mask.shape), np.uint8)
    for bit, place in enumerate(_corners(mask.ndim)):
        codes |= mask[tuple(slice(at, at + side) for at, side in zip(place, codes.shape, strict=True))] * np.uint8(
            1 << bit
        )
    return codes


def _areas(spacing: Float64[np.ndarray, "axes ..."]) -> Areas:
    """The area in mm2 (length in mm) of the surface in a cube of voxel centers (square), by code."""
    steps = np.diag(spacing) if spacing.ndim == 1 else spacing
    ndim = len(steps)
    if ndim == 1:
        return np.ones(4)
    codes, pieces = _pieces(ndim)
    edges = pieces @ steps
    if ndim == 3:
        edges = np.cross(edges[:, 0], edges[:, 1]) / 2
    return np.bincount(codes, np.linalg.norm(edges, axis=-1), minlength=2 ** (2**ndim))


@cache
def _pieces(ndim: int) -> tuple[Int[np.ndarray, " n"], Float64[np.ndarray, "n ..."]]:
    """The codes of pieces, and two sides of each triangle (n 2 3) of a unit cube, or each line (n 2) of a square."""
    each = {code: _triangles(code) if ndim == 3 else _lines(code) for code in range(1, 2 ** (2**ndim) - 1)}
    return np.repeat(list(each), [len(one) for one in each.values()]), np.concatenate(list(each.values()))


def _triangles(code: int) -> Float64[np.ndarray, "n 2 3"]:
    """The triangles of marching cubes (Lorensen and Cline 1987) for a cube, or its complement if that is smaller."""
    smaller = code if code.bit_count() <= 4 else 255 - code
    cube = np.array([smaller >> bit & 1 for bit in range(8)], np.float64).reshape(2, 2, 2)
    vertices, faces, *_ = marching_cubes(cube, 0.5, method="lorensen")
    corners = vertices[faces].astype(np.float64)
    return corners[:, 1:] - corners[:, :1]


def _lines(code: int) -> Float64[np.ndarray, "n 2"]:
    """The lines of marching squares, between the middles of edges."""
    inside = np.array([code >> bit & 1 for bit in range(4)]).reshape(2, 2)
    if code.bit_count() == 3:
        inside = 1 - inside
    if code.bit_count() == 2:
        if inside[0, 0] == inside[0, 1]:
            return np.array([[0.0, 1.0]])
        if inside[0, 0] == inside[1, 0]:
            return np.array([[1.0, 0.0]])
    return np.array([[0.5, -0.5 if row == column else 0.5] for row, column in np.argwhere(inside)])
