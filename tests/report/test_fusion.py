"""The figure of fused images: what is drawn on which plane."""

import numpy as np

from jaxfuse.io.png import png_size
from jaxfuse.report.fusion import fusion_panel


def test_three_planes_of_each_volume_in_gray_or_color(saved, tmp_path):
    volume = np.zeros((9, 8, 7), np.uint8)
    volume[3:6, 3:6, 3:6] = np.arange(100, 127).reshape(3, 3, 3)
    rgb = np.stack([volume, 0 * volume, 255 - volume], axis=-1)
    path = tmp_path / "new" / "preview.png"
    given = {"images": [volume, rgb], "headers": ["T1", "fused"], "shown": volume > 0}
    fusion_panel(path, **given, title="fused by a run", spacing_mm=(1, 1, 2))
    assert min(png_size(path)) > 100
    (figure,) = saved
    assert [ax.get_title() for ax in figure.axes[:2]] == ["T1", "fused"]
    pictures = [ax.images[0].get_array() for ax in figure.axes]
    assert len(pictures) == 6
    # Cut at a margin of 2 around the box, and upright: row 0 is the front, column 0 the right.
    axial = volume[1:8, 1:8, 4].T[::-1, ::-1]
    np.testing.assert_array_equal(pictures[0], np.repeat(axial[..., None], 3, -1))
    np.testing.assert_array_equal(pictures[1], np.stack([axial, 0 * axial, 255 - axial], -1))
    assert figure.axes[2].get_aspect() == 2  # a coronal row is 2 mm high
    assert figure.axes[0].get_aspect() == 1


def test_pictures_are_drawn_as_they_lie(saved, tmp_path):
    picture = np.arange(48, dtype=np.uint8).reshape(6, 8)
    color = np.stack([picture, picture.max() - picture, picture], -1)
    given = {"images": [picture, color], "headers": ["MRI", "fused"], "shown": picture >= 0}
    fusion_panel(tmp_path / "a.png", **given, title="", spacing_mm=(1, 1))
    for ax, expected in zip(saved[0].axes, (np.stack([picture] * 3, -1), color), strict=True):
        np.testing.assert_array_equal(ax.images[0].get_array(), expected)
