import numpy as np
import pytest

from jaxfuse.metrics.lesions import GLIOMA, MENINGIOMA, METASTASES, Matching, lesion_scores
from jaxfuse.metrics.surfels import surfel_hd95_mm
from tests.metrics.slow_lesions import slow_lesion_scores
from tests.metrics.test_surface import blob

UNIT = {"spacing_mm": (1.0, 1.0, 1.0)}
# Lesions of any size, by their own voxels.
PLAIN = Matching(dilations=0, smallest_mm3=0.0)


def _cubes(*corners, side=4, shape=(40, 40, 40)):
    mask = np.zeros(shape, bool)
    for corner in corners:
        mask[tuple(slice(at, at + side) for at in corner)] = True
    return mask


@pytest.mark.parametrize("matching", [GLIOMA, MENINGIOMA, METASTASES, PLAIN])
@pytest.mark.parametrize("seed", range(8))
def test_equals_the_definition_step_by_step(seed, matching):
    rng = np.random.default_rng(seed)
    shape = (18, 22, 14) if seed % 4 else (40, 50)
    spacing = tuple(rng.uniform(0.6, 2.0, len(shape)))
    truth = blob(seed, shape, 0.05)
    pred = blob(seed + 50, shape, 0.04) | (truth & blob(seed + 90, shape, 0.5))
    found = lesion_scores(pred, truth, spacing_mm=spacing, matching=matching)
    values = (found.dice, found.hd95_mm, found.true_positives, found.false_negatives, found.false_positives)
    assert values == pytest.approx(slow_lesion_scores(pred, truth, spacing, matching), rel=1e-12)


def test_a_miss_and_a_false_alarm_by_hand():
    """One lesion found exactly, one missed, one false alarm: Dice (1 + 0 + 0) / 3, distance (0 + 374 + 374) / 3."""
    found, missed, alarm = (5, 5, 5), (20, 20, 20), (30, 5, 30)
    scores = lesion_scores(_cubes(found, alarm), _cubes(found, missed), **UNIT)
    assert (scores.dice, scores.hd95_mm) == (pytest.approx(1 / 3), pytest.approx(2 * 374 / 3))
    assert (scores.true_positives, scores.false_negatives, scores.false_positives, scores.f1) == (1, 1, 1, 0.5)
    assert [(one.volume_mm3, one.found_mm3, one.missed) for one in scores.lesions] == [(64, 64, False), (64, 0, True)]
    assert [(one.volume_mm3, one.center) for one in scores.false_alarms] == [(64.0, (31.5, 6.5, 31.5))]
    assert [one.center for one in scores.lesions] == [(6.5, 6.5, 6.5), (21.5, 21.5, 21.5)]


def test_small_lesions_do_not_count_but_excuse_what_was_found_of_them():
    tiny = _cubes((20, 20, 20), side=2)  # 8 mm3
    one = _cubes((5, 5, 5))
    scores = lesion_scores(one | tiny, one | tiny, **UNIT)
    assert (len(scores.lesions), scores.false_positives, scores.dice, scores.hd95_mm) == (1, 0, 1.0, 0.0)
    assert lesion_scores(one, one | tiny, **UNIT).dice == 1.0, "a miss of it costs nothing"
    assert lesion_scores(one | tiny, one, **UNIT).false_positives == 1, "a false alarm counts, however small"
    limit = Matching(smallest_mm3=64.0)
    assert lesion_scores(one, one, matching=limit, **UNIT).lesions == (), "one of exactly this volume does not count"
    assert len(lesion_scores(one, one, spacing_mm=(1.01, 1.0, 1.0), matching=limit).lesions) == 1


def test_parts_of_the_truth_that_lie_close_are_one_lesion():
    """Gaps of up to twice the dilations are bridged: with one step, of two voxels."""
    near = _cubes((5, 5, 5), (5, 5, 11))
    for matching, count in ((GLIOMA, 1), (MENINGIOMA, 1), (PLAIN, 2)):
        assert len(lesion_scores(near, near, matching=matching, **UNIT).lesions) == count
    apart = _cubes((5, 5, 5), (5, 5, 12))
    assert [len(lesion_scores(apart, apart, matching=m, **UNIT).lesions) for m in (GLIOMA, MENINGIOMA)] == [1, 2]


def test_a_component_may_serve_two_lesions():
    truth = _cubes((5, 5, 5), (5, 5, 20))
    bridge = truth.copy()
    bridge[6, 6, 5:24] = True
    scores = lesion_scores(bridge, truth, **UNIT)
    whole = bridge.sum()
    assert [one.found_mm3 for one in scores.lesions] == [whole, whole]
    assert scores.dice == pytest.approx(2 * 64 / (whole + 64))
    assert (scores.true_positives, scores.false_positives) == (2, 0)


def test_a_component_near_a_lesion_is_no_false_alarm():
    truth = _cubes((5, 5, 5))
    beside = _cubes((5, 5, 5), (5, 5, 11), side=4)  # two voxels away
    assert lesion_scores(beside, truth, matching=GLIOMA, **UNIT).false_positives == 0
    assert lesion_scores(beside, truth, matching=MENINGIOMA, **UNIT).false_positives == 1


def test_empty_masks():
    one, none = _cubes((5, 5, 5)), np.zeros((40, 40, 40), bool)
    both = lesion_scores(none, none, **UNIT)
    assert (both.dice, both.hd95_mm, both.f1, both.lesions) == (1.0, 0.0, 1.0, ())
    missed, alarm = lesion_scores(none, one, **UNIT), lesion_scores(one, none, **UNIT)
    assert (missed.dice, missed.hd95_mm, missed.f1) == (alarm.dice, alarm.hd95_mm, alarm.f1) == (0.0, 374.0, 0.0)


def test_a_lesion_of_one_slice_of_a_volume_keeps_its_depth():
    """Its surface has two faces; a volume of one slice is measured in its plane."""
    flat = _cubes((5, 5, 5), side=8)
    flat[:, :, 6:] = False
    thick = flat | np.roll(flat, 1, 2)
    found = lesion_scores(thick, flat, spacing_mm=(1.0, 1.0, 10.0), matching=PLAIN)
    assert found.hd95_mm == surfel_hd95_mm(thick, flat, spacing_mm=(1.0, 1.0, 10.0), one_empty=0.0) == 10.0
    pred, truth = blob(0, (30, 30), 0.1), blob(1, (30, 30), 0.1)
    plane = lesion_scores(pred, truth, spacing_mm=(1.0, 2.0), matching=PLAIN)
    slice_ = lesion_scores(pred[..., None], truth[..., None], spacing_mm=(1.0, 2.0, 3.0), matching=PLAIN)
    assert (slice_.dice, slice_.hd95_mm) == (plane.dice, plane.hd95_mm)
    assert [one.volume_mm3 for one in slice_.lesions] == [3 * one.volume_mm3 for one in plane.lesions]


def test_dilation_does_not_leave_the_array():
    """Two parts at the border that could meet outside of it only stay two."""
    truth = np.zeros((12, 12, 12), bool)
    truth[0, 0:4, 0:4] = truth[0, 8:12, 8:12] = True
    assert len(lesion_scores(truth, truth, matching=Matching(1, 0.0), **UNIT).lesions) == 2
