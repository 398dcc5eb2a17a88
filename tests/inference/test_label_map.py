"""Label maps from probabilities."""

import numpy as np

from jaxfuse.inference.label_map import label_map


def test_the_most_probable_class_inside_the_brain_and_background_outside():
    voxels = [[[(0.1, 0.2, 0.7), (0.1, 0.7, 0.2)]], [[(0.0, 0.0, 1.0), (0.5, 0.3, 0.2)]]]
    probs = np.array(voxels, np.float32)
    labels = label_map(probs, np.array([0, 1, 3], np.int32))
    assert labels.dtype == np.uint8
    np.testing.assert_array_equal(labels, [[[2, 1]], [[0, 0]]])


def test_a_picture_is_labeled_alike():
    probs = np.array([[[0.4, 0.6], [0.1, 0.9]]], np.float32)
    np.testing.assert_array_equal(label_map(probs, np.array([0], np.int32)), [[1, 0]])
