import math

from jaxfuse.metrics.regions import summary_document
from jaxfuse.report.segmentation_table import render_segmentation

METRICS = ("dice", "sensitivity", "specificity", "hd95_mm")


def scored(case, region, dice, hd95_mm, pred_mm3=1.0, truth_mm3=1.0):
    row = {"case": case, "output": "S_F", "region": region, **dict.fromkeys(METRICS, dice), "hd95_mm": hd95_mm}
    return row | {"pred_mm3": pred_mm3, "truth_mm3": truth_mm3}


def test_segmentation_table_says_what_was_left_out():
    rows = [
        scored("a", "WT", 0.5, 2.0),
        scored("a", "ET", 0.0, math.nan, truth_mm3=0.0),
        scored("b", "WT", 0.7, 4.0),
        scored("b", "ET", 0.0, math.nan, pred_mm3=0.0),
    ]
    lines = render_segmentation(summary_document(rows, primary="S_F", one_empty=math.nan)).splitlines()
    cells = [[cell.strip() for cell in line.strip("|").split("|")] for line in lines[:5]]
    at = {name: i for i, name in enumerate(cells[0])}
    assert cells[2][at["Region"]] == "WT"
    assert cells[2][at["Dice"]] == "0.600 ± 0.141"
    assert cells[2][at["HD95 (mm)"]] == "3.00 ± 1.41"
    assert cells[3][at["HD95 (mm)"]] == "undefined"
    assert cells[4][at["Region"]] == "mean"
    assert cells[4][at["Dice"]] == "0.300 ± 0.071"
    assert cells[4][at["HD95 (mm)"]] == "undefined"
    notes = "\n".join(lines[5:])
    assert "HD95: 95th percentile" in notes
    assert "distances are nan where exactly one" in notes
    assert (
        "S_F ET: truth empty in 1, exactly one mask empty in 2, distances undefined and left out in 2 of 2 cases."
        in notes
    )
    assert "S_F WT" not in notes
