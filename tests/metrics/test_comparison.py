import math

import numpy as np
import pytest
from scipy import stats

from jaxfuse.metrics.comparison import compare, holm, mean_interval, rank, rank_biserial, seeds_p, signed_rank_p
from tests.refusals import refused


def test_a_shift_is_found_and_its_size_told():
    rng = np.random.default_rng(0)
    second = rng.uniform(0.6, 0.9, 40)
    noise = rng.normal(0, 0.01, 40)
    found = compare(second + 0.02 + noise, second)
    assert found.low < 0.02 < found.high
    assert (found.cases, found.undefined, found.difference) == (40, 0, pytest.approx(0.02 + noise.mean()))
    assert found.p < 1e-6 < compare(second + noise, second).p
    back = compare(second, second + 0.02 + noise)
    assert (back.difference, back.effect, back.p) == pytest.approx((-found.difference, -found.effect, found.p))


def test_intervals_agree_with_the_normal_one_of_many_cases():
    values = np.random.default_rng(1).normal(3.0, 2.0, 400)
    half = 1.96 * values.std(ddof=1) / 20
    assert mean_interval(values) == pytest.approx((values.mean() - half, values.mean() + half), abs=0.03)
    assert mean_interval(values) == mean_interval(values)
    assert all(math.isnan(bound) for bound in mean_interval(values[:1]))


def test_undefined_scores_are_left_out_and_counted():
    first = np.array([0.9, math.nan, 0.7, 0.8, 0.6])
    second = np.array([0.8, 0.8, math.inf, 0.7, 0.3])
    found = compare(first, second)
    assert (found.cases, found.undefined, found.difference) == (3, 2, pytest.approx(0.5 / 3))
    none = compare(np.full(2, math.nan), np.zeros(2))
    assert (none.cases, none.undefined) == (0, 2)
    assert math.isnan(none.p)


def test_equal_scores_differ_by_nothing():
    found = compare(np.ones(9), np.ones(9))
    assert (found.difference, found.low, found.high, found.p, found.effect) == (0, 0, 0, 1, 0)


def test_p_is_exact_where_cases_are_few():
    """Two of the 2^6 signs of six differences give the sum of their ranks or its opposite."""
    found = compare(np.arange(1.0, 7.0), np.zeros(6))
    assert (found.p, found.effect) == (pytest.approx(2 / 64), 1.0)


def test_rank_biserial_by_hand():
    """Ranks of |-1|, 2, 3 are 1, 2, 3: (2 + 3 - 1) / 6."""
    assert rank_biserial(np.array([-1.0, 2.0, 0.0, 3.0])) == pytest.approx(4 / 6)


def test_holm_by_hand():
    """The smallest of three counts thrice, the next twice, and no later one may fall below an earlier one."""
    assert holm([0.01, 0.04, 0.03]) == pytest.approx([0.03, 0.06, 0.06])
    assert holm([0.5, 0.9]) == pytest.approx([1.0, 1.0])
    adjusted = holm([0.01, math.nan, 0.03])
    assert adjusted[0::2] == pytest.approx([0.02, 0.03])
    assert math.isnan(adjusted[1])


def test_methods_that_do_not_differ_are_told_apart_in_five_of_a_hundred_draws():
    rng = np.random.default_rng(7)
    draws = rng.normal(size=(1000, 2, 20))
    share = np.mean([signed_rank_p(first - second) < 0.05 for first, second in draws])
    assert 0.03 <= share <= 0.07
    chance = np.mean(
        [rank(draw, [True] * 7, permutations=256).p[0, 1] < 0.05 for draw in rng.normal(size=(1000, 2, 8, 7))]
    )
    assert 0.01 <= chance <= 0.07, "ranks tie, which makes the test of them shy"


def _trained(rng, seeds, cases, between):
    """Scores of two methods of one kind: cases, seeds and each case of each seed have their own offsets."""
    common = rng.normal(0, 2, cases)
    return [
        common + rng.normal(0, between, (seeds, 1)) + rng.normal(0, 0.5, cases) + rng.normal(size=(seeds, cases))
        for _ in range(2)
    ]


