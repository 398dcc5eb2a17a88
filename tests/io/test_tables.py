import math

import numpy as np
import pytest

from jaxfuse.io.tables import read_json, read_rows, render, write_json, write_rows
from tests.refusals import refused

ROWS = [
    {"case": "007", "region": "WT", "dice": 0.1 + 0.2, "n": 3},
    {"case": 'with "quotes", commas', "region": "ET", "dice": 1e-17, "n": -1},
]


def test_rows_come_back_with_every_digit_and_text_stays_text(tmp_path):
    write_rows(tmp_path / "new" / "cases.csv", ROWS)
    assert read_rows(tmp_path / "new" / "cases.csv") == ROWS


def test_rows_hold_nan_infinity_and_numbers_of_numpy(tmp_path):
    write_rows(tmp_path / "t.csv", [{"case": "a", "x": math.nan, "y": math.inf, "z": -math.inf}])
    (row,) = read_rows(tmp_path / "t.csv")
    assert math.isnan(row["x"])
    assert (row["y"], row["z"]) == (math.inf, -math.inf)
    write_rows(tmp_path / "t.csv", [{"case": "a", "x": np.float64(0.25), "n": np.int64(4)}])
    assert (tmp_path / "t.csv").read_text() == "case,x,n\na,0.25,4\n"


def test_the_reader_is_told_which_columns_are_text(tmp_path):
    write_rows(tmp_path / "t.csv", [{"row": "no MG", "dice": 0.5}])
    assert read_rows(tmp_path / "t.csv", text=("row",)) == [{"row": "no MG", "dice": 0.5}]
    refused("line 2 .*'no MG' in column row", read_rows, tmp_path / "t.csv")


def test_refuses_broken_tables(tmp_path):
    refused("row 2", write_rows, tmp_path / "t.csv", [{"case": "a"}, {"case": "b", "x": 1}])
    refused("no rows", write_rows, tmp_path / "t.csv", [])
    (tmp_path / "cut.csv").write_text("case,dice\na,0.5\nb\n")
    refused("line 3 .* 1 values", read_rows, tmp_path / "cut.csv")
    refused("cannot read", read_rows, tmp_path / "absent.csv")


def test_json_comes_back_and_is_strict(tmp_path):
    path = tmp_path / "s.json"
    value = {"mean": 0.1 + 0.2, "std": math.inf, "n": np.int32(3), "list": [1, None, True, "S_F ±"]}
    write_json(path, value)
    assert read_json(path) == {**value, "n": 3}
    write_json(path, {"std": math.nan})
    assert math.isnan(read_json(path)["std"])
    assert "NaN" not in path.read_text()
    path.write_text('{"mean": 0.')
    refused("not valid JSON", read_json, path)


@pytest.mark.parametrize("write", [write_json, lambda path, value: write_rows(path, [{"case": "a", "x": value}])])
def test_what_no_table_can_hold_leaves_the_old_file(tmp_path, write):
    write(tmp_path / "file", 1)
    before = (tmp_path / "file").read_text()
    with pytest.raises(TypeError, match="object"):
        write(tmp_path / "file", object())
    assert (tmp_path / "file").read_text() == before


def test_render_aligns_columns():
    table = render([{"Region": "WT", "Dice": "0.9"}, {"Region": "mean", "Dice": "0.85 ± 0.10"}], ["Region", "Dice"])
    assert table.splitlines() == [
        "| Region |        Dice |",
        "| ------ | ----------: |",
        "| WT     |         0.9 |",
        "| mean   | 0.85 ± 0.10 |",
    ]
