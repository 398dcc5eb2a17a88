"""Pairs of masks that metrics are compared on: two hundred, random and made by hand, with voxels of unequal sides."""

from collections.abc import Iterator
from typing import NamedTuple

import numpy as np
from scipy.ndimage import binary_dilation, binary_erosion, gaussian_filter

COUNT = 200


class MaskPair(NamedTuple):
    """A prediction, its truth, and the sides of a voxel in mm."""

    pred: np.ndarray
    truth: np.ndarray
    spacing_mm: tuple[float, ...]


def _box(shape: tuple[int, ...], *sides: tuple[int, int]) -> np.ndarray:
    mask = np.zeros(shape, bool)
    mask[tuple(slice(*side) for side in sides)] = True
    return mask


def by_hand() -> dict[str, MaskPair]:
    """Pairs of known kinds; the last of them are empty in part."""
    shape, sides = (12, 11, 10), (0.7, 3.0, 1.3)
    cube, small = _box(shape, (2, 8), (2, 8), (2, 8)), _box(shape, (4, 6), (4, 6), (4, 6))
    one, other = _box(shape, (0, 1), (0, 1), (0, 1)), _box(shape, (11, 12), (10, 11), (9, 10))
    none, long = np.zeros(shape, bool), _box(shape, (2, 8), (2, 8), (2, 10))
    masks = {
        "equal": (cube, cube),
        "shifted": (np.roll(cube, 1, axis=1), cube),
        "dilated": (binary_dilation(cube), cube),
        "eroded": (binary_erosion(cube), cube),
        "hollow truth": (cube, cube & ~small),
        "hollow prediction": (cube & ~small, cube),
        "nested": (small, cube),
        "touching by a face": (_box(shape, (8, 10), (2, 8), (2, 8)), cube),
        "touching by a corner": (_box(shape, (8, 10), (8, 10), (8, 10)), cube),
        "single voxels in far corners": (one, other),
        "a single voxel in a cube": (_box(shape, (5, 6), (5, 6), (5, 6)), cube),
        "a stray voxel": (cube | other, cube),
        "two lesions in one": (long, long & ~_box(shape, (0, 12), (0, 11), (5, 7))),
        "the whole volume": (~none, cube),
        "a plate of one voxel": (_box(shape, (5, 6), (0, 11), (0, 10)), _box(shape, (7, 8), (0, 11), (0, 10))),
        "checkered": (np.indices(shape).sum(axis=0) % 2 == 0, np.indices(shape).sum(axis=0) % 2 == 1),
        "empty prediction": (none, cube),
        "empty truth": (cube, none),
        "empty both": (none, none),
    }
    return {name: MaskPair(*pair, sides) for name, pair in masks.items()}


def _random(seed: int) -> MaskPair:
    rng = np.random.default_rng(seed)
    axes = 3 if seed % 3 else 2
    shape, sides = tuple(rng.integers(5, 20, axes)), tuple(rng.uniform(0.5, 3, axes))
    noises = [gaussian_filter(rng.standard_normal(shape), rng.uniform(0.3, 1.5)) for _ in range(2)]
    if seed % 2:  # alike
        noises[0] = noises[1] + 0.3 * noises[1].std() * noises[0] / noises[0].std()
    pred, truth = (noise > np.quantile(noise, 1 - rng.uniform(0.02, 0.5)) for noise in noises)
    return MaskPair(pred, truth, sides)


def mask_pairs(*, axes: int | None = None, empty: bool = True) -> Iterator[tuple[str, MaskPair]]:
    """Yields 200 pairs by name.

    Args:
        axes: only those of so many.
        empty: also those of which a mask is empty.
    """
    given = 0
    for name, pair in by_hand().items():
        if (empty or (pair.pred.any() and pair.truth.any())) and axes in (None, 3):
            given += 1
            yield name, pair
    seed = 0
    while given < COUNT:
        pair, seed = _random(seed), seed + 1
        if axes in (None, pair.pred.ndim):
            given += 1
            yield f"random {seed - 1}", pair
