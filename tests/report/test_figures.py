from pathlib import Path
from typing import Any

import numpy as np
import pytest
from matplotlib import colormaps
from matplotlib.colors import LogNorm, to_hex

from jaxfuse.report import planes
from jaxfuse.report.canvas import CLASS_COLORS
from jaxfuse.report.figures import Ratios, comparison, segmentation_panel, translation_panel
from jaxfuse.report.planes import AXIAL, plane
from tests.report.pictures import near, pixels_of

CLASSES = ("background", "core", "edema", "enhancing")
MODALITIES = ("t1", "t1ce", "t2", "flair")
COLUMN_PX = 1.55 * 130
IMAGE = (1 + np.random.default_rng(0).random((24, 24, 24, 4))).astype(np.float32)
NOTHING = np.zeros((24, 24, 24), np.uint8)


def panel(path: Path, **changes: Any) -> np.ndarray:
    """The pixels of a panel without a truth, whose one prediction finds nothing."""
    given = {"image": IMAGE, "modalities": MODALITIES, "classes": CLASSES, "truth": None, "predictions": {"S": NOTHING}}
    segmentation_panel(path, title="case", **given | changes)
    return pixels_of(path)


def rows(path: Path, truth: np.ndarray, count: int, **changes: Any) -> np.ndarray:
    """The pixels of a comparison of so many rows, each of which finds the truth."""
    given = {"image": IMAGE[..., 3], "modality": "flair", "classes": CLASSES}
    comparison(path, truth=truth, predictions={f"row {i}": truth for i in range(count)}, title="", **given | changes)
    return pixels_of(path)


def test_a_segmentation_panel_has_one_column_per_modality_and_map(tmp_path):
    truth = NOTHING.copy()
    truth[14:20, 14:20, 10:16] = 3  # to the right and the front
    pixels = panel(tmp_path / "new" / "panel.png", truth=truth, predictions={"S_F": truth, "S_A": NOTHING})
    assert pixels.shape[1] == int(7 * COLUMN_PX)
    # Color appears in the axial planes of the truth and of S_F only, left of and above their middle.
    top, width = 45, COLUMN_PX
    for column, filled in ((3, False), (4, True), (5, True), (6, False)):
        cell = pixels[top : top + int(width), int(column * width) : int((column + 1) * width)]
        hits = np.argwhere(np.ptp(cell, axis=-1) > 60)
        assert bool(len(hits)) is filled, column
        assert not filled or (hits.max(axis=0) < width / 2).all()
    # The legend names every class, present or not.
    assert all(near(pixels[-65:], color, 3).sum() > 50 for color in CLASS_COLORS[1:4])
    assert panel(tmp_path / "panel.png").shape[1] == int(5 * COLUMN_PX)  # without a truth, no column of it


