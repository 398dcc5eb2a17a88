"""Where windows are placed, what an example holds, and which cases are refused."""

import itertools
import pickle
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from jaxfuse.data.pipeline import PatchSampler
from jaxfuse.data.prepared import CachedCase
from jaxfuse.data.sampling import (
    SAMPLINGS,
    Foreground,
    brain,
    check_sampling,
    mixed,
    sampling_rule,
    tiles,
    tumor,
    tumor_or_brain,
    whole,
    windows_with_label,
)
from jaxfuse.patches import tile_volume, window_around
from tests.data.examples import example_at, sampled
from tests.refusals import refused

PATCH = (4, 4, 4)


def _draws(rule, case, count=300, window=PATCH):
    rng = np.random.default_rng(0)
    return np.array([rule(case, window, rng) for _ in range(count)])


def test_tumor_draws_every_labeled_voxel_and_brain_all_of_the_brain_without_a_label(random_cases):
    drawn = _draws(tumor, random_cases.train[0])
    assert (tuple(drawn.min(0)), tuple(drawn.max(0))) == random_cases.tumor
    assert len({tuple(center) for center in drawn}) == 3 * 4 * 3
    drawn = _draws(brain, random_cases.bare, 2000)
    assert (drawn.min(0).tolist(), drawn.max(0).tolist()) == ([0, 0, 0], [n - 1 for n in random_cases.shape])


def test_mixed_draws_half_of_the_time_from_the_tumor(random_cases):
    def share(case):
        drawn = _draws(mixed, case, 2000)
        return ((drawn >= random_cases.tumor[0]) & (drawn <= random_cases.tumor[1])).all(1).mean()

    # One half from the tumor, and of the rest the share that it has of the volume; 2000 draws, deviation 0.011.
    by_chance = 36 / np.prod(random_cases.shape)
    assert share(random_cases.train[0]) == pytest.approx(0.5 + by_chance / 2, abs=0.05)
    assert share(random_cases.healthy) == pytest.approx(by_chance, abs=0.02)
    assert share(random_cases.bare) == pytest.approx(by_chance, abs=0.02)


@pytest.mark.parametrize("rule", [tumor, brain])
def test_the_window_holds_its_center_and_stays_inside(random_cases, rule):
    case, centers, rng = random_cases.train[1], [], np.random.default_rng(3)

    def remembered(case, window, rng):
        centers.append(rule(case, window, rng))
        return centers[-1]

    for _ in range(6):
        example = sampled(case, PATCH, remembered, rng)
        assert (example["image"].dtype, example["label"].dtype) == (np.float32, np.uint8)
        (start,) = np.array(random_cases.places(case, example))
        assert ((start <= centers[-1]) & (centers[-1] < start + 4)).all()
        assert ((start >= 0) & (start + 4 <= random_cases.shape)).all()


def test_the_same_generator_gives_the_same_patch_and_the_next_one_another(random_cases):
    rngs = [np.random.default_rng(5) for _ in range(2)]
    first, again, following = (sampled(random_cases.train[0], PATCH, brain, rngs[i])["image"] for i in (0, 1, 0))
    np.testing.assert_array_equal(first, again)
    assert not np.array_equal(first, following)


def test_a_patch_larger_than_the_brain_holds_all_of_it_amid_background(random_cases):
    case = random_cases.train[2]
    example = sampled(case, (16, 10, 4), tumor, np.random.default_rng(0))
    assert example["image"].shape == (16, 10, 4, 2)
    filled = np.flatnonzero(example["image"].any((1, 2, 3)))
    assert (filled[-1] - filled[0] + 1, len(filled)) == (12, 12)
    assert len(random_cases.places(case, example)) == 1


def test_an_unlabeled_case_gives_images_alone(random_cases):
    assert set(example_at(random_cases.bare, (0, 0, 0), PATCH)) == {"image"}
    labeled = example_at(random_cases.train[0], (7, 1, 2), (3, 4, 3))["label"]
    np.testing.assert_array_equal(labeled, np.full((3, 4, 3), 2))


def test_rules_by_name():
    centers = {"tumor": tumor, "brain": brain, "mixed": mixed, "whole": whole, "foreground": Foreground(5)}
    centers |= {"tiles": tiles, "tumor_or_brain": tumor_or_brain}
    assert {name: sampling_rule(name).center for name in SAMPLINGS} == centers
    assert sampling_rule("foreground", {"grid": 8}).center == Foreground(8)
    choices = "tumor, brain, tumor_or_brain, mixed, whole, foreground, tiles"
    refused(f"sampling is 'lesion'; choose one of {choices}", sampling_rule, "lesion")
    refused('sampling="tiles" has no option grid', sampling_rule, "tiles", {"grid": 2})
    refused('sampling="brain" has no option grid; leave it out of sampling_args', sampling_rule, "brain", {"grid": 5})
    for grid in (0, 9):
        message = rf"the grid of windows is {grid}; with windows of \(9, 8, 9\) choose 1 to 8"
        refused(message, check_sampling, (), (9, 8, 9), sampling_rule("foreground", {"grid": grid}), pad=False)


