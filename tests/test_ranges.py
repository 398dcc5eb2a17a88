"""Ranges of numbers: what lies in them, how they are said, and that every number of every recipe has one."""

import math

import pytest

from jaxfuse.errors import UserError
from jaxfuse.options import flat
from jaxfuse.ranges import FINITE, POSITIVE, RATE, SHARE, SIZE, Range, check_ranges, numbers, range_of
from tests.recipe_phases import RECIPES, arguments


@pytest.mark.parametrize(
    ("allowed", "inside", "outside"),
    [
        (POSITIVE, (1e-30, 1e30), (0, -1e-30)),
        (RATE, (0, 0.999), (-0.001, 1)),
        (SHARE, (0, 1), (-0.001, 1.001)),
        (SIZE, (1, 65536), (0, 65537)),
        (FINITE, (-1e300, 0), ()),
    ],
)
def test_ends_belong_to_a_range_or_do_not(allowed, inside, outside):
    assert all(value in allowed for value in inside)
    assert not any(value in allowed for value in (*outside, math.nan, math.inf, -math.inf))


def test_a_range_is_said_in_words():
    said = [str(one) for one in (POSITIVE, RATE, SHARE, Range(0), FINITE)]
    assert said == ["above 0", "at least 0 and below 1", "at least 0 and at most 1", "at least 0", "finite"]


def test_the_longer_name_decides():
    assert range_of("network.form.width") == SIZE
    assert range_of("cooperative.args.scheme.options.width") == POSITIVE
    assert range_of("a.new.option") is None


def test_an_option_without_a_range_must_be_finite():
    check_ranges({"a.new": -3.0, "switch": True, "text": "nan", "none": None})
    with pytest.raises(UserError, match="^a.new is nan; it must be finite$"):
        check_ranges({"a.new": math.nan})
    with pytest.raises(UserError, match=r"^x.patch is \(16, 0\); each must be at least 1 and at most 65536$"):
        check_ranges({"x.patch": (16, 0)})
    assert list(numbers(((1, 2), (), True, "3", 4.0))) == [1, 2, 4.0]


@pytest.mark.parametrize("recipe", RECIPES)
def test_every_number_of_a_recipe_has_a_range_and_lies_in_it(recipe):
    for text in arguments(recipe):
        try:
            options = flat(RECIPES[recipe].get_config(text))
        except UserError:
            continue  # a row that such data cannot serve
        check_ranges(options)
        undeclared = [name for name, value in options.items() if list(numbers(value)) and range_of(name) is None]
        assert undeclared == [], "list them in jaxfuse/ranges.py"
