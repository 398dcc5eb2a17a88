"""Arrays laid as their memory is, and back."""

import numpy as np

from jaxfuse.data.memory_order import in_memory_order, memory_order

ARRAY = np.arange(4 * 5 * 6).reshape(4, 5, 6)


def test_any_view_of_memory_in_one_piece_is_laid_in_one_piece_and_back():
    for view in (ARRAY, ARRAY.T, ARRAY[::-1, :, ::-1].transpose(1, 2, 0)):
        order = memory_order(view)
        np.testing.assert_array_equal(in_memory_order(view), ARRAY)
        assert in_memory_order(view).flags.c_contiguous
        np.testing.assert_array_equal(order.back(order.laid(view)), view)


def test_arrays_of_other_memory_are_laid_alike():
    view = ARRAY.T[::-1]
    other = np.ascontiguousarray(view)
    np.testing.assert_array_equal(memory_order(view).laid(other), in_memory_order(view))
