"""Voxels of many sizes: cases brought to one, and label maps back, or refused."""

import numpy as np

from jaxfuse.data.preprocess import uncrop
from jaxfuse.data.resample import on_acquired_grid, prepare_resampled
from tests.data.test_resample import SHAPE, made_case
from tests.faults.catalogue import given
from tests.refusals import refused


@given("a case of 1 x 1 x 5 mm, trained at 1 mm", "its label map comes back on its own grid, voxel by voxel")
def test_thick_slices_there_and_back():
    prepared = prepare_resampled(made_case(), (1.0, 1.0, 1.0))
    assert prepared.facts.original_shape == (*SHAPE[:2], 5 * SHAPE[2])
    back = on_acquired_grid(uncrop(prepared.label, prepared, 0), prepared.facts)
    np.testing.assert_array_equal(back, made_case().label)


@given("`data.resample_mm` of a hundredth of a millimeter", "refused: no memory holds such a grid")
def test_sides_that_are_too_small():
    refused("more than memory holds: choose larger sides", prepare_resampled, made_case(), (0.01, 0.01, 0.01))
