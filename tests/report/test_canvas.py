"""Color bars."""

import pytest
from matplotlib.cm import ScalarMappable
from matplotlib.colors import LogNorm, Normalize

from jaxfuse.report.canvas import color_bar, panel_grid


@pytest.mark.parametrize(
    ("norm", "labels"),
    [(LogNorm(1 / 3, 3), ["0.33", "1", "3"]), (Normalize(0, 1), ["0.0", "0.2", "0.4", "0.6", "0.8", "1.0"])],
)
def test_a_logarithmic_scale_is_marked_at_its_ends_and_at_one(norm, labels):
    figure, axes = panel_grid([(1, 1)], 2, right_inch=0.8)
    color_bar(figure, axes, ScalarMappable(norm, "gray"), "what it means")
    figure.draw_without_rendering()
    (bar,) = (ax for ax in figure.axes if ax.get_ylabel() == "what it means")
    shown = [label.get_text() for label in bar.get_yticklabels()]
    assert shown == labels
    assert bar.get_yticks(minor=True).size == 0
