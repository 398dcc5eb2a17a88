"""The choice of a plan: what made cases dictate, and nothing that lowers a region."""

import numpy as np
import pytest

from jaxfuse.labels import SCHEMES, label_scheme
from jaxfuse.metrics.overlap import dice
from jaxfuse.postprocessing.choice import Labeled, choose, groups_of, labeled, mean_dice
from jaxfuse.postprocessing.steps import FillHoles, KeepLargest, RemoveSmall, ReplaceSmallTotal

GLIOMA = SCHEMES["brats"]
NECROSIS, EDEMA, ENHANCING = GLIOMA.classes[1:]
SIDES = (1.0, 1.0, 1.0)


def quiet(done: int, of: int) -> None:
    assert 1 <= done <= of


def tumor(side: int = 9) -> np.ndarray:
    """Edema around core around enhancing tumor, to one side of a volume."""
    labels = np.zeros((24, 14, 14), np.uint8)
    for value, margin in ((2, 0), (1, 2), (3, 3)):
        labels[(slice(1 + margin, 1 + side - margin),) * 3] = value
    return labels


def chosen(*pairs: tuple[np.ndarray, np.ndarray], scheme=GLIOMA, sides=SIDES):
    return choose([labeled(found, truth, sides) for found, truth in pairs], scheme, quiet)


def test_nothing_is_taken_where_nothing_helps():
    choice = chosen((tumor(), tumor()))
    assert (choice.plan.steps, choice.before, choice.after) == (
        (),
        dict.fromkeys(("WT", "TC", "ET"), 1.0),
        choice.before,
    )
    assert not any(trial.taken for trial in choice.trials)


def test_islands_are_removed_by_the_mildest_of_equal_steps():
    found = tumor()
    found[18:21, 8:11, 8:11] = 2  # 27 mm3; 50 is the first volume tried that reaches it
    choice = chosen((found, tumor()), (tumor(), tumor()))
    assert choice.plan.steps == (RemoveSmall("WT", "background", 50.0),)
    assert choice.before["WT"] < choice.after["WT"] == 1.0


def test_a_large_island_takes_the_largest_part_where_that_is_the_tumor():
    found = tumor(13)  # 2,197 mm3
    found[15:23, :12, :12] = 2  # 1,152 mm3, more than any volume that is tried
    assert chosen((found, tumor(13))).plan.steps == (KeepLargest("WT", "background"),)
    found = tumor()  # 729 mm3
    found[15:23, :12, :12] = 2
    assert chosen((found, tumor())).plan.steps == ()


def test_a_step_that_lowers_another_region_is_refused():
    """Islands of core: gone from TC they leave a hole in WT, unless they become edema."""
    truth = tumor()
    found = truth.copy()
    found[1, 1:3, 1:3] = 1  # a corner of the edema taken for core
    choice = chosen((found, truth))
    assert choice.plan.steps == (RemoveSmall("TC", EDEMA, 10.0),)
    assert choice.after == {"WT": 1.0, "TC": 1.0, "ET": 1.0}
    lowered = next(trial for trial in choice.trials if trial.step == RemoveSmall("TC", "background", 10.0))
    assert lowered.dice["TC"] == 1.0
    assert lowered.dice["WT"] < 1.0
    assert not lowered.taken


def test_a_rise_of_the_mean_that_lowers_one_region_is_refused():
    """Islands of core are false in one case, and in the other they are true, as parts of WT alone."""
    truth = tumor()
    false, true = truth.copy(), truth.copy()
    false[18, 1:13:2, 1:13:2] = 1  # 36 parts
    true[18, 1:13:2, 1:13:2] = 2
    choice = chosen((false, true))
    removed = {step.becomes: step for step in (RemoveSmall("TC", EDEMA, 10.0), RemoveSmall("TC", "background", 10.0))}
    dice_of = {trial.step: trial.dice for trial in choice.trials}
    assert dice_of[removed["background"]]["TC"] == 1.0 > dice_of[removed["background"]]["WT"]
    assert np.mean(list(dice_of[removed["background"]].values())) > np.mean(list(choice.before.values()))
    assert choice.plan.steps == (removed[EDEMA],)


