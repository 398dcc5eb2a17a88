"""Planes of volumes, upright and radiological."""

import numpy as np
import pytest

from jaxfuse.report.planes import AXIAL, CORONAL, SAGITTAL, as_volume, center_of, plane


@pytest.mark.parametrize(
    ("view", "corner"),
    # The voxel that is rightmost / foremost / topmost in both directions of the plane.
    [(AXIAL, (-1, -1, 3)), (CORONAL, (-1, 3, -1)), (SAGITTAL, (3, -1, -1))],
)
def test_right_front_and_top_are_at_the_upper_left(view, corner):
    volume = np.zeros((6, 7, 8))
    volume[corner] = 1
    picture = plane(volume, view, 3)
    expected = [side for axis, side in enumerate(volume.shape) if axis != view.axis]
    assert picture.shape == (expected[1], expected[0])
    assert np.argwhere(picture).tolist() == [[0, 0]]


def test_the_planes_go_through_the_largest_areas_of_the_first_label_map_that_has_any():
    brain = np.ones((9, 9, 9), bool)
    truth, pred = np.zeros((9, 9, 9), int), np.zeros((9, 9, 9), int)
    pred[1:4, 2:7, 5] = 2
    assert center_of([truth, pred], brain) == (2, 4, 5)
    truth[6, 6, 1:4] = 1
    assert center_of([truth, pred], brain) == (6, 6, 2)
    assert center_of([None], brain) == (4, 4, 4)


@pytest.mark.parametrize("channels", [(), (2,)])
def test_a_picture_is_the_axial_plane_of_its_volume(channels):
    picture = np.random.default_rng(0).random((5, 7, *channels))
    volume = as_volume(picture)
    assert volume.shape == (7, 5, 1, *channels)
    np.testing.assert_array_equal(plane(volume, AXIAL, 0), picture)