def test_a_case_without_label_gives_a_place_of_the_brain_where_others_give_one_of_the_tumor(random_cases):
    for case, rule in ((random_cases.train[0], tumor), (random_cases.healthy, brain), (random_cases.bare, brain)):
        for seed in range(5):
            drawn = [one(case, PATCH, np.random.default_rng(seed)) for one in (tumor_or_brain, rule)]
            assert drawn[0] == drawn[1]


def test_what_rules_need():
    facts = ("needs_label", "needs_brain", "centered")
    assert {fact: [name for name, rule in SAMPLINGS.items() if getattr(rule, fact)] for fact in facts} == {
        "needs_label": ["tumor", "foreground"],
        "needs_brain": ["tumor", "brain", "tumor_or_brain", "mixed", "foreground"],
        "centered": ["whole"],
    }


def test_validation_patches_lie_by_the_rule_of_training_where_it_serves_every_case(random_cases):
    train, healthy = random_cases.train, random_cases.healthy
    found = {name: rule.validation_center(train) for name, rule in SAMPLINGS.items()}
    assert found == {name: rule.center for name, rule in SAMPLINGS.items()} | {"mixed": brain}
    served = {name: rule.validation_center([*train, healthy]) for name, rule in SAMPLINGS.items()}
    assert served == found | {"tumor": brain, "foreground": brain}
    assert sampling_rule("foreground", {"grid": 1}).validation_center(train) == Foreground(1)


def test_cases_that_cannot_be_served_are_refused_before_training(random_cases):
    train = random_cases.train
    check_sampling(train, (12, 10, 9), SAMPLINGS["tumor"], pad=False)
    message = r"the patch \(12, 11, 9\) is larger than the volume \(12, 10, 9\) of case case0"
    refused(message, check_sampling, train, (12, 11, 9), SAMPLINGS["tumor"], pad=False)
    check_sampling(train, (12, 11, 9), SAMPLINGS["tumor"], pad=True)
    for case in (random_cases.bare, random_cases.healthy):
        message = f"case {case.id} has no tumor voxel to center a patch on"
        refused(message, check_sampling, [*train, case], PATCH, SAMPLINGS["tumor"], pad=False)
        check_sampling([*train, case], PATCH, SAMPLINGS["brain"], pad=False)
    for pad in (False, True):
        message = r"the patch \(8, 8\) has 2 sides and case case0 3 axes"
        refused(message, check_sampling, train, (8, 8), SAMPLINGS["brain"], pad=pad)


def test_the_image_reaches_further_than_the_label_by_the_margin(random_cases):
    case = random_cases.train[0]
    example = example_at(case, (6, 0, 4), (4, 4, 4), margin=2)
    np.testing.assert_array_equal(example["label"], case.label[6:10, :4, 4:8])
    assert example["label"].any()
    # Two rows lie in front of the volume, one behind it.
    expected = np.pad(case.image[4:12, :6, 2:9], ((0, 0), (2, 0), (0, 1), (0, 0)))
    np.testing.assert_array_equal(example["image"], expected)


def test_every_voxel_can_lie_in_a_window(random_cases):
    """The window is centered on any voxel of the brain, though shifted into the volume; its image is not."""
    case, seen = random_cases.train[1], np.zeros(random_cases.shape, int)
    for center in itertools.product(*(range(0, n + 2, 4) for n in random_cases.shape)):
        example = sampled(case, (14,) * 3, lambda *_, c=center: c, np.random.default_rng(0), margin=5)
        assert (example["image"].shape, example["label"].shape) == ((14, 14, 14, 2), (4, 4, 4))
        inner = example["image"][5:-5, 5:-5, 5:-5]
        ((d, h, w),) = random_cases.places(case, {"image": inner, "label": example["label"]})
        seen[d : d + 4, h : h + 4, w : w + 4] += 1
    assert seen.min() > 0


def test_the_window_of_the_whole_picture_is_centered_and_holds_a_thinner_volume(random_cases):
    case = random_cases.train[2]
    assert random_cases.places(case, sampled(case, (16, 10, 12), whole, np.random.default_rng(0))) == [(-2, 0, -2)]
    example = sampled(case, (22, 16, 16), whole, np.random.default_rng(0), margin=3)
    assert example["label"].shape == (16, 10, 10)
    np.testing.assert_array_equal(example["label"][2:14, :, 1:], case.label)
    np.testing.assert_array_equal(example["image"][5:17, 3:13, 4:13], case.image)


