"""Distances over whole masks: by hand, against scikit-image, and where they differ from those of surfaces."""

import math

import numpy as np
import pytest
from skimage.metrics import hausdorff_distance

from jaxfuse.metrics.surface import hausdorff_mm, mhd_mm
from jaxfuse.metrics.voxel_sets import iseg_asd_mm, iseg_mhd_mm, mhd_dubuisson_mm, voxel_set_distances_mm

UNIT = {"spacing_mm": (1.0, 1.0, 1.0), "one_empty": math.nan}


def test_by_hand():
    """On a line of voxels of 2 mm: prediction at 0, 1 and 4, truth at 0 and 1; D1 = 0, 0, 6 mm and D2 = 0, 0."""
    pred, truth = np.array([1, 1, 0, 0, 1, 0], bool), np.array([1, 1, 0, 0, 0, 0], bool)
    at = {"spacing_mm": (2.0,), "one_empty": math.nan}
    for masks in ((pred, truth), (truth, pred)):
        assert iseg_mhd_mm(*masks, **at) == 6
        assert iseg_asd_mm(*masks, **at) == pytest.approx((6 / 3 + 0) / 2)
        assert mhd_dubuisson_mm(*masks, **at) == pytest.approx(6 / 3)
    every = voxel_set_distances_mm(pred, truth, **at)
    assert every == {"iseg_mhd_mm": 6.0, "iseg_asd_mm": 1.0, "mhd_dubuisson_mm": 2.0}


def test_a_filled_hole_shows_here_and_not_on_surfaces():
    """A cube of 9 against its shell, one voxel thick: the center is 4 mm from the shell, but no surface is off."""
    cube = np.pad(np.ones((9, 9, 9), bool), 1)
    shell = cube.copy()
    shell[2:9, 2:9, 2:9] = False
    assert hausdorff_mm(cube, shell, **UNIT) == mhd_mm(cube, shell, **UNIT) == 0
    assert iseg_mhd_mm(cube, shell, **UNIT) == 4
    # Inside, layers of side 7, 5, 3 and 1 lie 1, 2, 3 and 4 mm deep.
    inside = sum((side**3 - max(side - 2, 0) ** 3) * depth for depth, side in enumerate((7, 5, 3, 1), start=1))
    assert mhd_dubuisson_mm(cube, shell, **UNIT) == pytest.approx(inside / 9**3)
    assert iseg_asd_mm(cube, shell, **UNIT) == pytest.approx(inside / 9**3 / 2)


@pytest.mark.parametrize("seed", range(3))
def test_agrees_with_scikit_image(seed):
    rng = np.random.default_rng(seed)
    pred, truth = rng.random((9, 11, 7)) > 0.97, rng.random((9, 11, 7)) > 0.95
    assert iseg_mhd_mm(pred, truth, **UNIT) == pytest.approx(hausdorff_distance(pred, truth), rel=1e-12)
    modified = hausdorff_distance(pred, truth, method="modified")
    assert mhd_dubuisson_mm(pred, truth, **UNIT) == pytest.approx(modified, rel=1e-12)


def test_empty_masks():
    empty, mask = np.zeros((3, 3, 3), bool), np.ones((3, 3, 3), bool)
    for distance in (iseg_mhd_mm, iseg_asd_mm, mhd_dubuisson_mm):
        assert distance(empty, empty, **UNIT) == 0
        assert math.isnan(distance(mask, empty, **UNIT))
        assert distance(empty, mask, spacing_mm=(1.0, 1.0, 1.0), one_empty=9.0) == 9
