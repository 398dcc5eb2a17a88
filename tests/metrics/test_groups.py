import numpy as np
import pytest

from jaxfuse.metrics.groups import ABSENT, PRESENT, THIRDS, by_number, by_presence, by_table, by_volume, scores_by_group


def _row(case, region, dice, mm3, **more):
    return {"case": case, "region": region, "dice": dice, "truth_mm3": mm3, **more}


ROWS = [_row(f"c{n}", region, n / 10, n * size) for n in range(7) for region, size in (("WT", 10.0), ("ET", 1.0))]


def test_cases_that_lack_a_region_and_those_that_have_it():
    rows = [_row("a", "WT", 0.9, 5.0), _row("a", "ET", 0.0, 0.0), _row("b", "WT", 0.8, 4.0), _row("b", "ET", 0.6, 1.0)]
    (grouping,) = by_presence(rows)
    assert grouping.name == "truth of ET"
    found = scores_by_group(rows, grouping, ["dice"])["groups"]
    assert {group: found[group]["WT"]["dice"]["mean"] for group in found} == {ABSENT: 0.9, PRESENT: 0.8}
    assert found[ABSENT]["ET"]["count"] == 1
    assert by_presence([row for row in rows if row["region"] == "WT"]) == []


def test_thirds_are_those_of_each_region_and_leave_out_what_is_empty():
    (grouping,) = by_volume(ROWS, "truth_mm3", name="volume")
    found = scores_by_group(ROWS, grouping, ["dice"])
    for region in ("WT", "ET"):
        of_region = [found["groups"][group][region] for group in THIRDS]
        assert [one["count"] for one in of_region] == [2, 2, 2]
        assert [one["dice"]["mean"] for one in of_region] == pytest.approx([0.15, 0.35, 0.55])
    assert found["in_none"] == 2
    assert found["bounds_mm3"]["WT"] == pytest.approx((80 / 3, 130 / 3))
    assert by_volume(ROWS[:10], "truth_mm3", name="volume") == [], "thirds of four cases say nothing"


def test_bounds_that_are_stated():
    (grouping,) = by_volume(ROWS, "truth_mm3", (10.0, 40.0), name="volume")
    assert grouping.groups == ("up to 10 mm³", "10 to 40 mm³", "above 40 mm³")
    counts = {
        group: regions["WT"]["count"] for group, regions in scores_by_group(ROWS, grouping, ["dice"])["groups"].items()
    }
    assert counts == {"up to 10 mm³": 1, "10 to 40 mm³": 3, "above 40 mm³": 2}


def test_numbers_of_lesions():
    rows = [_row("a", "WT", 0.5, 1.0, lesions_found=n, lesions_missed=1) for n in (-1, 0, 1, 2, 3, 9)]
    (grouping,) = by_number(rows)
    counts = [scores_by_group(rows, grouping, ["dice"])["groups"][group]["WT"]["count"] for group in grouping.groups]
    assert counts == [1, 1, 2, 2]
    assert by_number(ROWS) == []


def test_undefined_scores_and_cases_without_a_group_are_counted():
    rows = [_row("a", "WT", np.nan, 1.0), _row("b", "WT", 0.5, 1.0), _row("c", "WT", 0.7, 1.0)]
    found = scores_by_group(rows, by_table("grade", {"a": "HGG", "b": "HGG", "c": ""}), ["dice"])
    assert found["in_none"] == 1
    dice = found["groups"]["HGG"]["WT"]["dice"]
    assert (dice["mean"], dice["n"], dice["undefined"]) == (0.5, 1, 1)
