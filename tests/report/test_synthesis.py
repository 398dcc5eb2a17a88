"""The figure of synthesized images: what is drawn, in which scale."""

import numpy as np
import pytest
from matplotlib.figure import Figure

from jaxfuse.report.synthesis import synthesis_panel


def titles(figure: Figure) -> list[str]:
    return [ax.get_title() for ax in figure.axes]


def test_a_picture_shows_images_above_their_errors_in_one_scale(saved, tmp_path):
    truth = np.zeros((8, 9), np.float32)
    truth[2:6, 2:7] = np.linspace(0.4, 0.6, 20).reshape(4, 5)
    made = {"good": truth + np.float32(0.1) * (truth > 0), "bad": truth * 0}
    given = {"sources": {"t1": truth * 2}, "made": made, "truth": truth, "target": "flair"}
    synthesis_panel(tmp_path / "a.png", title="", spacing_mm=(1, 1), **given)
    (figure,) = saved
    errors = [f"error, mean {mean}" for mean in ("0.500", "0.100", "0.500")]
    assert titles(figure)[:7] == ["t1", "good", "bad", "real flair", *errors]
    above, below = figure.axes[:4], figure.axes[4:8]
    np.testing.assert_array_equal(above[3].images[0].get_array()[2:6, 2:7], truth[2:6, 2:7])  # as it lies
    for ax, error in zip(below, (truth, 0.1 * (truth > 0), truth), strict=False):
        np.testing.assert_allclose(ax.images[0].get_array(), error, atol=1e-6)
        assert (ax.images[0].norm.vmin, ax.images[0].norm.vmax) == (0, pytest.approx(0.598))
    assert not below[3].images
    # One gray scale for the target, whoever made it.
    assert len({ax.images[0].get_clim() for ax in above[1:]}) == 1


def test_a_volume_shows_three_planes_through_the_label(saved, tmp_path):
    truth = np.random.default_rng(0).uniform(0.1, 1, (7, 8, 9)).astype(np.float32)
    label = np.zeros(truth.shape, np.uint8)
    label[2, 3, 6] = 1
    given = {"sources": {"t1": truth, "t2": truth / 2}, "made": {"Hi-Net": truth * 0.9}, "truth": truth, "label": label}
    synthesis_panel(tmp_path / "a.png", target="flair", title="", spacing_mm=(1, 1, 2), **given)
    (figure,) = saved
    pictures = [ax.images[0].get_array() for ax in figure.axes[3:24:8]]  # of the truth, one a plane
    for picture, cut in zip(pictures, (truth[:, :, 6], truth[:, 3], truth[2]), strict=True):
        np.testing.assert_array_equal(picture, cut.T[::-1, ::-1])
    assert figure.axes[8].get_aspect() == 2  # a coronal row is 2 mm high
    assert sum(title.startswith("error, mean") for title in titles(figure)) == 3


def test_nothing_at_all_can_be_drawn(saved, tmp_path):
    blank = np.zeros((6, 6), np.float32)
    given = {"sources": {"t1": blank}, "made": {"x": blank}, "truth": blank, "target": "t2", "title": ""}
    synthesis_panel(tmp_path / "new" / "a.png", **given)
    assert titles(saved[0])[:3] == ["t1", "x", "real t2"]
    assert (tmp_path / "new" / "a.png").read_bytes().startswith(b"\x89PNG")
