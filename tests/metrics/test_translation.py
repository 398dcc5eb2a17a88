import math

import numpy as np
import pytest

from jaxfuse.metrics.translation import mean_absolute_error, summarize_translated


def test_errors_are_averaged_over_voxels_and_then_over_cases():
    real = np.array([1.0, -2.0, 0.5], np.float32)
    assert mean_absolute_error(real, real + np.array([0.5, -1.0, 0.0], np.float32)) == 0.5
    rows = [{"case": case, "output": "fake t1", "mae": error} for case, error in (("a", 0.25), ("b", 0.75))]
    found = summarize_translated(rows)["fake t1"]["mae"]
    assert (found["mean"], found["std"], found["n"]) == (0.5, pytest.approx(math.sqrt(1 / 8)), 2)
