"""Planes of volumes, upright and radiological."""

import numpy as np
import pytest
from matplotlib.colors import LogNorm
from matplotlib.figure import Figure

from jaxfuse.report.planes import AXIAL, CORONAL, SAGITTAL, Plane, as_volume, center_of, plane, ratio_scale


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


def test_a_scale_of_ratios_holds_those_of_the_middle_case():
    calm, usual, freak = np.full(200, 1 / 1.5), np.array([0.5] * 99 + [2.0] * 99 + [0.0] * 9), np.full(5, 40.0)
    scale = ratio_scale([freak, calm, usual])
    assert (scale.vmin, scale.vmax) == pytest.approx((0.5, 2.0))
    one_in_two_hundred = np.array([3.0] * 199 + [500.0])
    assert ratio_scale([one_in_two_hundred]).vmax == pytest.approx(3.0)
    for flat in ([np.ones(9)], [np.zeros(9)], []):
        assert ratio_scale(flat).vmax == pytest.approx(1.1)


def test_ratios_are_drawn_inside_the_brain_and_cut_off_at_the_ends_of_their_scale():
    values = np.array([[0.0, 0.5], [3.0, 100.0]])
    for outside in (False, True):
        brain = np.array([[True, True], [not outside, True]])
        ax = Figure().subplots()
        plane_of = Plane(AXIAL, 0, (slice(None), slice(None), slice(None)), (1.0, 1.0, 1.0))
        plane_of.ratio(ax, as_volume(values), as_volume(brain), LogNorm(0.25, 4))
        drawn = ax.images[0].get_array()
        np.testing.assert_array_equal(drawn.filled(-1), [[0.25, 0.5], [-1 if outside else 3, 4]])
