from jaxfuse.metrics.groups import by_table, by_volume, scores_by_group
from jaxfuse.report.groups import group_tables, groups_part


def _grouped(dice):
    rows = [{"case": case, "region": "WT", "dice": dice, "hd95_mm": 1.0} for case in "ab"]
    return {"grade": scores_by_group(rows, by_table("grade", {"a": "HGG", "b": "LGG"}), ["dice", "hd95_mm"])}


def test_regions_keep_their_order_though_a_group_lacks_the_first():
    rows = [
        {"case": "a", "region": region, "dice": 0.5, "truth_mm3": mm3} for region, mm3 in (("WT", 9.0), ("ET", 1.0))
    ]
    (grouping,) = by_volume(rows, "truth_mm3", (5.0,), name="volume")
    (one,) = group_tables({"m": {"volume": scores_by_group(rows, grouping, ["dice"])}})
    assert [row["Region"] for row in one.rows] == ["WT", "ET"]


def test_a_column_tells_methods_apart_where_there_are_several():
    (one,) = group_tables({"m": _grouped(0.5)})
    assert (one.left, list(one.rows[0])) == (2, ["Region", "Group", "Count", "Dice ↑", "HD95 (mm) ↓"])
    (two,) = group_tables({"m": _grouped(0.5), "n": _grouped(0.25)})
    assert two.left == 3
    assert [(row["Group"], row["Method"], row["Dice ↑"]) for row in two.rows] == [
        ("HGG", "m", "0.500"),
        ("HGG", "n", "0.250"),
        ("LGG", "m", "0.500"),
        ("LGG", "n", "0.250"),
    ]
    assert groups_part({"m": {}}) == []
