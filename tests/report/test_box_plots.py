import math

import numpy as np
import pytest

from jaxfuse.metrics.protocols import DICE
from jaxfuse.report.box_plots import POINTS, box_plot, ticks_of


def _scores(*values):
    return [(f"c{number}", value) for number, value in enumerate(values)]


def test_a_box_has_quartiles_whiskers_and_the_cases_beyond():
    plot = box_plot(DICE, {"WT": {"a": _scores(0.1, 0.7, 0.8, 0.9, 1.0, math.nan)}})
    (box,) = plot.boxes
    assert (box.region, box.method, box.undefined) == ("WT", "a", 1)
    assert box.quartiles == pytest.approx((0.7, 0.8, 0.9))
    # 1.5 lengths of 0.2 below 0.7 is 0.4: the case of 0.1 lies beyond.
    assert box.whiskers == (0.7, 1.0)
    assert dict(box.points) == {"c0": 0.1, "c1": 0.7, "c2": 0.8, "c3": 0.9, "c4": 1.0}
    assert plot.ticks[0] <= 0.1 < 1.0 <= plot.ticks[-1]
    assert (plot.share(plot.ticks[0]), plot.share(plot.ticks[-1])) == (0, 1)


def test_a_whisker_does_not_reach_into_its_box():
    (box,) = box_plot(DICE, {"": {"a": _scores(0.0, 0.7, 0.75, 0.8)}}).boxes
    # A quarter lies between 0, which is too far away for a whisker, and 0.7.
    assert box.quartiles[0] == pytest.approx(0.525)
    assert box.whiskers == (box.quartiles[0], 0.8)


def test_of_many_cases_only_those_beyond_the_whiskers_have_points():
    (box,) = box_plot(DICE, {"": {"a": _scores(0.0, *np.linspace(0.8, 0.9, POINTS))}}).boxes
    assert box.points == (("c0", 0.0),)


def test_a_metric_that_is_undefined_everywhere_has_an_empty_box():
    plot = box_plot(DICE, {"ET": {"a": _scores(math.nan, math.inf)}})
    assert [(box.quartiles, box.points, box.undefined) for box in plot.boxes] == [((), (), 2)]


@pytest.mark.parametrize(
    ("low", "high", "expected"),
    [
        (0.0, 1.0, (0, 0.5, 1)),
        (0.12, 0.31, (0.1, 0.15, 0.2, 0.25, 0.3, 0.35)),
        (3.0, 374.0, (0, 100, 200, 300, 400)),
        (0.0, 0.0, (-0.5, 0, 0.5)),
        (10.0, 10.0, (9, 9.5, 10, 10.5, 11)),
    ],
)
def test_ticks_are_round_and_bound_the_range(low, high, expected):
    assert ticks_of(low, high) == pytest.approx(expected)
