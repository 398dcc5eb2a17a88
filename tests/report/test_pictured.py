import numpy as np

from jaxfuse.report.pictured import Pictured


def test_the_head_is_what_the_image_or_any_label_map_marks():
    truth, pred, image = (np.zeros((4, 3, 2), np.int16) for _ in range(3))
    truth[0, 0, 0], pred[1, 0, 0], image[2, 0, 0] = 1, 2, -5
    for shown, expected in ((image, [1, 1, 1, 0]), (None, [1, 1, 0, 0])):
        case = Pictured(shown, "t1", truth, {"a": pred}, (1.0, 1.0, 1.0))
        np.testing.assert_array_equal(case.marked.sum(axis=(1, 2)), [1, 1, 0, 0])
        np.testing.assert_array_equal(case.shown.sum(axis=(1, 2)), expected)
