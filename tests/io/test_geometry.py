"""Units, orientations, sides and angles, from headers and affines."""

from pathlib import Path

import nibabel as nib
import numpy as np
import pytest

from jaxfuse.io.geometry import (
    centered_affine,
    check_sides,
    inline,
    is_sheared,
    largest_cosine,
    shift_in_voxels,
    sides_told,
    spacing_of,
    standing_of,
    steps_of,
)
from tests.made_cases import placed
from tests.refusals import refused

SHEARED = placed(rotation=[[1, 0.5, 0], [0, 1, 0], [0, 0, 1]], spacing_mm=(1, 2, 3))
TURN = np.array([[0.8, -0.6, 0], [0.6, 0.8, 0], [0, 0, 1]])
PATH = Path("a.nii")


def header(affine: np.ndarray | None, unit: int = 2, code: int = 1) -> nib.Nifti1Header:
    made = nib.Nifti1Image(np.zeros((2, 3, 4), np.uint8), None).header
    made["xyzt_units"] = unit
    if affine is not None:
        made.set_sform(affine, code)
    return made


def test_sides_and_right_angles():
    turned = placed((1.0, 2.0, 3.0), rotation=TURN)
    assert spacing_of(turned) == steps_of(turned) == pytest.approx((1, 2, 3))
    assert (is_sheared(turned), is_sheared(SHEARED)) == (False, True)
    # Axes 0 and 1 run along (1, 0) and (1, 2).
    assert largest_cosine(SHEARED) == pytest.approx(1 / np.sqrt(5))
    np.testing.assert_allclose(steps_of(SHEARED), [[1, 0, 0], [1, 2, 0], [0, 0, 3]])


def test_shift_is_that_of_the_farthest_corner_in_voxels():
    a = placed((0.5, 0.5, 2.0))
    assert shift_in_voxels(placed((0.5, 0.5, 2.0), (0, 0, 1.0)), a, (2, 3, 4)) == pytest.approx(0.5)
    # The last of 101 voxels lies 100 * 0.01 mm farther, which is two voxels.
    assert shift_in_voxels(placed((0.51, 0.5, 2.0)), a, (101, 3, 4)) == pytest.approx(2)
    assert shift_in_voxels(a, a, (1, 1, 1)) == 0


@pytest.mark.parametrize(
    ("unit", "scale", "name"), [(0, 1, ""), (2, 1, "mm"), (1, 1e-3, "meters"), (3, 1e3, "micrometers"), (11, 1e3, "m")]
)
def test_lengths_are_mm_whatever_the_unit(unit, scale, name):
    affine = placed((1.0, 1.5, 2.0), (4.0, 5.0, 6.0))
    stored = affine.copy()
    stored[:3] *= scale
    found = standing_of(PATH, header(stored, unit), (2, 3, 4))
    assert (found.oriented, found.unit.startswith(name)) == (True, True)
    np.testing.assert_allclose(found.affine, affine, rtol=1e-6)


def test_without_codes_the_axes_as_stored_are_the_canonical_ones():
    empty = header(None)
    empty["pixdim"][1:4] = 1, 1.5, 2
    found = standing_of(PATH, empty, (2, 3, 4))
    assert not found.oriented
    np.testing.assert_allclose(found.affine, centered_affine((2, 3, 4), (1, 1.5, 2)))
    # The middle of the volume, voxel (0.5, 1, 1.5), is the origin.
    np.testing.assert_allclose(found.affine @ [0.5, 1, 1.5, 1], [0, 0, 0, 1])


def test_flat_and_infinite_affines_and_unbelievable_units_are_refused():
    flat = placed(rotation=[[1, 1, 0], [1, 1, 0], [0, 0, 1]])
    for affine in (flat, placed((0, 1, 1)), placed((np.nan, 1, 1))):
        refused(
            "a.nii has no usable affine .*; correct its sform or qform", standing_of, PATH, header(affine), (2,) * 3
        )
    message = "header of a.nii is in meters, which makes voxels of 1000 x 1000 x 1000 mm"
    refused(message, standing_of, PATH, header(np.eye(4), 1), (2, 2, 2))


@pytest.mark.parametrize("sides", [(0, 1, 1), (1, np.nan, 1), (1, 1, np.inf)])
def test_sides_are_refused_where_they_count(sides):
    given = header(None)
    given["pixdim"][1:4] = sides
    refused(r"a\.nii has voxels of .* by its header; .* correct its pixdim", check_sides, PATH, given)
    given["sform_code"] = 1
    check_sides(PATH, given)


def test_words():
    assert sides_told((1, 1.50001, 10)) == "1 x 1.5 x 10"
    assert inline(np.diag([1, 2, 0.5, 1])) == "[1 0 0 0; 0 2 0 0; 0 0 0.5 0]"