@pytest.mark.parametrize(("window", "grid"), [((4, 4, 4), 3), ((5, 3, 2), 1), ((20, 4, 4), 2)])
def test_foreground_draws_every_window_of_the_grid_that_holds_a_label_and_no_other(random_cases, window, grid):
    case, rng, rule = random_cases.train[0], np.random.default_rng(0), Foreground(grid)
    axes = [
        sorted({*range(0, max(n - side, 0), grid), n - side} if n > side else {-4})
        for n, side in zip(random_cases.shape, window, strict=True)
    ]
    expected = {start for start in itertools.product(*axes) if example_at(case, start, window)["label"].any()}
    centers = [rule(case, window, rng) for _ in range(20 * len(expected))]
    drawn = [tuple(row) for row in (np.array(centers) - np.array(window) // 2).tolist()]
    assert set(drawn) == expected
    assert sampled(case, window, rule, rng)["label"].any()
    assert max(drawn.count(start) for start in expected) < 45  # each is drawn some 20 times
    assert windows_with_label(case, window, grid).count == len(expected)


def test_the_windows_of_a_case_are_found_once_and_kept_small_and_apart_from_the_sampler(random_cases):
    case = random_cases.train[3]
    windows_with_label.cache_clear()
    sampler = PatchSampler((case,), (9, 9, 9), Foreground(2), 0.0, unpaired=False, margin=3)
    before = len(pickle.dumps(sampler))  # but for some bytes by which equal strings are written once or twice
    first, again = (sampler.batch([sampler.draw(0, np.random.default_rng(1))]) for _ in range(2))
    np.testing.assert_array_equal(first["image"], again["image"])
    assert (first["image"].shape, first["label"].shape) == ((1, 9, 9, 9, 2), (1, 3, 3, 3))
    found = windows_with_label.cache_info()
    assert (found.misses, found.hits) == (1, 1)
    assert len(pickle.dumps(sampler)) < before + 50
    # 6 x 5 x 4 windows, a bit each.
    assert windows_with_label(case, (3, 3, 3), 2).packed.nbytes == 15


def test_foreground_and_whole_refuse_what_they_cannot_serve(random_cases):
    train, foreground = random_cases.train, sampling_rule("foreground", {"grid": 4})
    check_sampling(train, PATCH, foreground, pad=False)
    for case in (random_cases.bare, random_cases.healthy):
        message = f"case {case.id} has no labeled voxel to place a patch by"
        refused(message, check_sampling, [*train, case], PATCH, foreground, pad=False)
        check_sampling([case], (12, 10, 9), SAMPLINGS["whole"], pad=False)
    check_sampling(train, (16, 16, 16), SAMPLINGS["whole"], pad=True)
    message = r"the patch \(12, 10, 8\) cannot show the whole picture of case case0"
    refused(message, check_sampling, train, (12, 10, 8), SAMPLINGS["whole"], pad=False)


def test_the_tiles_of_the_paper_are_the_four_corners_and_overlap_up_to_four_times(random_cases):
    tiling = tile_volume((160, 180), (128, 128))
    assert list(tiling) == [(0, 0), (0, 52), (32, 0), (32, 52)]
    count = np.zeros((160, 180), int)
    for row, column in tiling:
        count[row : row + 128, column : column + 128] += 1
    # 96 x 76 pixels lie in all four, the corners in one.
    expected = [0, 4 * 32 * 52, 2 * (32 * 76 + 96 * 52), 0, 96 * 76]
    assert np.bincount(count.ravel()).tolist() == expected
    # Its arrays are nowhere: tiles look at no voxel.
    blank = CachedCase(Path("nowhere"), "", replace(random_cases.bare.facts, shape=(160, 180)))
    rng = np.random.default_rng(0)
    drawn = [window_around(tiles(blank, (128, 128), rng), (128, 128), (160, 180)) for _ in range(400)]
    assert set(drawn) == set(tiling)
    assert min(drawn.count(start) for start in tiling) > 70  # each is drawn some 100 times


def test_tiles_cover_a_volume_with_a_margin_and_one_that_is_thinner_than_the_window(random_cases):
    case, rng, seen = random_cases.train[0], np.random.default_rng(0), set()
    for _ in range(60):
        example = sampled(case, (11, 14, 8), tiles, rng, margin=2)
        assert example["label"].shape == (7, 10, 4)
        inner = {"image": example["image"][2:-2, 2:-2, 2:-2], "label": example["label"]}
        seen |= set(random_cases.places(case, inner))
    assert seen == set(tile_volume(random_cases.shape, (7, 10, 4))) == set(itertools.product((0, 5), (0,), (0, 2, 5)))
    # Where the volume is shorter, its tile begins with it.
    example = sampled(case, (12, 12, 9), tiles, rng)
    assert random_cases.places(case, example) == [(0, 0, 0)]
