"""Voxel sides beside those of a training, axis by axis."""

import pytest

from jaxfuse.prediction.spacing import axes_across, check_spacing
from tests.refusals import refused

SHAPE = (8, 8, 8)


@pytest.mark.parametrize("sides", [(1.0, 1.0, 5.0), (1.1, 0.9, 5.5), (1.0, 1.0, 4.5)])
def test_a_tenth_is_allowed(sides):
    check_spacing("case a", sides, SHAPE, ((1.0, 1.0), (1.0, 1.0), (5.0, 5.0)))


@pytest.mark.parametrize("sides", [(1.12, 1.0, 5.0), (1.0, 0.88, 5.0), (1.0, 1.0, 5.6), (5.0, 1.0, 1.0)])
def test_more_is_refused(sides):
    message = r"case a has voxels of .* mm, and the run was trained on 1 x 1 x 5 mm: .* by 10%; .* --any_spacing"
    refused(message, check_spacing, "case a", sides, SHAPE, ((1.0, 1.0), (1.0, 1.0), (5.0, 5.0)))


def test_trainings_differ_among_themselves_or_have_no_size():
    trained = ((0.8, 1.2), (0.8, 1.2), (3.0, 6.0))
    check_spacing("case a", (1.0, 0.75, 6.5), SHAPE, trained)
    refused(
        r"trained on 0\.8 to 1\.2 x 0\.8 to 1\.2 x 3 to 6 mm", check_spacing, "case a", (1.0, 1.0, 7.0), SHAPE, trained
    )
    check_spacing("case a", (1.0, 1.0, 7.0), SHAPE, ())
    # One slice has no distance to the next.
    check_spacing("case a", (1.0, 1.0, 7.0), (8, 8, 1), trained)


def test_slices_across_another_axis_are_compared_row_by_row():
    assert axes_across(2, 2) == (0, 1, 2)
    # Axial slices have rows and columns of axes 0 and 1, coronal ones of axes 0 and 2.
    assert axes_across(2, 1) == (0, 2, 1)
    assert axes_across(0, 2) == (2, 0, 1)
    trained = ((1.0, 1.0), (1.0, 1.0), (5.0, 5.0))
    refused("voxels of 1 x 1 x 5 mm", check_spacing, "a.nii", (1.0, 1.0, 5.0), SHAPE, trained, axes_across(2, 1))
    check_spacing("a.nii", (1.0, 5.0, 1.0), SHAPE, trained, axes_across(2, 1))