def test_seeds_of_one_training_are_told_apart_in_five_of_a_hundred_draws_though_cases_alone_tell_them_apart():
    rng = np.random.default_rng(5)
    drawn = [_trained(rng, 5, 30, 0.5) for _ in range(1000)]
    assert 0.03 <= np.mean([seeds_p(*one) < 0.05 for one in drawn]) <= 0.07
    by_cases = np.mean([signed_rank_p(first.mean(0) - second.mean(0)) < 0.05 for first, second in drawn])
    assert by_cases > 0.3, "a test over cases speaks of the networks at hand"


def test_a_gain_that_every_seed_has_is_told_apart():
    first, second = _trained(np.random.default_rng(6), 5, 30, 0.1)
    found = compare(first + 1.0, second)
    assert found.difference == pytest.approx(1.0 + (first.mean() - second.mean()))
    assert found.low < found.difference < found.high
    assert found.p_seeds < 0.01
    assert compare(second, first + 1.0).p_seeds == pytest.approx(found.p_seeds)


def test_the_error_of_seeds_by_hand():
    """Two seeds 0.2 apart in every case, two others equal: only the first two scatter, with one degree of freedom."""
    cases = np.array([0.1, 0.5, 0.9])
    first, second = np.stack([cases, cases + 0.2]), np.stack([cases, cases]) - 0.4
    t = 0.5 / math.sqrt(0.02 / 2)
    assert seeds_p(first, second) == pytest.approx(2 * stats.t.sf(t, 1))
    assert seeds_p(second, second) == 1.0
    assert math.isnan(seeds_p(first, second[:1]))
    assert math.isnan(seeds_p(first[:, :1], second[:, :1]))


def test_seeds_widen_the_interval_of_the_same_means():
    first, second = _trained(np.random.default_rng(8), 3, 30, 1.0)
    narrow = compare(first.mean(axis=0), second.mean(axis=0))
    wide = compare(first, second)
    assert wide.difference == pytest.approx(narrow.difference)
    assert wide.high - wide.low > 2 * (narrow.high - narrow.low)
    assert (wide.p, wide.effect) == (narrow.p, narrow.effect)
    assert math.isnan(narrow.p_seeds)


def test_a_case_that_one_seed_has_no_score_of_is_left_out():
    first, second = _trained(np.random.default_rng(9), 2, 6, 0.1)
    first[1, 2] = math.nan
    assert (compare(first, second).cases, compare(first, second).undefined) == (5, 1)


def test_ranks_by_hand():
    """Three methods, two cases, Dice (larger is better) and a distance; undefined ranks last, ties share."""
    scores = np.array(
        [
            [[0.9, 1.0], [0.8, 2.0]],
            [[0.8, 2.0], [0.8, math.nan]],
            [[0.7, 3.0], [0.9, 1.0]],
        ]
    )
    found = rank(scores, [True, False])
    assert found.of_cases.tolist() == [[1, 2.25], [2, 2.75], [3, 1]]
    assert found.score.tolist() == [1.625, 2.375, 2.0]
    assert found.place.tolist() == [1, 3, 2]
    assert np.isnan(np.diag(found.p)).all()
    # Two cases: both gains of the first over the second are positive, which one of four ways of exchange keeps.
    assert (found.p[0, 1], found.p[1, 0]) == (0.25, 1.0)


def test_permutations_of_many_cases_are_drawn():
    rng = np.random.default_rng(3)
    worse = rng.uniform(0.5, 0.8, (40, 1))
    scores = np.stack([worse + 0.1, worse, worse + rng.normal(0, 0.001, worse.shape)])
    found = rank(scores, [True])
    assert found.place[0] == 1
    assert found.p[0, 1] == pytest.approx(1 / 10_001)
    assert found.p[1, 0] == pytest.approx(1.0, abs=1e-3)
    assert 0.01 < found.p[1, 2] < 0.99


def test_refuses_scores_of_other_cases():
    refused("cannot be paired", compare, np.ones(3), np.ones(4))


def test_wilcoxon_is_that_of_scipy():
    rng = np.random.default_rng(4)
    first, second = np.round(rng.uniform(size=(2, 30)), 1)
    assert compare(first, second).p == stats.wilcoxon(first, second, zero_method="pratt").pvalue
