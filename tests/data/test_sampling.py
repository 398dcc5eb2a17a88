"""Where windows are placed, what an example holds, and which cases are refused."""

import numpy as np
import pytest

from jaxfuse.data.sampling import CENTERS, brain, center_rule, check_sampling, cut, mixed, sample_patch, tumor
from jaxfuse.errors import UserError

PATCH = (4, 4, 4)


def _draws(rule, case, count=300):
    rng = np.random.default_rng(0)
    return np.array([rule(case, rng) for _ in range(count)])


def test_tumor_draws_every_labelled_voxel_and_no_other(random_cases):
    low, high = random_cases.tumor
    drawn = _draws(tumor, random_cases.train[0])
    assert (drawn.min(0).tolist(), drawn.max(0).tolist()) == (list(low), list(high))
    assert len({tuple(center) for center in drawn}) == 3 * 4 * 3


def test_brain_draws_over_the_whole_brain_and_needs_no_label(random_cases):
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
    case, centers = random_cases.train[1], []

    def remembered(case, rng):
        centers.append(rule(case, rng))
        return centers[-1]

    rng = np.random.default_rng(3)
    for _ in range(6):
        example = sample_patch(case, PATCH, remembered, rng)
        assert (example["image"].dtype, example["label"].dtype) == (np.float32, np.int32)
        ((*start,),) = random_cases.places(case, example)
        offset = np.array(centers[-1]) - start
        assert ((offset >= 0) & (offset < 4)).all()
        assert (np.array(start) >= 0).all()
        assert (np.array(start) + 4 <= random_cases.shape).all()


def test_the_same_generator_gives_the_same_patch_and_the_next_one_another(random_cases):
    rngs = [np.random.default_rng(5) for _ in range(2)]
    first, again = (sample_patch(random_cases.train[0], PATCH, brain, rng) for rng in rngs)
    np.testing.assert_array_equal(first["image"], again["image"])
    following = sample_patch(random_cases.train[0], PATCH, brain, rngs[0])
    assert not np.array_equal(first["image"], following["image"])


def test_a_patch_larger_than_the_brain_holds_all_of_it_amid_background(random_cases):
    case = random_cases.train[2]
    example = sample_patch(case, (16, 10, 4), tumor, np.random.default_rng(0))
    assert example["image"].shape == (16, 10, 4, 2)
    filled = np.flatnonzero(example["image"].any((1, 2, 3)))
    assert (filled[-1] - filled[0] + 1, len(filled)) == (12, 12)
    assert len(random_cases.places(case, example)) == 1


def test_an_unlabelled_case_gives_images_alone(random_cases):
    assert set(cut(random_cases.bare, (0, 0, 0), PATCH)) == {"image"}
    labelled = cut(random_cases.train[0], (7, 1, 2), (3, 4, 3))["label"]
    np.testing.assert_array_equal(labelled, np.full((3, 4, 3), 2))


def test_rules_by_name():
    assert {name: center_rule(name) for name in CENTERS} == {"tumor": tumor, "brain": brain, "mixed": mixed}
    with pytest.raises(UserError, match="sampling is 'lesion'; choose one of tumor, brain, mixed"):
        center_rule("lesion")


def test_cases_that_cannot_be_served_are_refused_before_training(random_cases):
    train = random_cases.train
    check_sampling(train, (12, 10, 9), "tumor", pad=False)
    with pytest.raises(
        UserError, match=r"the patch \(12, 11, 9\) is larger than the volume \(12, 10, 9\) of case case0"
    ):
        check_sampling(train, (12, 11, 9), "tumor", pad=False)
    check_sampling(train, (12, 11, 9), "tumor", pad=True)
    for case in (random_cases.bare, random_cases.healthy):
        with pytest.raises(UserError, match=f"case {case.id} has no tumor voxel to center a patch on"):
            check_sampling([*train, case], PATCH, "tumor", pad=False)
        check_sampling([*train, case], PATCH, "brain", pad=False)


def test_a_patch_of_another_number_of_sides_is_refused(random_cases):
    for pad in (False, True):
        with pytest.raises(UserError, match=r"the patch \(8, 8\) has 2 sides and case case0 3 axes"):
            check_sampling(random_cases.train, (8, 8), "brain", pad=pad)
