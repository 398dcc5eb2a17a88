from pathlib import Path

import numpy as np
import pytest
from matplotlib.colors import to_rgb
from PIL import Image

from jaxfuse.report.figures import (
    AXIAL,
    CLASS_COLORS,
    CORONAL,
    SAGITTAL,
    _groups,
    center_of,
    comparison,
    curves,
    plane,
    segmentation_panel,
    translation_panel,
)

CLASSES = ("background", "core", "edema", "enhancing")
MODALITIES = ("t1", "t1ce", "t2", "flair")
COLUMN_PX = 1.55 * 130


def _pixels(path: Path) -> np.ndarray:
    with Image.open(path) as image:
        return np.asarray(image.convert("RGB")).astype(int)


def _image(side: int = 24) -> np.ndarray:
    rng = np.random.default_rng(0)
    return (1 + rng.random((side, side, side, 4))).astype(np.float32)


def _near(pixels: np.ndarray, color: str, tolerance: int = 40) -> np.ndarray:
    return np.abs(pixels - 255 * np.array(to_rgb(color))).max(axis=-1) < tolerance


@pytest.mark.parametrize(
    ("view", "corner"),
    # The voxel that is rightmost / foremost / topmost in both directions of the plane.
    [(AXIAL, (-1, -1, 3)), (CORONAL, (-1, 3, -1)), (SAGITTAL, (3, -1, -1))],
)
def test_right_front_and_top_are_at_the_upper_left(view, corner):
    volume = np.zeros((6, 7, 8))
    volume[corner] = 1
    picture = plane(volume, view, 3)
    expected = [side for axis, side in enumerate(volume.shape) if axis != view.axis]
    assert picture.shape == (expected[1], expected[0])
    assert np.argwhere(picture).tolist() == [[0, 0]]


def test_the_planes_go_through_the_largest_areas_of_the_first_label_map_that_has_any():
    brain = np.ones((9, 9, 9), bool)
    truth, pred = np.zeros((9, 9, 9), int), np.zeros((9, 9, 9), int)
    pred[1:4, 2:7, 5] = 2
    assert center_of([truth, pred], brain) == (2, 4, 5)
    truth[6, 6, 1:4] = 1
    assert center_of([truth, pred], brain) == (6, 6, 2)
    assert center_of([None], brain) == (4, 4, 4)


def test_a_segmentation_panel_has_one_column_per_modality_and_map(tmp_path):
    truth = np.zeros((24, 24, 24), np.uint8)
    truth[14:20, 14:20, 10:16] = 3  # to the right and the front
    segmentation_panel(
        tmp_path / "new" / "panel.png",
        image=_image(),
        modalities=MODALITIES,
        truth=truth,
        predictions={"S_F": truth, "S_A": np.zeros_like(truth)},
        classes=CLASSES,
        title="case",
    )
    pixels = _pixels(tmp_path / "new" / "panel.png")
    assert pixels.shape[1] == int(7 * COLUMN_PX)
    # Color appears in the axial planes of the truth and of S_F only, left of and above their middle.
    top, width = 45, COLUMN_PX
    for column, filled in ((3, False), (4, True), (5, True), (6, False)):
        cell = pixels[top : top + int(width), int(column * width) : int((column + 1) * width)]
        hits = np.argwhere(np.ptp(cell, axis=-1) > 60)
        assert bool(len(hits)) is filled, column
        if filled:
            assert hits.max(axis=0)[0] < width / 2
            assert hits.max(axis=0)[1] < width / 2
    # The legend names every class, present or not.
    legend = pixels[-65:]
    assert all(_near(legend, color, 3).sum() > 50 for color in CLASS_COLORS[1:4])


def test_without_truth_the_panel_has_no_truth_column(tmp_path):
    labels = np.zeros((24, 24, 24), np.uint8)
    segmentation_panel(
        tmp_path / "panel.png",
        image=_image(),
        modalities=MODALITIES,
        truth=None,
        predictions={"S_F": labels},
        classes=CLASSES,
        title="case",
    )
    assert _pixels(tmp_path / "panel.png").shape[1] == int(5 * COLUMN_PX)


def test_more_classes_than_colors_are_refused(tmp_path):
    labels = np.zeros((24, 24, 24), np.uint8)
    with pytest.raises(ValueError, match="at most 8 classes"):
        comparison(
            tmp_path / "c.png",
            image=_image()[..., 0],
            modality="t1",
            truth=labels,
            predictions={},
            classes=tuple("abcdefghi"),
            title="",
        )


def _translate(path: Path, fake_error: float, pairs=(("t1", "t1ce"), ("t2", "flair"))) -> np.ndarray:
    real = _image()
    fake = real.copy()
    fake[..., 2] += fake_error * np.arange(24)[:, None, None]
    translation_panel(path, real=real, fake=fake, cycle=real + 0.01, modalities=MODALITIES, pairs=pairs, title="case")
    return _pixels(path)


