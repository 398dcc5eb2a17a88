"""Label maps within the brain."""

import numpy as np

from jaxfuse.inference.label_map import masked_labels


def test_the_classes_of_the_brain_and_background_outside():
    labels = np.array([[[2, 1]], [[2, 1]]], np.uint8)
    masked = masked_labels(labels, np.array([0, 1, 3], np.int32))
    assert masked.dtype == np.uint8
    np.testing.assert_array_equal(masked, [[[2, 1]], [[0, 1]]])
    np.testing.assert_array_equal(labels[1], [[2, 1]])
    np.testing.assert_array_equal(masked_labels(labels[0], np.array([1], np.int32)), [[0, 1]])
