"""Voxels that differ from a value: counted or one by one, the numbers are the same."""

import numpy as np
import pytest

from jaxfuse.data.apart import apart_from, beyond


@pytest.mark.parametrize("dtype", [np.int16, np.uint8, np.uint16])
@pytest.mark.parametrize("value", [0.0, 7.0, 7.5, 3.25])
def test_small_integers_are_told_as_floats_are(dtype, value):
    rng = np.random.default_rng(0)
    for scale in (3, 20, 90):
        image = np.clip(rng.normal(4, scale, (9, 10, 11)), 0 if np.dtype(dtype).kind == "u" else -200, 200).astype(
            dtype
        )
        counted, single = apart_from(image, value), apart_from(image.astype(np.float32), value)
        assert counted.counts is not None
        assert single.counts is None
        assert counted.exact == single.exact == np.count_nonzero(image == value)
        for percent in (50, 95, 99.9, 100):
            assert counted.percentile(percent) == single.percentile(percent)
        for reach in (0.0, 1.0, 1.75, 30.0):
            near = int(np.count_nonzero(~beyond(image, value, reach)))
            assert counted.near(reach) == single.near(reach) == near


def test_an_image_of_one_value_has_nothing_apart():
    apart = apart_from(np.full((3, 4), 5, np.int16), 5.0)
    assert (apart.exact, apart.near(0.0), apart.percentile(95)) == (12, 12, 0.0)
