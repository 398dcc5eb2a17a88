"""Label maps as outlines: where lines lie, in which colors, and for which data."""

from pathlib import Path

import numpy as np
import pytest

from jaxfuse.labels import SCHEMES
from jaxfuse.report.canvas import CLASS_COLORS
from jaxfuse.report.contours import FILLED, OUTLINED, overlay_of
from jaxfuse.report.figures import comparison, segmentation_panel
from tests.report.pictures import near, pixels_of

COLUMN_PX = 2.4 * 130
CLASSES = ("background", "CSF", "GM")


@pytest.mark.parametrize("name", SCHEMES)
def test_tissues_and_strokes_have_outlines(name):
    assert overlay_of(SCHEMES[name]) is (OUTLINED if name in ("iseg", "stroke") else FILLED)


def squares(shift: int = 0) -> np.ndarray:
    """Class 2 in the middle of class 1, on an axial slice."""
    label = np.zeros((40, 40), np.uint8)
    label[8 + shift : 32 + shift, 8:32], label[14 + shift : 26 + shift, 14:26] = 1, 2
    return label


def panel(path: Path, prediction: np.ndarray, truth: np.ndarray | None) -> np.ndarray:
    image = np.full((40, 40, 1), 0.2, np.float32)
    image[:3, :3] = 1  # bright in a corner, all else dark
    given = {"image": image, "truth": truth, "predictions": {"S": prediction}, "modalities": ("t2",)}
    segmentation_panel(path, **given, classes=CLASSES, overlay=OUTLINED, title="case")
    return pixels_of(path)


def cells(pixels: np.ndarray, color: str) -> list[int]:
    """Pixels of a color in each column of a panel, title and legend left out."""
    hits = np.argwhere(near(pixels, color)[45:-70])[:, 1] // COLUMN_PX
    return np.bincount(hits.astype(int), minlength=int(pixels.shape[1] // COLUMN_PX)).tolist()


def test_the_truth_shows_white_where_a_prediction_leaves_it(tmp_path):
    equal = panel(tmp_path / "equal.png", squares(), squares())
    moved = panel(tmp_path / "moved.png", squares(3), squares())
    assert equal.shape[1] == moved.shape[1] == int(3 * COLUMN_PX)
    # Neither the image nor the truth has white lines; of the prediction only one that is off.
    corner = cells(equal, "white")[0]
    assert max(cells(equal, "white")) < corner + 30
    assert cells(moved, "white")[1] < corner + 30
    assert cells(moved, "white")[2] > corner + 150
    for color in CLASS_COLORS[1:3]:
        image, truth, prediction = cells(moved, color)
        assert (image, truth > 100, prediction) == (0, True, pytest.approx(truth, rel=0.2))
    # Lines leave the image open.
    assert (np.ptp(equal[45:-70, int(2 * COLUMN_PX) :], axis=-1) > 60).mean() < 0.1


def test_the_legend_names_classes_and_speaks_of_a_truth_only_where_there_is_one(tmp_path):
    bare, full = ([line.get_label() for line in OUTLINED.legend(CLASSES, truth)] for truth in (False, True))
    assert (bare, full) == (["CSF", "GM"], ["CSF", "GM", "truth, where a prediction differs"])
    bare = panel(tmp_path / "bare.png", squares(), None)
    assert bare.shape[1] == int(2 * COLUMN_PX)
    assert cells(bare, CLASS_COLORS[1])[1] > 100


def test_rows_side_by_side_are_as_wide_as_ever(tmp_path):
    given = {"image": np.ones((40, 40), np.float32), "modality": "t2", "truth": squares(), "classes": CLASSES}
    predictions = {"a": squares(), "b": squares(3), "c": squares()}
    comparison(tmp_path / "rows.png", **given, predictions=predictions, title="rows", overlay=OUTLINED)
    pixels = pixels_of(tmp_path / "rows.png")
    # Three wide pictures where six fit otherwise; five make two lines.
    assert pixels.shape[1] == int(3 * COLUMN_PX)
    assert abs(pixels.shape[0] - 130 * (2 * 2.4 + 2 * 0.2 + 0.84)) <= 2
