"""The figure and the table of synthesized images: what is drawn in which scale, what is printed."""

from __future__ import annotations

import math

import numpy as np
import pytest
from matplotlib.figure import Figure

from jaxfuse.report import canvas
from jaxfuse.report.synthesis import synthesis_panel
from jaxfuse.report.synthesis_table import render_synthesis


@pytest.fixture
def drawn(monkeypatch):
    """The figures that were to be saved."""
    figures: list[Figure] = []
    monkeypatch.setattr(canvas, "save", lambda figure, path: figures.append(figure))
    return figures


def titles(figure: Figure) -> list[str]:
    return [ax.get_title() for ax in figure.axes]


def test_a_picture_shows_images_above_their_errors_in_one_scale(drawn, tmp_path):
    truth = np.zeros((8, 9), np.float32)
    truth[2:6, 2:7] = np.linspace(0.4, 0.6, 20).reshape(4, 5)
    made = {"good": truth + np.float32(0.1) * (truth > 0), "bad": truth * 0}
    synthesis_panel(
        tmp_path / "a.png",
        sources={"t1": truth * 2},
        made=made,
        truth=truth,
        target="flair",
        title="",
        spacing_mm=(1, 1),
    )
    (figure,) = drawn
    assert titles(figure)[:4] == ["t1", "good", "bad", "real flair"]
    assert titles(figure)[4:7] == ["error, mean 0.500", "error, mean 0.100", "error, mean 0.500"]
    above, below = figure.axes[:4], figure.axes[4:8]
    np.testing.assert_array_equal(above[3].images[0].get_array()[2:6, 2:7], truth[2:6, 2:7])  # as it lies
    for ax, error in zip(below, (truth, 0.1 * (truth > 0), truth), strict=False):
        np.testing.assert_allclose(ax.images[0].get_array(), error, atol=1e-6)
        assert (ax.images[0].norm.vmin, ax.images[0].norm.vmax) == (0, pytest.approx(0.598))
    assert not below[3].images
    # One gray scale for the target, whoever made it.
    assert len({ax.images[0].get_clim() for ax in above[1:]}) == 1


def test_a_volume_shows_three_planes_through_the_label(drawn, tmp_path):
    truth = np.random.default_rng(0).uniform(0.1, 1, (7, 8, 9)).astype(np.float32)
    label = np.zeros(truth.shape, np.uint8)
    label[2, 3, 6] = 1
    synthesis_panel(
        tmp_path / "a.png",
        sources={"t1": truth, "t2": truth / 2},
        made={"Hi-Net": truth * 0.9},
        truth=truth,
        target="flair",
        title="",
        spacing_mm=(1, 1, 2),
        label=label,
    )
    (figure,) = drawn
    pictures = [ax.images[0].get_array() for ax in figure.axes[3:24:8]]  # of the truth, one a plane
    for picture, cut in zip(pictures, (truth[:, :, 6], truth[:, 3], truth[2]), strict=True):
        np.testing.assert_array_equal(picture, cut.T[::-1, ::-1])
    assert figure.axes[8].get_aspect() == 2  # a coronal row is 2 mm high
    assert sum(title.startswith("error, mean") for title in titles(figure)) == 3


def test_nothing_at_all_can_be_drawn(drawn, tmp_path):
    blank = np.zeros((6, 6), np.float32)
    synthesis_panel(
        tmp_path / "a.png",
        sources={"t1": blank},
        made={"x": blank},
        truth=blank,
        target="t2",
        title="",
        spacing_mm=None,
    )
    assert titles(drawn[0])[:3] == ["t1", "x", "real t2"]


def test_a_panel_is_written(tmp_path):
    image = np.eye(12, dtype=np.float32)
    path = tmp_path / "new" / "a.png"
    synthesis_panel(path, sources={"t1": image}, made={"x": image / 2}, truth=image, target="t2", title="a")
    assert path.read_bytes().startswith(b"\x89PNG")


def test_the_table_says_what_is_undefined():
    of = {"mean": 25.046, "std": 1.3251, "median": 25.0, "n": 2, "undefined": 1}
    alone = {**of, "std": math.nan, "undefined": 0}
    summary = {
        "cases": 3,
        "definitions": {"SSIM": "of slices"},
        "outputs": {
            "made": {"psnr_db": of, "official_nmse": alone},
            "copy of t1": {"psnr_db": alone, "official_nmse": of},
        },
    }
    lines = render_synthesis(summary).splitlines()
    assert lines[0].split("|")[1:-1] == [" Output     ", "    PSNR (dB) ", "   NMSE, official "]
    assert "25.05 ± 1.33 |          25.0460 |" in lines[2]
    assert lines[-3:] == [
        "Cases: 3; mean ± standard deviation over cases.",
        "made: not finite and left out: PSNR (dB) in 1 of 3 cases.",
        "copy of t1: not finite and left out: NMSE, official in 1 of 3 cases.",
    ]
    assert "SSIM: of slices." in lines
