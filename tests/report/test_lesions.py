from jaxfuse.report.lesions import lesions_part


def _row(case, outcome, volume, dice):
    values = {"volume_mm3": volume, "found_mm3": volume, "dice": dice, "hd95_mm": 1.0}
    return {"case": case, "region": "WT", "lesion": 1, "outcome": outcome, **values, "x_mm": 1, "y_mm": 2, "z_mm": 3}


def test_the_worst_and_among_equals_the_largest_lead():
    rows = [_row("a", "found", 9, 0.9), _row("b", "missed", 70, 0.0), _row("c", "false alarm", 80, 0.0)]
    (part,) = lesions_part({"m": rows}, most=2)
    assert [row["Case"] for row in part.tables[0].rows] == ["c", "b"]
    assert part.notes[-1] == "Shown are 2 of 3; lesions.csv has all."
    assert "Method" not in part.tables[0].rows[0]
    (part,) = lesions_part({"m": rows, "n": rows})
    assert {row["Method"] for row in part.tables[0].rows} == {"m", "n"}
    assert part.tables[0].left == 5
    assert lesions_part({"m": []}) == []
