import math

import numpy as np
import pytest

from jaxfuse.metrics.panoptic import panoptic_scores
from tests.metrics.test_surface import blob
from tests.refusals import refused


def _line(*spans):
    mask = np.zeros((3, 40), bool)
    for start, end in spans:
        mask[1, start:end] = True
    return mask


def test_by_hand():
    """One match of IoU 0.8, one pair whose IoU is just 0.5, which is none, and one alarm."""
    truth, pred = _line((0, 10), (20, 24)), _line((0, 8), (22, 24), (30, 33))
    scores = panoptic_scores(pred, truth)
    assert (scores.ious, scores.false_positives, scores.false_negatives) == ((0.8,), 2, 1)
    assert (scores.segmentation, scores.recognition, scores.quality) == (0.8, 1 / 2.5, pytest.approx(0.8 / 2.5))


@pytest.mark.parametrize("shape", [(30, 34), (12, 14, 10)])
@pytest.mark.parametrize("seed", range(3))
def test_equals_every_pair_compared(seed, shape):
    from scipy import ndimage

    truth = blob(seed, shape, 0.15)
    pred = np.roll(truth, 1, axis=0) | blob(seed + 9, shape, 0.03)
    near = np.ones((3,) * len(shape))
    (made, count), (real, number) = ndimage.label(pred, near), ndimage.label(truth, near)
    ious = []
    for one in range(1, count + 1):
        for other in range(1, number + 1):
            both = ((made == one) & (real == other)).sum()
            iou = both / ((made == one) | (real == other)).sum()
            if iou > 0.5:
                ious.append(iou)
    scores = panoptic_scores(pred, truth)
    assert sorted(scores.ious) == pytest.approx(sorted(ious))
    assert (scores.false_positives, scores.false_negatives) == (count - len(ious), number - len(ious))
    assert scores.quality == pytest.approx(scores.segmentation * scores.recognition if ious else 0)


def test_empty_masks():
    none, one = _line(), _line((0, 4))
    both = panoptic_scores(none, none)
    assert (both.quality, both.segmentation, both.recognition) == (1, 1, 1)
    for scores in (panoptic_scores(none, one), panoptic_scores(one, none)):
        assert (scores.quality, scores.recognition) == (0, 0)
        assert math.isnan(scores.segmentation)


def test_refuses_matches_that_would_not_be_one_to_one():
    refused("above is 0.3; give an IoU from 0.5", panoptic_scores, _line(), _line(), above=0.3)
    refused("bring both onto one voxel grid", panoptic_scores, _line(), _line()[:2])
