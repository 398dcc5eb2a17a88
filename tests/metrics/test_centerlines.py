import numpy as np
import pytest

from jaxfuse.metrics.centerlines import cl_dice
from tests.refusals import refused


def _tube(start=0, end=30, *, width=1, shape=(9, 9, 30)):
    mask = np.zeros(shape, bool)
    mask[4 - width : 5 + width, 4 - width : 5 + width, start:end] = True
    return mask


def test_a_thinner_tube_has_the_same_center_line():
    assert cl_dice(_tube(width=0), _tube(width=1)) == 1.0


def test_a_gap_costs_its_share_of_the_line():
    """Twenty of 30 voxels of the true line are found, and all that is found is true: (4 / 3) / (5 / 3) = 0.8."""
    line, broken = _tube(width=0), _tube(width=0)
    broken[..., 10:20] = False
    assert cl_dice(broken, line) == pytest.approx(0.8)
    assert cl_dice(line, broken) == pytest.approx(0.8)


def test_in_the_plane_and_apart():
    line = np.zeros((9, 20), bool)
    line[4] = True
    assert cl_dice(line, line) == 1.0
    assert cl_dice(line, np.roll(line, 3, axis=0)) == 0.0


def test_a_solid_part_whose_skeleton_vanishes_has_a_center():
    """Nothing would be left of a cube of an even side, and its scores would be 0 / 0."""
    cube, other = np.zeros((12, 12, 12), bool), np.zeros((12, 12, 12), bool)
    cube[2:8, 2:8, 2:8] = True
    other[6:12, 6:12, 6:12] = True
    assert cl_dice(cube, cube) == 1.0
    assert cl_dice(cube, other) == 0.0
    both = cube | _tube(8, 12, width=0, shape=(12, 12, 12))
    assert cl_dice(both, both) == 1.0


def test_empty_masks_and_shapes():
    tube, none = _tube(), np.zeros((9, 9, 30), bool)
    assert [cl_dice(*pair) for pair in ((none, none), (none, tube), (tube, none))] == [1, 0, 0]
    refused("bring both onto one voxel grid", cl_dice, tube, tube[:2])
