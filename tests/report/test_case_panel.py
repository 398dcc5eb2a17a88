from base64 import b64decode

import numpy as np
import pytest

from jaxfuse.labels import label_scheme
from jaxfuse.report.canvas import CLASS_COLORS, COLUMN_INCH
from jaxfuse.report.case_panel import panel
from jaxfuse.report.pictured import Pictured
from tests.made_cases import head, nested_cubes
from tests.report.pictures import near, pixels_of

SHAPE, SCHEME = (24, 20, 16), label_scheme("brats")
COLUMN = 130 * COLUMN_INCH  # pixels


def shown(image: np.ndarray | None, *names: str, shape: tuple[int, int, int] = SHAPE) -> Pictured:
    truth = nested_cubes(shape, {2: 4, 1: 3, 3: 2})
    return Pictured(image, "t1", truth, {name: np.roll(truth, 2, axis=0) for name in names}, (1.0, 1.0, 1.5))


@pytest.fixture
def pixels(tmp_path):
    def drawn(case: str, of: Pictured) -> np.ndarray:
        (tmp_path / "panel.png").write_bytes(b64decode(panel(case, of, SCHEME).partition(",")[2]))
        return pixels_of(tmp_path / "panel.png")

    return drawn


def test_a_figure_has_a_column_for_the_image_the_truth_and_each_method(pixels):
    widths = [pixels("a", of).shape[1] for of in (shown(None), shown(head(SHAPE, 0)["t1"], "m", "n"))]
    assert widths == pytest.approx([COLUMN, 4 * COLUMN], abs=2)


def test_without_an_image_labels_lie_on_black(pixels):
    found = pixels("a", shown(None, "m"))
    colors = sum(near(found, color, 12) for color in CLASS_COLORS[:4])
    assert colors.mean() > 0.5
    # Voxels that nothing marks are as dark as the ground: no plateau of gray.
    gray = (np.ptp(found, axis=-1) < 3) & (found[..., 0] > 60) & (found[..., 0] < 200)
    assert gray.mean() < 0.05


def test_a_single_slice_has_one_plane(pixels):
    flat = (24, 20, 1)
    one = Pictured(np.ones(flat, np.int16), "t1", np.ones(flat, np.uint8), {}, (1.0, 2.0, 5.0))
    assert pixels("a", one).shape[0] < 2 * pixels("a", one).shape[1]


def test_any_name_can_stand_above_a_picture(pixels):
    names = "$a$", "b$", "truth", "x" * 30 + "1", "x" * 30 + "2", "<script>"
    assert pixels("a$b$c_{", shown(None, *names)).shape[1] == pytest.approx(7 * COLUMN, abs=2)
