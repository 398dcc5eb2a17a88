"""The table of lesions, by the command: lesions and false alarms of known sizes at known places."""

import numpy as np
import pytest

from jaxfuse import evaluate
from jaxfuse.io.tables import read_rows
from tests.commands import call_here
from tests.made_cases import save_volume

SPACING_MM, ORIGIN_MM = (1.0, 2.0, 1.5), (-10.0, 5.0, 3.0)
SIDE = 4
VOLUME_MM3 = SIDE**3 * 3.0


def _cubes(*corners):
    array = np.zeros((40, 30, 20), np.uint8)
    for corner in corners:
        array[tuple(slice(at, at + SIDE) for at in corner)] = 1
    return array


def _world(corner):
    return [
        origin + side * (at + (SIDE - 1) / 2) for origin, side, at in zip(ORIGIN_MM, SPACING_MM, corner, strict=True)
    ]


def _evaluated(root, protocol, pred, truth, **axes):
    at = {"spacing_mm": SPACING_MM, "origin_mm": ORIGIN_MM}
    save_volume(root / "ref" / "a.nii.gz", truth, **at)
    save_volume(root / "pred" / "a.nii.gz", pred, **at, **axes)
    folders = {name: root / name for name in ("pred", "ref", "out")}
    call_here(evaluate, **folders, protocol=protocol, labels="lesion", pictures=0)
    return read_rows(root / "out" / "lesions.csv")


@pytest.mark.parametrize("axes", ["RAS", "PIR"])
def test_each_lesion_has_its_size_its_place_and_its_outcome(tmp_path, axes):
    found, missed, alarm = (2, 2, 2), (20, 20, 10), (32, 4, 3)
    rows = _evaluated(tmp_path, "brats2023", _cubes(found, alarm), _cubes(found, missed), axes=axes)
    assert [(row["lesion"], row["outcome"], row["dice"], row["hd95_mm"]) for row in rows] == [
        (1, "found", 1, 0),
        (2, "missed", 0, 374),
        (3, "false alarm", 0, 374),
    ]
    assert [(row["volume_mm3"], row["found_mm3"]) for row in rows] == [
        (VOLUME_MM3, VOLUME_MM3),
        (VOLUME_MM3, 0),
        (VOLUME_MM3, VOLUME_MM3),
    ]
    for row, corner in zip(rows, (found, missed, alarm), strict=True):
        assert [row[f"{name}_mm"] for name in "xyz"] == pytest.approx(_world(corner))
    (whole,) = read_rows(tmp_path / "out" / "cases.csv")
    assert (whole["lesion_dice"], whole["lesions_false"]) == (pytest.approx(1 / 3), 1)
    page = (tmp_path / "out" / "report.html").read_text()
    assert all(f"<td>{outcome}</td>" in page for outcome in ("found", "missed", "false alarm"))


def test_a_data_set_without_lesions_has_an_empty_table(tmp_path):
    assert _evaluated(tmp_path, "isles2022", _cubes(), _cubes()) == []
    header = (tmp_path / "out" / "lesions.csv").read_text().strip()
    assert header.startswith("case,output,region,lesion,outcome,volume_mm3")


def test_volumes_of_a_prediction_that_is_too_large(tmp_path):
    _evaluated(tmp_path, "isles2022", _cubes((2, 2, 2), (20, 20, 10)), _cubes((2, 2, 2)))
    (row,) = read_rows(tmp_path / "out" / "cases.csv")
    ml = VOLUME_MM3 / 1000
    assert [row[f"volume_{name}"] for name in ("difference_ml", "error_ml", "error_share")] == pytest.approx(
        [ml, ml, 1]
    )
    assert row["lesion_difference"] == 1
