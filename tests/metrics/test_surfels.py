import math

import numpy as np
import pytest

from jaxfuse.metrics.surfels import nsd, surfel_asd_mm, surfel_hd95_mm, surfels
from tests.metrics.test_surface import blob
from tests.refusals import refused

UNIT = {"spacing_mm": (1.0, 1.0, 1.0)}


def _box(shape, *sides):
    mask = np.zeros(shape, bool)
    mask[tuple(slice(*side) for side in sides)] = True
    return mask


def _area(mask, spacing_mm):
    return surfels(mask, mask, spacing_mm=spacing_mm).both[0].areas.sum()


def test_areas_of_one_voxel_by_hand():
    """Eight triangles, each between the middles of three edges."""
    a, b, c = 1.0, 2.0, 3.0
    one = math.sqrt((a * b) ** 2 + (b * c) ** 2 + (a * c) ** 2) / 8
    assert _area(_box((3, 3, 3), (1, 2), (1, 2), (1, 2)), (a, b, c)) == pytest.approx(8 * one)
    assert _area(_box((3, 3), (1, 2), (1, 2)), (a, b)) == pytest.approx(4 * math.hypot(a, b) / 2)


def test_flat_faces_have_their_own_area():
    """A plate of 10 x 20 voxels: the inner of its faces counts fully, whatever the slices' thickness."""
    plate = _box((12, 22, 4), (1, 11), (1, 21), (1, 3))
    area = _area(plate, (1.0, 1.0, 5.0))
    assert 2 * 9 * 19 < area < 2 * 10 * 20 + 2 * 2 * (10 + 20) * 5
    codes = surfels(plate, plate, spacing_mm=(1.0, 1.0, 5.0)).both[0]
    assert np.isclose(codes.areas, 1.0).sum() == 2 * 9 * 19


@pytest.mark.parametrize("shape", [(9, 11), (7, 8, 9)])
def test_a_mask_has_the_surface_of_its_complement(shape):
    mask = np.zeros(shape, bool)
    inner = tuple(slice(2, -2) for _ in shape)
    mask[inner] = blob(0, shape)[inner]
    block = np.zeros(shape, bool)
    block[tuple(slice(1, -1) for _ in shape)] = True
    spacing = (0.7, 2.0, 1.3)[: len(shape)]
    assert _area(block & ~mask, spacing) == pytest.approx(_area(block, spacing) + _area(mask, spacing), rel=1e-12)


def test_distances_of_two_plates_by_hand():
    """Plates that reach through the array, 3 voxels apart: all inner surfels are 3 or 4 mm away from the other's."""
    pred, truth = (_box((20, 8, 8), (at, at + 1), (0, 8), (0, 8)) for at in (5, 8))
    at = {"spacing_mm": (2.0, 1.0, 1.0), "one_empty": math.nan}
    assert surfel_hd95_mm(pred, truth, **at) == 6.0
    assert surfel_hd95_mm(pred, truth, percent=100, **at) == 6.0
    assert 4.0 <= surfel_asd_mm(pred, truth, **at) <= 6.0
    shares = [nsd(pred, truth, spacing_mm=at["spacing_mm"], tolerance_mm=mm) for mm in (3.9, 4.0, 6.0)]
    assert shares == pytest.approx([0, 0.5, 1])


def test_a_percentile_is_one_of_area_and_is_not_interpolated():
    """A stray voxel far away has less than 5 % of the surface, so that it does not show; with smaller masks it does."""
    truth = _box((40, 20, 20), (2, 14), (2, 14), (2, 14))
    pred = truth | _box(truth.shape, (35, 36), (8, 9), (8, 9))
    assert surfel_hd95_mm(pred, truth, one_empty=math.nan, **UNIT) == 0.0
    assert surfel_hd95_mm(pred, truth, percent=100, one_empty=math.nan, **UNIT) == pytest.approx(22.0, abs=1)
    small = _box(truth.shape, (12, 14), (8, 10), (8, 10))
    stray = small | (pred & ~truth)
    assert surfel_hd95_mm(stray, small, one_empty=math.nan, **UNIT) > 20


def test_directions_and_empty_masks():
    cube = _box((9, 9, 9), (3, 6), (3, 6), (3, 6))
    half = _box((9, 9, 9), (3, 4), (3, 6), (3, 6))
    assert surfel_asd_mm(half, cube, one_empty=9.0, **UNIT) != surfel_asd_mm(cube, half, one_empty=9.0, **UNIT)
    none = np.zeros_like(cube)
    for distance in (surfel_hd95_mm, surfel_asd_mm):
        assert [distance(*pair, one_empty=9.0, **UNIT) for pair in ((none, cube), (cube, none), (none, none))] == [
            9,
            9,
            0,
        ]
    assert [nsd(*pair, tolerance_mm=1.0, **UNIT) for pair in ((none, cube), (cube, none), (none, none))] == [0, 0, 1]


def test_a_single_slice_is_measured_in_its_plane():
    pred, truth = blob(1, (17, 23)), blob(2, (17, 23))
    flat = {"spacing_mm": (0.7, 2.0), "one_empty": math.nan}
    stack = {"spacing_mm": (0.7, 5.0, 2.0), "one_empty": math.nan}
    for distance in (surfel_hd95_mm, surfel_asd_mm):
        assert distance(pred[:, None], truth[:, None], **stack) == distance(pred, truth, **flat)


def test_axes_that_are_not_at_right_angles():
    """Steps at right angles, turned in the world, give what sides give; slanted ones an area of their own."""
    pred, truth = blob(3, (9, 12, 10)), blob(4, (9, 12, 10))
    turn = np.linalg.qr(np.random.default_rng(0).standard_normal((3, 3)))[0]
    sides = (0.7, 2.0, 1.3)
    for distance in (surfel_hd95_mm, surfel_asd_mm):
        straight = distance(pred, truth, spacing_mm=sides, one_empty=0.0)
        assert distance(pred, truth, spacing_mm=np.diag(sides) @ turn, one_empty=0.0) == pytest.approx(straight)
    slanted = np.array([[1.0, 0, 0], [0, 1, 0], [0, 1, 1]])
    slab = _box((3, 3, 3), (1, 2), (0, 3), (0, 3))
    found = surfels(slab, slab, spacing_mm=slanted).both[0]
    assert np.isclose(found.areas, 1.0).sum() == 8  # a sheared square keeps its area


def test_refuses_tolerances_and_percentiles_that_are_none():
    cube = np.ones((2, 2, 2), bool)
    refused("tolerance_mm is -1.0; give a distance in mm", nsd, cube, cube, tolerance_mm=-1.0, **UNIT)
    refused("percent is 0; give a percentile", surfel_hd95_mm, cube, cube, percent=0, one_empty=0.0, **UNIT)
    refused("bring both onto one voxel grid", nsd, cube, cube[:1], tolerance_mm=1.0, **UNIT)
