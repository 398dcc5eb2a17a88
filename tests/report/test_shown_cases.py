import numpy as np

from jaxfuse.labels import LabelScheme, label_scheme
from jaxfuse.metrics.protocols import DICE, HD95
from jaxfuse.report.pictured import Pictured
from jaxfuse.report.shown_cases import Pictures, shown_cases, worst_first
from tests.made_cases import head, nested_cubes

SHAPE = (16, 14, 12)


def rows(**dice: float) -> list[tuple[str, dict]]:
    return [("m", {"case": case, "region": "WT", "dice": value, "hd95_mm": value}) for case, value in dice.items()]


def pictures(count: int, *, image: bool = True, scheme: LabelScheme | None = None) -> Pictures:
    def read(case, methods):
        truth = nested_cubes(SHAPE, {2: 4, 1: 3, 3: 2})
        shown = head(SHAPE, 0)["t1"] if image else None
        return Pictured(shown, "t1" if image else "it is damaged", truth, dict.fromkeys(methods, truth), (1, 1, 2))

    return Pictures(read, scheme or label_scheme("brats"), count)


def test_the_worst_are_first_by_the_direction_of_the_metric_and_undefined_ones_out():
    given = rows(a=0.5, b=np.nan, c=0.1, d=0.9, e=0.1)
    assert list(worst_first(given, DICE)) == ["c", "e", "a", "d"]
    assert list(worst_first(given, HD95)) == ["d", "a", "c", "e"]


def test_a_case_has_the_mean_of_its_regions_and_methods():
    both = [*rows(a=0.2, b=0.5), ("n", {"case": "a", "region": "WT", "dice": 0.6})]
    assert worst_first(both, DICE) == {"a": 0.4, "b": 0.5}


def test_the_worst_have_figures_and_three_are_scrolled_through():
    found = shown_cases(rows(a=0.5, b=0.7, c=0.1, d=0.9, e=0.8), DICE, pictures(1))
    (worst,) = found["worst"]
    assert (worst["case"], worst["mean"], worst["scores"], worst["lacks"]) == ("c", "0.100", [("m", "WT 0.100")], "")
    assert worst["image"].startswith("data:image/png;base64,")
    choices = ["worst: c, mean Dice 0.100", "median: b, mean Dice 0.700", "best: d, mean Dice 0.900"]
    assert found["viewer"]["choices"] == choices
    assert [case["case"] for case in found["viewer"]["document"]["cases"]] == ["c", "b", "d"]
    assert [name for _, name in found["viewer"]["legend"]][1:] == ["edema", "enhancing tumor"]


def test_a_single_case_is_the_worst_and_shown_once_without_its_image():
    found = shown_cases(rows(a=0.5), DICE, pictures(3, image=False))
    assert found["viewer"]["choices"] == ["worst: a, mean Dice 0.500"]
    assert [one["lacks"] for one in found["worst"]] == ["it is damaged"]


def test_what_cannot_be_shown_is_said_or_left_out():
    many = label_scheme(",".join(f"part{number}={number}" for number in range(1, 9)))
    found = shown_cases(rows(a=0.5), DICE, pictures(3, scheme=many))
    assert (found["worst"], found["viewer"]) == ([], None)
    assert "9 classes" in found["unseen"]
    assert shown_cases(rows(a=0.5), DICE, None)["unseen"] == ""
    assert shown_cases(rows(a=np.nan), DICE, pictures(3))["worst"] == []