def test_ratios_lie_below_their_modalities_in_every_plane(tmp_path):
    ratio = np.full((24, 24, 24), 0.1, np.float32)
    ratio[:, 12:] = 2  # in front
    below = Ratios("attention", {"t1ce": ratio, "flair": ratio}, LogNorm(0.5, 2.0), "times the mean")
    pixels = panel(tmp_path / "panel.png", below=below)
    assert pixels.shape[1] == int(5 * COLUMN_PX + 0.8 * 130)
    high, low = (near(pixels, to_hex(colormaps["coolwarm"](end)), 3) for end in (1.0, 0.0))
    bar = int(5 * COLUMN_PX)
    columns = np.bincount((np.argwhere((high | low)[:, :bar])[:, 1] // COLUMN_PX).astype(int), minlength=5)
    np.testing.assert_array_equal(columns > 0.05 * columns.sum(), [False, True, False, True, False])
    # Front is up in the axial plane, and left in the sagittal one; the coronal plane cuts what is in front.
    found = np.flatnonzero(high[:, :bar].any(axis=1))
    lines = np.split(found, np.flatnonzero(np.diff(found) > 40) + 1)
    both = [(high[line].sum() > 500, low[line].sum() > 500) for line in lines]
    assert both == [(True, False), (True, False), (True, True)]


def _translate(path: Path, fake_error: float, pairs=(("t1", "t1ce"), ("t2", "flair"))) -> np.ndarray:
    fake = IMAGE.copy()
    fake[..., 2] += fake_error * np.arange(24)[:, None, None]
    given = {"fake": fake, "cycle": IMAGE + 0.01, "modalities": MODALITIES, "pairs": pairs, "title": "case"}
    translation_panel(path, real=IMAGE, **given)
    return pixels_of(path)


def test_a_translation_panel_colors_errors_where_they_are(tmp_path):
    pixels = _translate(tmp_path / "t.png", fake_error=1.0)
    colorful = np.ptp(pixels, axis=-1) > 60
    rows = np.array_split(np.arange(45, pixels.shape[0] - 65), 4)
    cell = int(COLUMN_PX)

    def share(row: int, column: int) -> float:
        return float(colorful[np.ix_(rows[row], range(column * cell, (column + 1) * cell))].mean())

    # Rows: t1 -> t2, t1ce -> flair, t2 -> t1, flair -> t1ce. Only the made t2 is wrong; grays stay gray.
    assert share(0, 3) > 0.2
    assert max(share(*place) for place in np.ndindex(4, 5) if place != (0, 3)) < 0.02


def test_what_cannot_be_drawn_is_refused(tmp_path):
    with pytest.raises(ValueError, match="two equal groups"):
        _translate(tmp_path / "t.png", 0.0, pairs=(("t1",), ("t2", "flair")))
    with pytest.raises(ValueError, match="at most 8 classes"):
        rows(tmp_path / "c.png", NOTHING, 0, classes=tuple("abcdefghi"))


@pytest.mark.parametrize(("count", "columns", "lines"), [(2, 4, 1), (7, 6, 2)])
def test_a_comparison_wraps_after_six_columns(tmp_path, count, columns, lines):
    truth = NOTHING.copy()
    truth[4:12, 4:12, 4:12] = 2
    pixels = rows(tmp_path / "c.png", truth, count)
    assert pixels.shape[1] == int(columns * COLUMN_PX)
    assert abs(pixels.shape[0] - 130 * (1.55 * lines + 0.2 * lines + 0.84)) <= 2
    colored = np.argwhere(np.ptp(pixels[:-65], axis=-1) > 60)[:, 1] // COLUMN_PX
    # All but the place of the plain image; that column's second line holds a prediction.
    assert set(colored.astype(int)) == set(range(0 if lines == 2 else 1, columns))


def _slab() -> tuple[np.ndarray, np.ndarray]:
    """A volume of one axial slice, of no symmetry, with a label of two classes."""
    image, label = IMAGE[:, :18, :1].copy(), np.zeros((24, 18, 1), np.uint8)
    image[:5, :3] = 0
    label[14:20, 9:15], label[4:6, 12:14] = 3, 1
    return image, label


@pytest.mark.parametrize("draw", [segmentation_panel, comparison, translation_panel])
def test_slices_are_drawn_as_the_axial_line_of_their_volume(tmp_path, monkeypatch, draw):
    monkeypatch.setattr(planes, "VIEWS", (AXIAL,))
    image, label = _slab()
    common = {"title": "case"} | ({} if draw is comparison else {"modalities": MODALITIES})
    common |= {"pairs": (MODALITIES[:2], MODALITIES[2:])} if draw is translation_panel else {"classes": CLASSES}

    def given(turn):
        if draw is translation_panel:
            made = image + np.arange(24, dtype=np.float32)[:, None, None, None] / 24
            return {"real": turn(image), "fake": turn(made), "cycle": turn(image), "label": turn(label)}
        shown = {"image": turn(image[..., 0]), "modality": "t1"} if draw is comparison else {"image": turn(image)}
        return shown | {"truth": turn(label), "predictions": {"row": turn(np.roll(label, 2, 1))}}

    draw(tmp_path / "slice.png", **given(lambda array: plane(array, AXIAL, 0)), **common, spacing_mm=(2.0, 1.0))
    draw(tmp_path / "volume.png", **given(lambda array: array), **common, spacing_mm=(1.0, 2.0, 5.0))
    volume, picture = (pixels_of(tmp_path / f"{name}.png") for name in ("volume", "slice"))
    # The note below the legend differs: a slice has no number.
    np.testing.assert_array_equal(volume[:-24], picture[:-24])
    if draw is segmentation_panel:  # 36 mm high and 24 mm wide, title and legend
        assert picture.shape[1] == int(6 * COLUMN_PX)
        assert abs(picture.shape[0] - 130 * (1.55 * 36 / 24 + 0.2 + 0.84)) <= 2
