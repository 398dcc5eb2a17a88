"""Learning curves from metric rows."""

import numpy as np
import pytest
from matplotlib.colors import to_rgb

from jaxfuse.io.tables import read_rows
from jaxfuse.report.curves import _groups, curves, write_learning_curves
from tests.report.pictures import pixels_of


def _row(step: int, phase: str, split: str, **values: float) -> dict:
    return {"step": step, "phase": phase, "split": split, **values}


def test_values_are_drawn_with_their_own_kind():
    rows = [_row(1, "f", "train", loss=2.0, learning_rate=0.1), _row(2, "f", "train", loss=1.0, learning_rate=0.1)]
    values = {"S_F/dice/ET": 0.5, "S_F/hd95_mm/ET": np.nan, "mae": 0.2, "psnr_db": 20.0}
    rows += [_row(1, "f", "val", **values), _row(2, "f", "val", **{**values, "S_F/hd95_mm/ET": 7.0})]
    groups = _groups(rows)
    expected = {"training losses": ["loss"], "validation scores": ["S_F/dice/ET"], "validation errors": ["mae"]}
    expected |= {"validation in mm": ["S_F/hd95_mm/ET"], "validation in dB": ["psnr_db"]}
    assert {what: list(series) for what, series in groups.items()} == expected
    steps, distances = groups["validation in mm"]["S_F/hd95_mm/ET"]
    assert (steps.tolist(), distances.tolist()) == ([2.0], [7.0])


@pytest.mark.parametrize(("dark", "ink"), [(False, "#33363b"), (True, "#d8dade")])
def test_curves_have_a_row_per_phase_and_suit_the_page(tmp_path, dark, ink):
    rows = [_row(step, phase, "train", loss=1 / step) for phase in ("a", "b") for step in range(1, 60)]
    rows += [_row(step, "b", "val", dice=step / 60) for step in (20, 40)]
    curves(rows, tmp_path / "curves.png", dark=dark)
    pixels = pixels_of(tmp_path / "curves.png", "RGBA")
    assert pixels.shape[:2] == (int(2 * 3.3 * 150), int(2 * 3.7 * 150))
    assert (pixels[..., 3] == 0).mean() > 0.5  # the page shows through
    drawn = pixels[pixels[..., 3] == 255][:, :3]
    assert (np.abs(drawn - np.round(255 * np.array(to_rgb(ink)))).max(axis=-1) == 0).sum() > 100
    # Phase a has no validation: its second place stays empty.
    assert not pixels[: pixels.shape[0] // 2 - 20, pixels.shape[1] // 2 + 60 :, 3].any()
    with pytest.raises(ValueError, match="no metric rows"):
        curves([], tmp_path / "curves.png")


def test_validations_become_a_table_per_phase(tmp_path):
    rows = [_row(1, "f", "train", loss=2.0), _row(10, "f", "val", score=0.5), _row(20, "f", "val", score=0.75, mae=0.1)]
    rows += [_row(5, "g", "train", loss=1.0)]
    write_learning_curves(rows, tmp_path)
    table = read_rows(tmp_path / "f" / "learning_curve.csv")
    assert [(row["step"], row["score"]) for row in table] == [(10, 0.5), (20, 0.75)]
    np.testing.assert_array_equal([row["mae"] for row in table], [np.nan, 0.1])
    assert [path.name for path in tmp_path.iterdir()] == ["f"]
