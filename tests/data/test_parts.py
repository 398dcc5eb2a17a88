"""Connected parts equal those that SciPy numbers voxel by voxel."""

import numpy as np
import pytest
from scipy import ndimage

from jaxfuse.data.parts import parts_of


@pytest.mark.parametrize("shape", [(9, 8, 11), (1, 8, 11), (13, 17), (40,), (5, 6, 1)])
@pytest.mark.parametrize("corners", [True, False])
def test_parts_are_those_of_scipy(shape, corners):
    rng = np.random.default_rng(0)
    for share in (0.05, 0.3, 0.5, 0.8, 1.0):
        mask = rng.random(shape) < share
        numbers, count = ndimage.label(mask, np.ones((3,) * mask.ndim, bool) if corners else None)
        parts = parts_of(mask, corners=corners)
        assert parts.count == count
        assert sorted(parts.sizes()) == sorted(np.bincount(numbers.ravel())[1:])
        inner = np.zeros(shape, bool)
        inner[(slice(1, -1),) * mask.ndim] = True
        at_faces = np.unique(numbers[mask & ~inner])
        np.testing.assert_array_equal(parts.mask_of(parts.at_faces()), np.isin(numbers, at_faces) & mask)
        for part in range(min(count, 5)):
            found = parts.mask_of(np.arange(count) == part)
            assert len(np.unique(numbers[found])) == 1
            assert found.sum() == (numbers == numbers[found][0]).sum()


def test_nothing_has_no_parts():
    parts = parts_of(np.zeros((3, 4, 5), bool), corners=True)
    assert (parts.count, parts.sizes().size, parts.mask_of(parts.at_faces()).any()) == (0, 0, False)
