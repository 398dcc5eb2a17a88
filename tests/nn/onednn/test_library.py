"""oneDNN's convolutions on arrays of numpy, and the orders of axes that it is told."""

import numpy as np
import pytest

from jaxfuse.nn.onednn import library
from jaxfuse.nn.onednn.library import (
    Convolution,
    Library,
    OneDnnError,
    channels_second,
    features_first,
    installed,
)

needs_library = pytest.mark.skipif(installed() is None, reason='needs pip install "jaxfuse[onednn]"')


def _viewed(array, description):
    """The array in the order that a description says."""
    sides, steps = description
    return np.lib.stride_tricks.as_strided(array, sides, [array.itemsize * step for step in steps])


def test_maps_are_described_with_their_channels_second():
    array = np.arange(2 * 3 * 4 * 5).reshape(2, 3, 4, 5)
    np.testing.assert_array_equal(_viewed(array, channels_second(array.shape)), array.transpose(0, 3, 1, 2))


def test_kernels_are_described_with_their_features_first_and_by_groups():
    array = np.arange(3 * 3 * 2 * 6).reshape(3, 3, 2, 6)
    turned = array.transpose(3, 2, 0, 1)
    np.testing.assert_array_equal(_viewed(array, features_first(array.shape, 1)), turned)
    # Of three groups each has two neighboring features.
    np.testing.assert_array_equal(_viewed(array, features_first(array.shape, 3)), turned.reshape(3, 2, 2, 3, 3))


def test_nothing_is_installed_where_the_distribution_is_not(monkeypatch):
    monkeypatch.setattr(library, "DISTRIBUTION", "no-such-distribution-of-jaxfuse")
    assert installed() is None


@needs_library
def test_a_convolution_at_addresses_is_the_sum_over_its_taps():
    rng = np.random.default_rng(0)
    x, kernel = (rng.normal(size=shape).astype(np.float32) for shape in ((2, 6, 7, 3), (3, 3, 3, 4)))
    y = np.zeros((2, 4, 5, 4), np.float32)
    convolution = Convolution(Library(installed()), "result", (x.shape, kernel.shape, y.shape), (1, 1), (0, 0))
    convolution(x.ctypes.data, kernel.ctypes.data, y.ctypes.data)
    patches = np.lib.stride_tricks.sliding_window_view(x, (3, 3), axis=(1, 2))
    np.testing.assert_allclose(y, np.einsum("bhwmst,stmk->bhwk", patches, kernel), rtol=1e-5, atol=1e-5)


@needs_library
def test_shapes_that_do_not_fit_are_refused():
    shapes = (1, 4, 4, 2), (3, 3, 2, 2), (1, 9, 9, 2)
    with pytest.raises(OneDnnError, match="status"):
        Convolution(Library(installed()), "result", shapes, (1, 1), (1, 1))