def test_a_translation_panel_colors_errors_where_they_are(tmp_path):
    pixels = _translate(tmp_path / "t.png", fake_error=1.0)
    colorful = np.ptp(pixels, axis=-1) > 60
    rows = np.array_split(np.arange(45, pixels.shape[0] - 65), 4)
    cell = int(COLUMN_PX)

    def share(row: int, column: int) -> float:
        return float(colorful[np.ix_(rows[row], range(column * cell, (column + 1) * cell))].mean())

    # Rows: t1 -> t2, t1ce -> flair, t2 -> t1, flair -> t1ce. Only the made t2 is wrong; greys stay grey.
    assert share(0, 3) > 0.2
    assert max(share(1, 3), share(2, 3), share(3, 3)) < 0.02
    assert max(share(row, column) for row in range(4) for column in (0, 1, 2, 4)) < 0.02


def test_groups_that_do_not_make_up_the_modalities_are_refused(tmp_path):
    with pytest.raises(ValueError, match="two equal groups"):
        _translate(tmp_path / "t.png", 0.0, pairs=(("t1",), ("t2", "flair")))


@pytest.mark.parametrize(("rows", "columns", "lines"), [(2, 4, 1), (7, 6, 2)])
def test_a_comparison_wraps_after_six_columns(tmp_path, rows, columns, lines):
    truth = np.zeros((24, 24, 24), np.uint8)
    truth[4:12, 4:12, 4:12] = 2
    comparison(
        tmp_path / "c.png",
        image=_image()[..., 3],
        modality="flair",
        truth=truth,
        predictions={f"row {i}": truth for i in range(rows)},
        classes=CLASSES,
        title="rows",
    )
    pixels = _pixels(tmp_path / "c.png")
    assert pixels.shape[1] == int(columns * COLUMN_PX)
    height = 130 * (1.55 * lines + 0.2 * lines + 0.84)
    assert abs(pixels.shape[0] - height) <= 2
    colored = np.argwhere(np.ptp(pixels[:-65], axis=-1) > 60)[:, 1] // COLUMN_PX
    # All but the place of the plain image; that column's second line holds a prediction.
    assert set(colored.astype(int)) == set(range(0 if lines == 2 else 1, columns))


def _row(step: int, phase: str, split: str, **values: float) -> dict:
    return {"step": step, "phase": phase, "split": split, **values}


def test_values_are_drawn_with_their_own_kind():
    rows = [_row(1, "f", "train", loss=2.0, learning_rate=0.1), _row(2, "f", "train", loss=1.0, learning_rate=0.1)]
    values = {"S_F/dice/ET": 0.5, "S_F/hd95_mm/ET": np.nan, "mae": 0.2, "psnr_db": 20.0}
    rows += [_row(1, "f", "val", **values), _row(2, "f", "val", **{**values, "S_F/hd95_mm/ET": 7.0})]
    groups = _groups(rows)
    assert {what: list(series) for what, series in groups.items()} == {
        "training losses": ["loss"],
        "validation scores": ["S_F/dice/ET"],
        "validation in mm": ["S_F/hd95_mm/ET"],
        "validation errors": ["mae"],
        "validation in dB": ["psnr_db"],
    }
    steps, distances = groups["validation in mm"]["S_F/hd95_mm/ET"]
    assert (steps.tolist(), distances.tolist()) == ([2.0], [7.0])


@pytest.mark.parametrize(("dark", "ink"), [(False, "#33363b"), (True, "#d8dade")])
def test_curves_have_a_row_per_phase_and_suit_the_page(tmp_path, dark, ink):
    rows = [_row(step, phase, "train", loss=1 / step) for phase in ("a", "b") for step in range(1, 60)]
    rows += [_row(step, "b", "val", dice=step / 60) for step in (20, 40)]
    curves(rows, tmp_path / "curves.png", dark=dark)
    with Image.open(tmp_path / "curves.png") as image:
        assert image.size == (int(2 * 3.7 * 150), int(2 * 3.3 * 150))
        pixels = np.asarray(image.convert("RGBA")).astype(int)
    assert (pixels[..., 3] == 0).mean() > 0.5  # the page shows through
    drawn = pixels[pixels[..., 3] == 255][:, :3]
    assert (np.abs(drawn - np.round(255 * np.array(to_rgb(ink)))).max(axis=-1) == 0).sum() > 100
    # Phase a has no validation: its second place stays empty.
    assert not pixels[: pixels.shape[0] // 2 - 20, pixels.shape[1] // 2 + 60 :, 3].any()


def test_no_rows_are_refused(tmp_path):
    with pytest.raises(ValueError, match="no metric rows"):
        curves([], tmp_path / "curves.png")
