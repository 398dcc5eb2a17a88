import numpy as np
import pytest

from jaxfuse.metrics.calibration import BINS
from jaxfuse.report.calibration import mean_bins, reliability_figure


def _row(number, confidence, accuracy):
    return {"bin": number, "confidence": confidence, "accuracy": accuracy, "share": 0.5}


def test_a_bin_is_the_mean_of_the_cases_that_have_it(tmp_path):
    found = mean_bins([_row(9, 0.64, 0.5), _row(9, 0.66, 0.7), _row(14, 0.99, 1.0)])
    assert found[9] == pytest.approx([0.65, 0.6, 0.5])
    assert found[14] == pytest.approx([0.99, 1.0, 0.5])
    assert np.isnan(found).all(axis=1).sum() == BINS - 2
    for dark in (False, True):
        reliability_figure({"a": found, "b": found}, tmp_path / f"{dark}.png", dark=dark)
        assert (tmp_path / f"{dark}.png").read_bytes().startswith(b"\x89PNG")
