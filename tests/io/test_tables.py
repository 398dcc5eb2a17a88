import math

import numpy as np
import pytest

from jaxfuse.errors import UserError
from jaxfuse.io.tables import read_json, read_rows, render, render_segmentation, write_json, write_rows
from jaxfuse.metrics.regions import summary_document

METRICS = ("dice", "sensitivity", "specificity", "hd95_mm")
ROWS = [
    {"case": "007", "region": "WT", "dice": 0.1 + 0.2, "n": 3},
    {"case": 'with "quotes", commas', "region": "ET", "dice": 1e-17, "n": -1},
]


def test_rows_come_back_with_every_digit_and_text_stays_text(tmp_path):
    write_rows(tmp_path / "new" / "cases.csv", ROWS)
    assert read_rows(tmp_path / "new" / "cases.csv") == ROWS


def test_rows_hold_nan_and_infinity(tmp_path):
    write_rows(tmp_path / "t.csv", [{"case": "a", "x": math.nan, "y": math.inf, "z": -math.inf}])
    (row,) = read_rows(tmp_path / "t.csv")
    assert math.isnan(row["x"])
    assert (row["y"], row["z"]) == (math.inf, -math.inf)


def test_numpy_numbers_are_written_as_numbers(tmp_path):
    write_rows(tmp_path / "t.csv", [{"case": "a", "x": np.float64(0.25), "n": np.int64(4)}])
    assert (tmp_path / "t.csv").read_text() == "case,x,n\na,0.25,4\n"


def test_the_reader_is_told_which_columns_are_text(tmp_path):
    write_rows(tmp_path / "t.csv", [{"row": "no MG", "dice": 0.5}])
    assert read_rows(tmp_path / "t.csv", text=("row",)) == [{"row": "no MG", "dice": 0.5}]
    with pytest.raises(UserError, match="line 2 .*'no MG' in column row"):
        read_rows(tmp_path / "t.csv")


def test_refuses_broken_tables(tmp_path):
    with pytest.raises(UserError, match="row 2"):
        write_rows(tmp_path / "t.csv", [{"case": "a"}, {"case": "b", "x": 1}])
    with pytest.raises(UserError, match="no rows"):
        write_rows(tmp_path / "t.csv", [])
    (tmp_path / "cut.csv").write_text("case,dice\na,0.5\nb\n")
    with pytest.raises(UserError, match="line 3 .* 1 values"):
        read_rows(tmp_path / "cut.csv")
    with pytest.raises(UserError, match="cannot read"):
        read_rows(tmp_path / "absent.csv")


def test_json_comes_back_and_is_strict(tmp_path):
    value = {"mean": 0.1 + 0.2, "std": math.inf, "n": np.int32(3), "list": [1, None, True, "S_F ±"]}
    write_json(tmp_path / "s.json", value)
    assert read_json(tmp_path / "s.json") == {**value, "n": 3}
    write_json(tmp_path / "s.json", {"std": math.nan})
    assert math.isnan(read_json(tmp_path / "s.json")["std"])
    assert "NaN" not in (tmp_path / "s.json").read_text()


def test_refuses_broken_json(tmp_path):
    (tmp_path / "s.json").write_text('{"mean": 0.')
    with pytest.raises(UserError, match="not valid JSON"):
        read_json(tmp_path / "s.json")


@pytest.mark.parametrize("write", [write_json, lambda path, value: write_rows(path, [{"case": "a", "x": value}])])
def test_a_failed_write_leaves_the_old_file_and_nothing_else(tmp_path, write, monkeypatch):
    path = tmp_path / "file"
    write(path, 1)
    before = path.read_text()
    with pytest.raises(TypeError, match="object"):
        write(path, object())

    def full(*_):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr("os.replace", full)
    with pytest.raises(UserError, match="file cannot be written .No space left on device.; free space"):
        write(path, 2)
    assert [p.name for p in tmp_path.iterdir()] == ["file"]
    assert path.read_text() == before


def test_render_aligns_columns():
    table = render([{"Region": "WT", "Dice": "0.9"}, {"Region": "mean", "Dice": "0.85 ± 0.10"}], ["Region", "Dice"])
    assert table.splitlines() == [
        "| Region |        Dice |",
        "| ------ | ----------: |",
        "| WT     |         0.9 |",
        "| mean   | 0.85 ± 0.10 |",
    ]


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


def test_segmentation_table_counts_penalized_cases():
    rows = [scored("a", "WT", 0.5, 373.0, pred_mm3=0.0)]
    text = render_segmentation(summary_document(rows, primary="S_F", one_empty=373.0))
    assert "distances are 373 mm where exactly one" in text
    assert "S_F WT: exactly one mask empty in 1 of 1 cases." in text


def test_a_table_shows_the_metrics_that_were_computed():
    row = {"case": "a", "output": "prediction", "region": "GM", "dice": 0.5, "hd_mm": 3.0, "hd_voxels": 1.5}
    document = summary_document([row | {"pred_mm3": 1.0, "truth_mm3": 1.0}], primary="prediction", one_empty=math.nan)
    head, _, first, *_, cases = render_segmentation(document).splitlines()
    names = [name.strip() for name in head.strip("|").split("|")]
    assert names == ["Output", "Region", "Dice", "HD (mm)", "HD (voxels)", "Dice, truth not empty", "Cases"]
    assert [cell.strip() for cell in first.strip("|").split("|")][2:5] == ["0.500", "3.00", "1.50"]
    assert cases == "Cases: 1; mean ± standard deviation over cases."