def test_holes_are_filled():
    found = tumor()
    found[5, 5, 5] = 0
    choice = chosen((found, tumor()))
    assert choice.plan.steps == (FillHoles("WT", EDEMA), FillHoles("TC", NECROSIS), FillHoles("ET", ENHANCING))
    assert choice.after == {"WT": 1.0, "TC": 1.0, "ET": 1.0}


def test_a_small_enhancing_tumor_that_is_none_becomes_necrosis():
    truth = tumor()
    truth[truth == 3] = 1
    found = truth.copy()
    found[5:8, 5:8, 5] = 3  # 9 mm3, and half of it would do
    found[3:6, 3:6, 3] = 3
    choice = chosen((found, truth), (tumor(), tumor()))
    assert choice.before["ET"] == 0.5
    assert choice.after["ET"] == 1.0
    assert choice.plan.steps == (RemoveSmall("ET", NECROSIS, 10.0),)
    found[3:6, 3:8, 3] = 3  # 15 mm3 in one part, 24 in all; the true one has 27
    choice = chosen((found, truth), (tumor(), tumor()))
    assert choice.plan.steps == ()
    large = tumor(13)  # 343 mm3
    assert chosen((found, truth), (large, large)).plan.steps == (RemoveSmall("ET", NECROSIS, 50.0),)


def test_the_rule_of_brats_is_taken_where_parts_do_not_tell():
    """False enhancing tumor is one small part; the true one is many of them."""
    false = tumor(13)
    false[false == 3] = 1
    found, true = false.copy(), false.copy()
    found[4:8, 4:8, 4] = 3  # 16 mm3
    for row in (4, 7):
        for place in (4, 6, 8, 10):
            true[4:10, row : row + 2, place] = 3  # 12 mm3
    choice = chosen((found, false), (true, true))
    assert choice.plan.steps == (ReplaceSmallTotal("ET", NECROSIS, 50.0),)
    assert (choice.before["ET"], choice.after["ET"]) == (0.5, 1.0)


def test_volumes_are_those_of_the_voxels():
    found = tumor()
    found[20, 8:10, 8:10] = 2
    steps = [chosen((found, tumor()), sides=(side, 1.0, 1.0)).plan.steps for side in (1.0, 20.0)]
    assert steps == [(RemoveSmall("WT", "background", 10.0),), (RemoveSmall("WT", "background", 100.0),)]


def test_groups_name_all_regions_and_the_foreground_where_it_is_none():
    of = {name: [step.of for group in groups_of(SCHEMES[name]) for step in group] for name in ("brats", "iseg")}
    assert set(of["brats"]) == {"WT", "TC", "ET"}
    assert list(dict.fromkeys(of["iseg"])) == ["foreground", "CSF", "GM", "WM"]
    for name in SCHEMES:
        assert all(step.becomes in SCHEMES[name].classes for group in groups_of(SCHEMES[name]) for step in group)


def test_scores_are_those_of_whole_volumes_with_the_rule_for_empty_masks():
    scheme = label_scheme("rim=1,core=2")
    rng = np.random.default_rng(0)
    pairs = [(rng.integers(0, 3, (2, 6, 5, 4)) * np.uint8(k)).astype(np.uint8) % 3 for k in (0, 1, 2)]
    cases = [labeled(np.pad(a, 2), np.pad(b, 2), SIDES) for a, b in pairs]
    expected = {name: np.mean([dice(a == k, b == k) for a, b in pairs]) for name, k in (("rim", 1), ("core", 2))}
    assert mean_dice(cases, scheme) == pytest.approx(expected)
    assert mean_dice(cases[:1], scheme) == {"rim": 1.0, "core": 1.0}


def test_a_case_of_one_slice_in_a_volume_stays_within_a_volume():
    """A ring in one slice of a volume encloses nothing, also where the case is cut to it."""
    found = np.zeros((9, 9, 9), np.uint8)
    found[2:7, 2:7, 4] = 2
    truth = found.copy()
    found[4, 4, 4] = 0
    assert chosen((found, truth)).plan.steps == ()
    assert chosen((found[..., 4:5], truth[..., 4:5])).plan.steps == (FillHoles("WT", EDEMA),)
    assert isinstance(labeled(found, truth, SIDES), Labeled)
